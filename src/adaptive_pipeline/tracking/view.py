"""The page of runs that `make ui` opens: which runs, which columns, in which order.

MLflow keeps a view under a name as a tag of the experiment, and its address names the view. So the page comes with the
store, whoever serves it, and stands in MLflow's own list of saved views.
"""

from __future__ import annotations

import json
from urllib.parse import urlencode

VIEW = "methods"  #: key of the view in its address
VIEW_TAG = f"mlflow.sharedViewState.{VIEW}"
#: Columns from left to right after the run's name -> their width.
COLUMNS = {
    "params.`method`": 120,
    "params.`seed`": 55,
    "params.`rule`": 100,
    "metrics.`quality`": 80,
    "metrics.`goal_met`": 85,
    "metrics.`layers_speedup`": 120,
    "metrics.`flops_speedup`": 115,
    "metrics.`wallclock_speedup`": 140,
    "tags.`shown_point`": 120,
    "tags.`preset`": 150,
}


#: The runs that it lists: those of evaluations, of classifiers and of decoding, have this tag.
LISTED = "tags.shown_point != ''"


def saved_view() -> str:
    """Return the value of the tag: the evaluations, the fastest first."""
    state = {
        "searchFilter": LISTED,
        "orderByKey": "metrics.`flops_speedup`",
        "orderByAsc": False,
        "selectedColumns": list(COLUMNS),
        "columnOrder": list(COLUMNS),
        "columnWidths": COLUMNS,
    }
    return json.dumps(
        {"name": "Methods, the fastest first", "createdAt": 0, "updatedAt": 0, "state": json.dumps(state)}
    )


def runs_page(server: str, experiment_id: str) -> str:
    """Return the address of the view of one experiment on a server, without the pages for language-model applications."""
    return _page(server, f"{experiment_id}/runs", viewStateShareKey=VIEW)


def file_page(server: str, experiment_id: str, run_id: str, name: str) -> str:
    """Return the address of one file of a run, among its others."""
    return _page(server, f"{experiment_id}/runs/{run_id}/artifacts/{name}")


def _page(server: str, where: str, **view: str) -> str:
    query = urlencode(view | {"workflowType": "machine_learning"})
    return f"{server.rstrip('/')}/#/experiments/{where}?{query}"
