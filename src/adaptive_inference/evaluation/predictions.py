"""What was answered to every evaluated row at each operating point: what paired comparisons are made of.

Ids, labels and answers only, no text of examples: small enough to be kept with the records.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from adaptive_inference.calibration.operating_point import OperatingPoint
from adaptive_inference.evaluation.candidate import Candidate
from adaptive_inference.evaluation.points import row_key, sweep_point
from adaptive_inference.files import plain


def point_predictions(point: OperatingPoint, candidate: Candidate) -> dict[str, Any] | None:
    """Return the answers of an operating point with the keys of its row, or None where no threshold reaches it.

    Parameters
    ----------
    point
        Of the method.
    candidate
        Who answers; see `Candidate.answering`.

    Returns
    -------
    dict or None
        ``method``, ``rule``, ``operating_point`` and ``predictions``: ``(N,)`` class indices or scores.
    """
    if not point.reached:
        return None
    return row_key(point, candidate.method) | {"predictions": sweep_point(point, candidate).predictions[0]}


def predictions_text(candidate: Candidate, points: Iterable[dict[str, Any] | None]) -> str:
    """Return ``predictions.json``: ids and labels of the N rows, the width of the logits, and one line per point.

    Parameters
    ----------
    candidate
        The method itself; its members answer the same rows.
    points
        Of `point_predictions`; those without answers are left out.
    """
    lines = ",\n".join(_line(point) for point in points if point is not None)
    head = {"ids": candidate.outputs.ids, "labels": candidate.outputs.labels}
    columns = "".join(f'"{name}":{_line(value)},\n' for name, value in head.items())
    return f'{{{columns}"num_classes":{candidate.yardstick.num_classes},\n"points":[\n{lines}\n]}}\n'


def _line(value: Any) -> str:
    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)
