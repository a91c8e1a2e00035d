"""TEST FIXTURE: invented records in the shape that the stages write. No number here was measured by anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from named_goals import named_goal
from synthetic_choices import ENVIRONMENT, FULL, Chosen, write_choice

from adaptive_inference.calibration.operating_point import OperatingPoint, Seen, Setting, static_layers
from adaptive_inference.evaluation.explained import ALL_LAYERS, BASELINES, CONTRIBUTIONS, Measured
from adaptive_inference.exits.layout import FORMAT, MULTI_EXIT, MULTI_MODEL
from adaptive_inference.files import write_json
from adaptive_inference.tasks.schema import Schema
from adaptive_pipeline.grid import Cell
from adaptive_pipeline.params import Params, load_params
from adaptive_pipeline.runs.records import FAMILIES, ExitRow, PointRow, Record

PROJECT = Path(__file__).parents[2]
CLASSIFIERS = PROJECT / "presets/classifiers.yaml"

#: method -> (quality of its exits at layers 2, 4, 6), all invented.
QUALITY = {
    "full": (0.90,),
    "early_exit": (0.80, 0.87, 0.895),
    "sweet": (0.83, 0.875, 0.89),
    "learning_to_exit": (0.80, 0.87, 0.893),
    "multi_model": (0.84, 0.88, 0.90),
    "pabee": (0.79, 0.865, 0.894),
    "leebert": (0.81, 0.87, 0.896),
}
#: Methods of `invented_params`, unless a test asks for others, and what two of them are run with.
METHODS = ("full", "early_exit", "sweet", "learning_to_exit", "multi_model")
RULES = {name: ["confidence", "entropy", "margin"] for name in ("early_exit", "sweet")}
EXITS = (2, 4, 6)


def invented_params(**changes: Any) -> Params:
    """Return the params of `CLASSIFIERS` with `METHODS` alone, under `RULES`, and with changes of top-level sections."""
    body = load_params(CLASSIFIERS).model_dump(mode="json")
    body |= choose_methods(body, METHODS)
    for name, rules in RULES.items():
        body["methods"][name] |= {"rules": rules}
    return Params.model_validate(body | changes)


def explained_params(**changes):
    """Return invented params under which SWEET is explained as if it removed tokens, which no method here does."""
    params = invented_params(**changes)
    explanations = params.explanations.model_copy(update={"methods": ["full", "sweet"]})
    return params.model_copy(update={"explanations": explanations})


def choose_methods(body: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Return the sections `methods` and `trained_by` with some of the methods."""
    return {
        "methods": {name: body["methods"][name] for name in names},
        "trained_by": {
            stage: [name for name in own if name in names] for stage, own in body["trained_by"].items()
        },
    }


def write_run(root: Path, params: Params, chosen: Chosen | None = None, **changes: Any) -> None:
    """Write the records of every cell of the grid; ``changes`` goes on to `write_cell`.

    ``chosen`` is what is recommended for each of them: unless told, SWEET where it is among the methods.
    """
    chosen = chosen or (Chosen() if "sweet" in params.methods else FULL)
    for task in params.tasks:
        for backbone in params.backbones:
            for seed in params.seeds:
                write_data(root, params, Cell(task, backbone, seed))
                write_choice(root, params, Cell(task, backbone, seed), chosen, full_quality(seed))
                for method in params.methods:
                    write_cell(root, params, Cell(task, backbone, seed, method), **changes)


def full_quality(seed: int) -> float:
    """Return that of the full model of a seed."""
    return 0.90 + 0.004 * seed


def write_data(root: Path, params: Params, cell: Cell) -> None:
    """Write the record of `prepare_data`."""
    split = {
        "rows": 100,
        "labels": {"negative": 48, "positive": 52},
        "tokens": {"0": 3, "50": 9, "100": 20},
        "truncated": 0.0,
        "repeated": 1,
        "tiers": {"1": 50, "2": 50},
    }
    _record(
        "prepare_data",
        cell,
        params,
        (f"tasks.{cell.task}", f"backbones.{cell.backbone}"),
        splits=dict.fromkeys(("train", "development", "calibration", "evaluation"), split),
        shared_texts={"train-evaluation": 0},
        task_schema={"labels": ["negative", "positive"]},
    ).save(cell.folder(root) / "data")


def change_record(folder: Path, **changes: Any) -> None:
    """Write a stage's record again with other fields."""
    Record.load(folder).model_copy(update=changes).save(folder)


def write_cell(
    root: Path, params: Params, cell: Cell, edit: Any = None, tiers: bool = True, answers: bool = False
) -> None:
    """Write training, calibration and evaluation of one cell; ``edit(cell, rows, timings)`` may change them.

    Rows are flat here (`_row`); `_point_row` gives them the form of the record.
    ``answers`` adds predictions.json: each row's quality as answers to 1000 rows, the first of them right.
    """
    folder = cell.folder(root)
    _write_train(folder, params, cell)
    _write_calibration(folder, params, cell)
    quality = np.array(QUALITY[cell.method]) + 0.004 * cell.seed
    full = full_quality(cell.seed)
    exits = (6,) if cell.method == "full" else EXITS
    cumulative = np.cumsum(exits) if cell.method == "multi_model" else np.array(exits)
    rows, timings, curves = [], [], {}
    names = params.method(cell.method).rule_names
    if cell.method == "full":
        rows.append(_row("full", "fixed", "full", 0.0, full, 1.0, {"6": 100}, full, tiers))
    else:
        for rank, rule in enumerate(names):
            share = np.linspace(0.0, 1.0, 30)[:, None] * np.array([1.0, 0.0, 0.0])
            share = share + (1 - share.sum(1, keepdims=True)) * np.array([0.0, 0.5, 0.5])
            layers = share @ cumulative
            curve = {
                "thresholds": np.linspace(1.0, 0.4, 30),
                "quality": share @ quality + 0.05 * np.sin(np.pi * share[:, 0]) - 0.003 * rank,
                "layers_speedup": 6 / layers,
                "flops_speedup": 6 / layers * 0.98,
            }
            curves[rule] = curve
            for name, index in (("max_loss_1", 8), ("min_speedup_1.5", 15), ("min_speedup_2", 22)):
                counts = {
                    str(layer): int(n) for layer, n in zip(exits, np.round(100 * share[index]), strict=True)
                }
                value, speed = float(curve["quality"][index]), float(curve["layers_speedup"][index])
                threshold = float(curve["thresholds"][index]) + 0.01 * cell.seed
                rows.append(
                    _row(cell.method, rule, name, threshold, value, speed, counts, value - 0.002, tiers)
                )
        if cell.method == "multi_model":
            for layer, value in zip(exits, quality.tolist(), strict=True):
                speed = 6 / layer
                rows.append(
                    _row(
                        f"static_{layer}",
                        "fixed",
                        f"static_{layer}",
                        0.0,
                        value,
                        speed,
                        {str(layer): 100},
                        value,
                        tiers,
                    )
                )
    for row in rows:
        if cell.seed in params.evaluation.timed_seeds:
            speed = row["layers_speedup"] * 0.93
            timings.append(
                {key: row[key] for key in ("method", "rule", "operating_point", "threshold")}
                | {"wallclock_speedup": speed, "wallclock_low": speed - 0.04, "wallclock_high": speed + 0.05}
                | {"median_ms": 20.0 / speed, "full_median_ms": 20.0}
            )
    if edit:
        edit(cell, rows, timings)
    _write_points(folder, cell, params, rows)
    keys = ("evaluation", f"methods.{cell.method}.rules", "calibration.thresholds", "runtime")
    _record(
        "evaluate_batch1",
        cell,
        params,
        keys,
        rows=[_point_row(row, cell, params) for row in rows],
        exits=[
            ExitRow(layer=layer, quality=float(q), layers_speedup=6 / layer)
            for layer, q in zip(exits, quality, strict=True)
        ],
    ).save(folder / "evaluation")
    write_json(folder / "evaluation" / "curves.json", curves)
    if answers:
        write_json(folder / "evaluation" / "predictions.json", _answers(rows))
    write_json(folder / "timings.json", {"environment": ENVIRONMENT, "rows": timings})


#: Layer -> false-positive rate of what a method keeps there, and of as many tokens by saliency; invented.
KEPT_RATES = {"1": (1.0, 1.0), "2": (0.6, 0.7), "3": (0.2, 0.4), ALL_LAYERS: (0.6, 0.7)}


def write_explained(root: Path, params: Params, cell: Cell, reduces: bool = True, **changes: Any) -> None:
    """Write the record of `score_rationales`: of a method that reduces, or with every kind alone."""
    rows = [Measured(kind, "", 40, 40, 0.4, comprehensiveness=0.2, sufficiency=0.1) for kind in BASELINES]
    if reduces:
        rows = [
            Measured(
                kind, layer, 40, 40, 0.3 + place / 10, 0.4, 0.5, 0.45, rates[place], 0.2,
                **({} if place else {"comprehensiveness": 0.3, "sufficiency": 0.2}),
                **({"fpr_difference": rates[0] - rates[1], "fpr_low": -0.25, "fpr_high": 0.05} if place else {}),
            )
            for place, kind in enumerate((CONTRIBUTIONS, *BASELINES))
            for layer, rates in {key: (*pair, *pair) for key, pair in KEPT_RATES.items()}.items()
        ]  # fmt: skip
    rows = [replace(row, **changes) for row in rows]
    record = _record("score_rationales", cell, params, ("evaluation.bootstrap", "runtime"), explained=rows)
    record.save(cell.folder(root) / "rationales")


def _answers(rows: list[dict[str, Any]]) -> dict[str, Any]:
    labels = np.arange(1000) % 2
    points = [
        {name: row[name] for name in ("method", "rule", "operating_point")}
        | {"predictions": np.where(np.arange(1000) < round(1000 * row["quality"]), labels, 1 - labels)}
        for row in rows
        if row["threshold"] is not None
    ]
    return {"ids": np.arange(1000), "labels": labels, "num_classes": 2, "points": points}


def _point_row(row: dict[str, Any], cell: Cell, params: Params) -> PointRow:
    """Return a flat row in the form of the record."""
    names = [name for name in row if name in PointRow.model_fields]
    return PointRow(point=_point(cell, row, params), **{name: row[name] for name in names})


def _row(
    method: str, rule: str, name: str, threshold: float, quality: float, speed: float, counts: dict[str, int],
    calibration_quality: float, tiers: bool,
) -> dict[str, Any]:  # fmt: skip
    by_tier = {
        str(tier): {
            "quality": quality + 0.02 * (3 - tier),
            "mean_exit_layer": 2.0 + 0.5 * tier,
            "count": 20,
            "exit_counts": {layer: n // 5 for layer, n in counts.items()},
        }
        for tier in range(1, 6)
    }
    return {
        "method": method,
        "rule": rule,
        "operating_point": name,
        "threshold": threshold,
        "metric": "accuracy",
        "quality": quality,
        "quality_low": quality - 0.02,
        "quality_high": quality + 0.02,
        "layers_speedup": speed,
        "flops_speedup": speed * 0.98,
        "exit_counts": counts,
        "tiers": by_tier if tiers else None,
        "added_parameters": 1000,
        "calibration_quality": calibration_quality,
        "calibration_layers_speedup": speed,
        "calibration_flops_speedup": speed * 0.98,
        "qualifies": True,
        "attainable": rule != "oracle",
    }


def _write_train(folder: Path, params: Params, cell: Cell) -> None:
    stage = next(
        (s for s, names in params.trained_by.by_stage.items() if cell.method in names), "finetune_backbone"
    )
    keys = ("training", f"methods.{cell.method}.train", f"backbones.{cell.backbone}", "runtime")
    trained = Cell(cell.task, cell.backbone, cell.seed, "" if cell.method == "full" else cell.method)
    _record(stage, trained, params, keys, exits=list(EXITS)).save(folder / "train")
    timings: dict[str, Any] = {"environment": ENVIRONMENT, "seconds": 100.0 + cell.seed}
    if cell.method == "multi_model":
        timings["members"] = {"2": 30.0, "4": 40.0}
    write_json(folder / "train_timings.json", timings)


def _write_calibration(folder: Path, params: Params, cell: Cell) -> None:
    exits = (6,) if cell.method == "full" else EXITS
    record = _record(
        "calibrate_thresholds",
        cell,
        params,
        ("calibration", "goal", f"methods.{cell.method}.rules", "runtime"),
    )
    bins = [{"confidence": None, "accuracy": None, "count": 0} for _ in range(7)]

    def curve(gap: float) -> list[dict[str, Any]]:
        filled = [
            {"confidence": c, "accuracy": max(0.0, c - gap * c), "count": 10 + 5 * i}
            for i, c in enumerate(np.linspace(0.53, 0.98, 8).tolist())
        ]
        return [
            {"layer": layer, "ece": gap / (1 + k), "bins": bins + filled, "failure_auroc": 0.7 + k / 10}
            for k, layer in enumerate(exits)
        ]

    record.metrics = {f"exit{layer}_temperature": 1.5 for layer in exits}
    record.reliability = {"before": curve(0.09), "after": curve(0.01)}
    record.save(folder / "calibration")


def _write_points(folder: Path, cell: Cell, params: Params, rows: list[dict[str, Any]]) -> None:
    """Write the calibration.json from which the rows would have come."""
    exits = (6,) if cell.method == "full" else EXITS
    points = [_point(cell, row, params) for row in rows]
    body = {
        "temperatures": [1.5 + k for k in range(len(exits))],
        "certainty_min": None,
        "certainty_max": None,
        "reliability": {"before": [], "after": []},
        "exits": list(exits),
        "operating_points": [point.to_json() for point in points],
        "recommended": points[0].to_json(),
    }
    write_json(folder / "calibration" / "calibration.json", body)


def _record(stage: str, cell: Cell, params: Params, keys: tuple[str, ...], **fields: Any) -> Any:
    given = {"stage": stage, "cell": cell, "params": params.echo(keys), "inputs": {}, "code": "0" * 64}
    return FAMILIES[stage](**given, **fields)


def _point(cell: Cell, row: dict[str, Any], params: Params) -> OperatingPoint:
    """Return what calibration would have chosen: what it saw is `Seen` where it saw a quality."""
    member = None if row["method"] == cell.method else static_layers(row["method"])
    setting = Setting(row["rule"], row["threshold"] if member is None else 0.0, member)
    seen = Seen(*(row[f"calibration_{name}"] for name in ("quality", "layers_speedup", "flops_speedup")))
    goal = named_goal(row["operating_point"], params.goal.cost)
    return OperatingPoint(goal, setting, row["qualifies"], None if seen.quality is None else seen)


def save_model(folder: Path, exits: list[int], weights: bytes = b"") -> None:
    """Write a model's folder with invented weights; without any, that of a cascade, whose members have their own."""
    kind = MULTI_EXIT if weights else MULTI_MODEL
    config = {"kind": kind, "format": FORMAT, "exits": exits}
    if weights:
        config |= {
            "num_layers": exits[-1],
            "outputs": 2,
            "pooler": "none",
            "read": "mean",
            "certainty": False,
        }
        config |= {"inner_head": "as_backbone", "backbone": {"model_type": "bert"}}
    write_json(folder / "config.json", config)
    Schema("tiers", "classification", ("negative", "positive"), "accuracy", 48).save(folder)
    if weights:
        (folder / "model.safetensors").write_bytes(weights)
