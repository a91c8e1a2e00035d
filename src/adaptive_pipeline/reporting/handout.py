"""The model folder that the recommendation's command predicts with, and what its card tells of the comparison."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from adaptive_inference.calibration.operating_point import OperatingPoint
from adaptive_inference.exits.layout import CALIBRATION_FILE, RUN_CALIBRATION, RUN_MODEL
from adaptive_inference.files import read_json
from adaptive_inference.serving.card import CardData, CardPoint, card_of
from adaptive_inference.serving.chosen import calibration_of
from adaptive_inference.serving.export import (
    copy_files,
    copy_model,
    has_weights,
    with_confidences,
    write_card,
)
from adaptive_inference.serving.metadata import Dataset, Encoder
from adaptive_pipeline.reporting.choice import Choice, Deployment
from adaptive_pipeline.reporting.frame import Results
from adaptive_pipeline.reporting.names import method_name
from adaptive_pipeline.reporting.text.recommendation import model_remarks
from adaptive_pipeline.reporting.text.sentences import chance_sentence, leak_warning
from adaptive_pipeline.runs.checksums import refuse_damaged


def hand_out(results: Results, choice: Choice, runs: Path, out: Path) -> bool:
    """Copy the recommended model with its calibration and card to ``out / choice.model``.

    Returns
    -------
    bool
        False where nothing is recommended or ``runs`` holds no weights of it (kept records do not).

    Raises
    ------
    UserError
        Model or calibration was damaged since its stage wrote it.
    """
    if choice.cell is None or choice.chosen is None:
        return False
    if choice.deployment is not None and choice.deployment.name != "torch":
        return _hand_out_graphs(results, choice, out / choice.model)
    run, point = choice.used.folder(runs), choice.point(results.params)
    source, calibration = run / RUN_MODEL, run / RUN_CALIBRATION
    member = point.setting.member if point else None
    if member is not None:
        source /= str(member)
    if not calibration.is_file() or not has_weights(source):
        return False
    for path in (run / RUN_MODEL, calibration):
        refuse_damaged(path)
    target = out / choice.model
    body = with_confidences(calibration_of(read_json(calibration), point), run)
    copy_model(source, target, body)
    points = (
        _deployed_points(body, choice.deployment) if choice.deployment else card_points(body, results, choice)
    )
    write_card(target, told_of(card_of(target, points), results, choice))
    return True


def _hand_out_graphs(results: Results, choice: Choice, target: Path) -> bool:
    """Copy the deployment that `choose_deployment` keeps, with its card; see `hand_out`."""
    assert choice.cell is not None
    assert choice.deployment is not None
    stage = results.runs.folder("choose_deployment", replace(choice.cell, method=""))
    if stage is None or not (stage / "model").is_dir():
        return False
    refuse_damaged(stage)
    source = stage / "model"
    copy_files(source, target)
    points = _deployed_points(read_json(target / CALIBRATION_FILE), choice.deployment)
    write_card(target, told_of(card_of(target, points), results, choice))
    return True


def _deployed_points(calibration: Mapping[str, Any], deployment: Deployment) -> list[CardPoint]:
    """Return the point of the chosen deployment, as it was measured: no other was, and none is on the card."""
    recommended, row = calibration.get("recommended"), deployment.row
    if recommended is None or row.quality is None or row.layers_speedup is None:
        return []
    point = OperatingPoint.from_json(recommended)
    return [CardPoint(point, row.quality, row.layers_speedup, row.flops_speedup)]


def card_points(calibration: Mapping[str, Any], results: Results, choice: Choice) -> list[CardPoint]:
    """Return the operating points of a model that a user may choose among, as they were measured on its seed."""
    points, marked = results.points, choice.marked
    own = points[points.cell == choice.cell]
    own = own[(own.method == (marked.method if marked else "full")) & own.measured & own.attainable]
    measured = {(seen.rule, seen.threshold): seen for seen in own.itertuples()}
    if marked:
        measured[marked.rule, marked.threshold] = marked
    found = [OperatingPoint.from_json(item) for item in calibration["operating_points"]]
    pairs = ((item, measured.get((item.setting.rule, item.setting.threshold))) for item in found)
    return [
        CardPoint(
            item,
            seen.quality,
            seen.layers_speedup,
            None if pd.isna(seen.flops_speedup) else seen.flops_speedup,
        )
        for item, seen in pairs
        if seen is not None and item.setting.member is None
    ]


def _key(choice: Choice) -> str:
    """Return the key, in tables, of the model that is handed out."""
    if choice.deployment is not None:
        return choice.deployment.row.method
    return choice.marked.method if choice.marked else "full"


def told_of(card: CardData, results: Results, choice: Choice) -> CardData:
    """Return the card with what the comparison says of its model."""
    remarks = [
        *leak_warning(results.params),
        *model_remarks(choice, results.params),
        chance_sentence(choice.chance) if choice.chance else "",
    ]
    backbone = results.params.backbone(choice.backbone)
    return replace(
        card,
        title=method_name(_key(choice)),
        encoder=f"backbone `{choice.backbone}`, {backbone.weights}",
        origin=Encoder.of(backbone),
        dataset=Dataset.of(results.params.tasks[choice.task]),
        remarks=tuple(remark for remark in remarks if remark),
    )
