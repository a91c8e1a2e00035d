"""Gather a method's run into one folder that can be loaded, copied and published. Loads no torch."""

from __future__ import annotations

import shutil
from collections.abc import Container, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from adaptive_inference.backbones.packaged import WEIGHT_FILE
from adaptive_inference.calibration.answers import Answers
from adaptive_inference.calibration.operating_point import Goal, OperatingPoint, Setting
from adaptive_inference.errors import UserError
from adaptive_inference.exits.deployment import check_deployment, is_deployment
from adaptive_inference.exits.layout import CALIBRATION_FILE, RUN_MODEL, open_model
from adaptive_inference.exits.outputs import ExitOutputs
from adaptive_inference.files import check_form, read_object, write_json, write_text
from adaptive_inference.serving.card import CARD_FILE, CardData, CardPoint, card_of, render
from adaptive_inference.serving.confidences import Confidences, answer_confidences
from adaptive_inference.serving.metadata import NO_ENCODER, Encoder
from adaptive_inference.serving.setting import default_setting, usable_points
from adaptive_inference.settings.inputs import Backbone

#: Version of the records that are read here; docs/compatibility.md says what it promises.
RECORD_VERSION = 2
#: In a method's run folder: the record of its training, and what its exits answer to each split.
RUN_TRAINING, RUN_ANSWERS = RUN_MODEL.with_name("metrics.json"), Path("answers")


def export(run: Path, out: Path, deployment: str = "torch") -> None:
    """Write a run's model, its calibration and its card into a folder.

    Parameters
    ----------
    run
        A method's run folder, or an exported one; see `exits.layout`.
    out
        Made here; must not exist or be empty.
    deployment
        One of `exits.deployment.DEPLOYMENTS`; an ONNX one holds graphs in place of weights, stopped where the recommended
        rule can decide.

    Raises
    ------
    UserError
        There is no model, it is not calibrated, a record of it is of another version, ``out`` holds something, or the
        deployment does not run such a model.
    """
    check_deployment(deployment)
    saved = open_model(run)
    if saved.calibration is None:
        raise UserError(f"{run} has no {CALIBRATION_FILE} of its model; calibrate the model first")
    if is_deployment(saved.home):
        raise UserError(
            f"{run} holds graphs, which are exported already; name the run or folder with the weights"
        )
    if not has_weights(saved.home):
        raise UserError(f"{saved.home} holds no weights; train the model again")
    check_empty(out)
    figures = {} if saved.evaluation is None else _evaluated(saved.evaluation)
    points = [
        CardPoint(point, **figures.get((point.goal, point.setting), {}))
        for point in usable_points(saved.calibration)
    ]
    card = replace(card_of(run, points), origin=encoder_of(run))
    if deployment == "torch":
        copy_model(saved.home, out, with_confidences(saved.calibration, run))
    else:
        from adaptive_inference.serving.onnx_export import write_deployment

        write_deployment(run, deployment, out)
        copy_files(saved.home, out, (WEIGHT_FILE, CALIBRATION_FILE))
        told = "The figures above are those of the PyTorch model that the graphs were made of."
        card = replace(card, deployment=deployment, remarks=(*card.remarks, told))
    write_card(out, card)


def with_confidences(calibration: Mapping[str, Any], run: Path) -> dict[str, Any]:
    """Return a calibration with the confidences of the run's answers; see `add_confidences`.

    Parameters
    ----------
    calibration
        Content of a ``calibration.json``: of the run's model, or of one exit of it.
    run
        A method's run folder. Where it does not hold the answers that the calibration was made from (any more), nothing
        is added, and the server knows no drift.
    """
    file = run / RUN_ANSWERS / f"{calibration.get('calibrated_on')}.safetensors"
    if not file.is_file():
        return dict(calibration)
    return add_confidences(calibration, Answers.load(file).outputs)


def add_confidences(calibration: Mapping[str, Any], outputs: ExitOutputs) -> dict[str, Any]:
    """Return a calibration with the confidences of its answers, which a server holds its own against; see `confidences`.

    Parameters
    ----------
    calibration
        Content of a ``calibration.json``: of a model, or of one exit of it.
    outputs
        Of that model, on the rows that it was calibrated on.
    """
    exits = list(calibration["exits"])
    if len(exits) < len(outputs.exits):
        outputs = outputs.alone(list(outputs.exits).index(exits[0]))
    found = answer_confidences(outputs, calibration, default_setting(calibration, len(exits)))
    return dict(calibration) | ({} if found is None else {"confidences": Confidences.of(found).to_json()})


def encoder_of(run: Path) -> Encoder:
    """Return what a run's training was told of its encoder, or, of an exported folder, what its card says of it."""
    file, fix = run / RUN_TRAINING, "train the model again"
    if not file.is_file():
        return Encoder.on_card(run / CARD_FILE) if (run / CARD_FILE).is_file() else NO_ENCODER
    params = read_record(file, fix).get("params")
    found = (
        [params[name] for name in params if name.startswith("backbones.")] if isinstance(params, dict) else []
    )
    if len(found) != 1:
        raise UserError(f"{file} does not name one encoder; {fix}")
    check_form(Backbone, found[0], file, fix)
    return Encoder.of(Backbone(**found[0]))


def _evaluated(file: Path) -> dict[tuple[Goal, Setting], dict[str, float | None]]:
    """Return what an evaluation's record says of each operating point."""
    fix, names = "evaluate the model again", ("quality", "layers_speedup", "flops_speedup")
    body = read_record(file, fix)
    try:
        rows = [(OperatingPoint.from_json(row["point"]), row) for row in body["rows"]]
        return {(point.goal, point.setting): {name: row[name] for name in names} for point, row in rows}
    except (KeyError, TypeError, UserError) as error:
        raise UserError(f"{file} is no record of an evaluation ({error}); {fix}") from error


def check_empty(out: Path) -> None:
    """Refuse a folder to write into that holds something."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists and is not an empty folder; name another one, or remove it")


def read_record(file: Path, fix: str) -> dict[str, Any]:
    """Read a record of a run, of the version that is read here."""
    body = read_object(file, fix)
    version = body.get("version", 1)
    if version != RECORD_VERSION:
        raise UserError(f"{file} is a record of version {version}, this code reads {RECORD_VERSION}; {fix}")
    return body


def has_weights(home: Path) -> bool:
    """Whether a model folder holds more than its description: kept records do not."""
    return is_deployment(home) or any(home.rglob("*.safetensors"))


def copy_model(home: Path, out: Path, calibration: Mapping[str, Any]) -> None:
    """Copy a model folder, with a calibration."""
    copy_files(home, out)
    write_json(out / CALIBRATION_FILE, calibration)


def copy_files(home: Path, out: Path, left_out: Container[str] = ()) -> None:
    """Copy a folder as plain, writable files, whatever links a cache has made of them, but those of some names."""
    for file in sorted(home.rglob("*")):
        if file.is_file() and file.name not in left_out:
            target = out / file.relative_to(home)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)


def write_card(folder: Path, data: CardData) -> None:
    """Write the card into a model's folder."""
    write_text(folder / CARD_FILE, render(data))
