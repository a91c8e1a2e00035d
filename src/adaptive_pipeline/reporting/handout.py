"""The model folder that the recommendation's command predicts with."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adaptive_inference.files import read_json, write_json, write_text
from adaptive_pipeline.reporting.aggregate import Row
from adaptive_pipeline.reporting.collect import Point, Results
from adaptive_pipeline.reporting.model_card import model_card
from adaptive_pipeline.reporting.names import static_layers
from adaptive_pipeline.reporting.recommendation import Choice

WEIGHTS = "*.safetensors"


def hand_out(results: Results, rows: Sequence[Row], choice: Choice, runs: Path, out: Path) -> bool:
    """Copy the recommended model with its calibration and card to ``out / choice.model``.

    Returns
    -------
    bool
        False where nothing is recommended or ``runs`` holds no weights of it (kept records do not).
    """
    row, point = choice.row, choice.point
    if row is None or point is None:
        return False
    run = point.cell.folder(runs)
    source = run / "train" / "model"
    if row.method != point.cell.method:
        source /= str(static_layers(row.method))
    calibration = run / "calibration" / "calibration.json"
    if not calibration.is_file() or not any(source.rglob(WEIGHTS)):
        return False
    target = out / choice.model
    _copy(source, target)
    for name in ("schema.json",):  # of a cascade's member: it may stand beside the members only
        if not (target / name).is_file() and (source.parent / name).is_file():
            shutil.copyfile(source.parent / name, target / name)
    write_json(target / "calibration.json", calibration_of(read_json(calibration), row, point))
    write_text(target / "README.md", model_card(results, rows, choice))
    return True


def _copy(source: Path, target: Path) -> None:
    """Copy a tree's contents as plain, writable files, whatever links the cache has made of them."""
    for file in sorted(source.rglob("*")):
        if file.is_file():
            goal = target / file.relative_to(source)
            goal.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, goal)


def calibration_of(body: Mapping[str, Any], row: Row, point: Point) -> dict[str, Any]:
    """Return the calibration with the recommended point as the default to predict with.

    A member of a cascade that is used alone keeps its own temperature only; it has one exit, so the rule is ``fixed``
    at exit index 0.
    """
    body = dict(body)
    if row.method == point.cell.method:
        recommended = {"rule": row.rule, "threshold": point.threshold, "operating_point": row.operating_point}
        return body | {"recommended": recommended}
    index = int(point.threshold or 0)
    for key in ("temperatures", "certainty_min", "certainty_max", "exits"):
        if body.get(key):
            body[key] = [body[key][index]]
    body["reliability"] = {
        when: curves[index : index + 1] if curves else curves
        for when, curves in (body.get("reliability") or {}).items()
    }
    body["operating_points"] = [
        {key: value for key, value in item.items() if key != "method"} | {"threshold": 0.0}
        for item in body.get("operating_points") or []
        if item.get("method") == row.method
    ]
    body["recommended"] = {"rule": "fixed", "threshold": 0.0, "operating_point": row.operating_point}
    return body
