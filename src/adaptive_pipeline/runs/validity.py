"""Which records belong to the params at hand: a number of another setting is never reported as this one's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from adaptive_inference.by_name import is_own
from adaptive_inference.errors import UserError
from adaptive_inference.own_code import digest_own_code
from adaptive_pipeline.grid import Cell
from adaptive_pipeline.params import Params
from adaptive_pipeline.runs.deployment_records import DeploymentRecord, ExportRecord
from adaptive_pipeline.runs.records import (
    RecommendationRecord,
    RecommendedRecord,
    Record,
    ScoresRecord,
    TrainingRecord,
    model_of,
)
from adaptive_pipeline.runs.store import Key, Runs
from adaptive_pipeline.runs.text_records import TextTrainingRecord

#: Stages of a whole seed: the choice among its methods, the measuring of what was chosen, and its deployments.
CHOICES = ("recommend", "evaluate_recommended", "export_model", "choose_deployment")
#: Stages of the second grid.
TEXT_STAGES = (
    "prepare_texts", "train_free", "assign_model", "calibrate_decoding", "answer_texts", "evaluate_decoding",
)  # fmt: skip


def asked_for(stage: str, cell: Cell, params: Params) -> bool:
    """Whether the params ask for what a stage makes of a cell."""
    if stage in TEXT_STAGES:
        return params.text_grid.has(cell, training=stage == "train_free")
    if stage == "extract_saliencies":
        return replace(cell, method="") in params.grid and cell.method in params.token_scores
    if stage == "score_rationales" and cell.method not in params.explanations.methods:
        return False
    return cell in params.grid


def chain(stage: str, cell: Cell, params: Params) -> list[Key]:
    """Return the keys of all records that a stage's record stands on, its own last."""
    if stage in TEXT_STAGES:
        return _text_chain(stage, cell, params)
    data, full = ("prepare_data", replace(cell, method="")), ("train", replace(cell, method="full"))
    if stage == "prepare_data":
        return [data]
    if stage == "train":
        return [data, *_trained_from(cell, params), ("train", cell)]
    if stage in (*CHOICES, "extract_saliencies"):
        return [data, full, (stage, cell)]
    links = [data, full, *_trained_from(cell, params), ("train", cell)]
    if stage in ("evaluate_batch1", "score_rationales"):  # calibration says which model is at hand
        links.append(("calibrate_thresholds", cell))
    links.append((stage, cell))
    return list(dict.fromkeys(links))


def training_key(cell: Cell, params: Params, text: bool = False) -> Key:
    """Return the key of the training whose model a method's cell runs; ``text``: of the second grid."""
    if text:
        return "train_free", replace(cell, method=params.generation.methods[cell.method].training)
    return "train", cell


def _text_chain(stage: str, cell: Cell, params: Params) -> list[Key]:
    links: list[Key] = [("prepare_texts", replace(cell, method=""))]
    if stage in ("calibrate_decoding", "evaluate_decoding"):
        links += [
            *_text_training(*training_key(cell, params, text=True), params),
            ("calibrate_decoding", cell),
        ]
    if stage == "train_free":
        links += _text_training(stage, cell, params)
    return list(dict.fromkeys([*links, (stage, cell)]))


def _text_training(stage: str, cell: Cell, params: Params) -> list[Key]:
    """Return a training's key, behind that of the training that it begins with."""
    asked = params.generation
    begun = [asked.pretrained] if cell.method in asked.trained_by.continue_free else []
    return [(stage, replace(cell, method=name)) for name in (*begun, cell.method)]


def _trained_from(cell: Cell, params: Params) -> list[Key]:
    """Return what a method's training stands on beyond the data: other records of the seed."""
    full = ("train", replace(cell, method="full"))
    saliencies = ("extract_saliencies", replace(cell, method="saliency"))
    if cell.method in params.trained_by.train_adapler:
        return [full, saliencies]
    if cell.method in params.trained_by.train_adapler_exits:
        return [full, saliencies, ("train", replace(cell, method=params.pruned_body))]
    return []


def _chosen_links(cell: Cell, runs: Runs) -> list[Key]:
    """Return what the measuring of a recommendation stands on beyond its own: the recommended method."""
    choice = runs.records.get(("recommend", cell))
    offer = choice.offer if isinstance(choice, RecommendationRecord) else None
    if offer is None or offer.method is None:
        return [("recommend", cell)]
    method = replace(cell, method=offer.method)
    return [("train", method), ("calibrate_thresholds", method), ("recommend", cell)]


def _why_not_the_choice(stage: str, cell: Cell, runs: Runs, params: Params) -> str:
    """Say why a recommendation, or the measuring of one, cannot be reported though its own links hold.

    It was chosen among all methods, so it stands on all their calibrations; and what was measured must be what was chosen.
    """
    choice, measured = (runs.records.get((name, cell)) for name in ("recommend", stage))
    for name in params.methods:
        key = "calibrate_thresholds", replace(cell, method=name)
        if key not in runs.records:
            return f"the record of calibrate_thresholds of {name} that it stands on is gone; run it again"
        if why := why_unusable(*key, runs, params):
            return why
        for record in filter(None, (choice, measured)):
            read = record.inputs.get(model_of(name))
            if read and runs.records[key].inputs.get("model", read) != read:
                return f"{record.stage} read another model of {name} than was calibrated; run it again"
    if stage == "recommend" or not isinstance(choice, RecommendationRecord):
        return ""
    method, chosen = (choice.offer.method, choice.offer.setting) if choice.offer else (None, None)
    measures_another = (isinstance(measured, RecommendedRecord) and measured.setting != chosen) or (
        isinstance(measured, ExportRecord | DeploymentRecord) and measured.recommended != (method, chosen)
    )
    if measures_another:
        return f"{stage} measured another choice than recommend made; run it again"
    return ""


def why_unusable(stage: str, cell: Cell, runs: Runs, params: Params) -> str:
    """Say why a record cannot be reported under these params, or return an empty string.

    It and all that it stands on must be there, be made with these params, and have read the same splits and models; and
    code of one's own that they ran must be what lies here, if it does.
    """
    if (stage, cell) not in runs.records and not cell.method:
        return f"{stage} has not run"
    if (stage, cell) not in runs.records:
        done = [
            name
            for name in ("train", "calibrate_thresholds", "calibrate_decoding")
            if (name, cell) in runs.records
        ]
        return f"not evaluated yet (done: {', '.join(done) or 'nothing'})"
    read: dict[str, str] = {}
    links = chain(stage, cell, params)
    if stage in CHOICES[1:]:
        links = [*_chosen_links(cell, runs), *links]
    for key in links:
        if key not in runs.records:
            return f"the record of {key[0]} that it stands on is gone; run it again"
        record = runs.records[key]
        given = record.params
        if isinstance(record, ExportRecord | DeploymentRecord):
            given = {"deployments": None} | given  # records of before the key was there have its default
        changed = changed_params(given, params.echo(given))
        if changed:
            return f"{record.stage} was run with other params ({', '.join(changed)}); run it again"
        if isinstance(record, ScoresRecord):
            read["saliencies"] = record.scores
        for name in ("data", "full", "model", "saliencies"):
            digest = record.inputs.get(name)
            if digest and read.setdefault(name, digest) != digest:
                return f"{record.stage} read another {name} than the stages before it; run it again"
        for name, digest in record.inputs.items():
            if is_own(name) and digest != _digest_now(name, digest):
                return f"{record.stage} ran {name} before it was edited; run it again"
        if why := _why_not_the_body(record, runs, params):
            return why
    return _why_not_the_choice(stage, cell, runs, params) if stage in CHOICES else ""


def _why_not_the_body(record: Record, runs: Runs, params: Params) -> str:
    """Say why a training cannot be reported that built on the model of another, if that is now another one.

    The model's digest stands in the records of the stages that read it.
    """
    if isinstance(record, TextTrainingRecord):
        asked, methods = params.generation, params.generation.methods
        if record.built_on != (
            asked.pretrained if record.cell.method in asked.trained_by.continue_free else ""
        ):
            return f"{record.stage} of {record.cell.method} began with other weights; run it again"
        stage, name = "calibrate_decoding", "start"
        users = [method for method in methods if methods[method].training == record.built_on]
    elif isinstance(record, TrainingRecord):
        stage, name, users = "calibrate_thresholds", "pruned", [record.built_on]
    else:
        return ""
    for user in users:
        read = runs.records.get((stage, replace(record.cell, method=user)))
        model = read.inputs.get("model") if read else None
        if model and record.inputs.get(name, model) != model:
            return f"{record.stage} built on another model of {record.built_on} than was calibrated; run it again"
    return ""


def _digest_now(source: str, recorded: str) -> str:
    """Return the digest of code of one's own; the recorded one where it is not here, as in a clone with kept records."""
    try:
        return digest_own_code(source)
    except UserError:
        return recorded


def changed_params(recorded: Any, current: Any, prefix: str = "") -> list[str]:
    """Return the dotted keys in which a record's params differ from the params at hand.

    Both are as `Params.echo` gives them: values that equal the default left out. A section that is absent says the same as
    one of nothing but defaults.
    """
    given = [value for value in (recorded, current) if value is not None]
    if given and all(isinstance(value, Mapping) for value in given):
        recorded, current = recorded or {}, current or {}
        return [
            name
            for key in sorted(set(recorded) | set(current))
            for name in changed_params(
                recorded.get(key), current.get(key), f"{prefix}.{key}" if prefix else str(key)
            )
        ]
    return [] if recorded == current else [prefix]
