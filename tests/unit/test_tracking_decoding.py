"""What MLflow shows of decoding: the threshold that stands for a method, every threshold as a table, and pages of texts."""

import csv
import io

import pytest
from synthetic_texts import THRESHOLDS, text_params, write_texts

from adaptive_inference.files import write_text
from adaptive_pipeline.grid import Cell
from adaptive_pipeline.runs.store import open_runs
from adaptive_pipeline.tracking.given import Background
from adaptive_pipeline.tracking.points import all_points, curves_table, shown_point
from adaptive_pipeline.tracking.store import Store
from adaptive_pipeline.tracking.view import LISTED


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("decoded") / "runs"
    write_texts(folder, text_params(seeds=[0]))
    return folder


def evaluation(root, method):
    return open_runs(root).finished["evaluate_decoding", Cell("transduce", "t5", 0, method)]


def metrics(item):
    return {name: value for name, _, value in all_points(item)}


def test_a_threshold_chosen_for_quality_stands_for_a_method_with_its_own_time(root):
    item = evaluation(root, "free")
    shown = shown_point(item)
    assert (shown.name, shown.within_goal, shown.threshold) == ("min_quality", True, 0.5)
    assert shown.params == {"rule": "keep", "threshold": "0.5"}
    found = metrics(item)
    assert found["goal_met"] == 1.0
    assert found["blocks"] == 4.0
    assert found["layers_speedup"] == pytest.approx(6 / 4)
    assert found["wallclock_speedup"] == 1.5


def test_a_policy_without_a_threshold_has_figures_and_no_threshold(root):
    shown = shown_point(evaluation(root, "static_exit"))
    assert (shown.name, shown.params) == ("none", {})
    assert shown.figures["quality"] > 0


def test_every_threshold_is_a_line_of_a_table_and_no_metric(root):
    item = evaluation(root, "calm")
    rows = list(csv.DictReader(io.StringIO(curves_table(item))))
    assert [float(row["threshold"]) for row in rows] == THRESHOLDS
    assert {row["policy"] for row in rows} == {"calm"}
    assert all(float(row["quality"]) > 0 for row in rows)
    assert len([name for name in metrics(item) if name == "quality"]) == 1
    assert curves_table(evaluation(root, "full")) == ""


def test_a_run_of_an_evaluation_is_listed_and_has_its_files(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    item = evaluation(root, "free")
    write_text(item.folder / "pictures/depths.html", "<p>depths</p>")
    store, calibration = Store(), ("calibrate_decoding", item.key[1])
    for given in (item, open_runs(root).finished[calibration]):
        assert store.publish(given, Background())
    experiment = store.client.get_experiment_by_name("transduce")
    (run,) = store.client.search_runs([experiment.experiment_id], LISTED)
    assert run.data.tags["stage"] == "evaluate_decoding"
    files = {file.path for file in store.client.list_artifacts(run.info.run_id)}
    assert files == {"confidences.json", "curves.csv", "metrics.json", "pictures", "timings.json"}
