"""Tables that explain a result: what training cost, how exits disagree, what the learned weights became.

Each is written only where the records hold something for it: records older than a figure lack it.
"""

# ruff: noqa: RUF001 - signs that readers see

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from adaptive_inference.settings.training import WeightLearning
from adaptive_pipeline.params import Params
from adaptive_pipeline.reporting.aggregate import mean, spread
from adaptive_pipeline.reporting.collect import CellFiles, Results, has_copy_of_full, machine_name
from adaptive_pipeline.reporting.markdown import number, table_line
from adaptive_pipeline.reporting.names import method_name
from adaptive_pipeline.reporting.tables import csv_text, over_seeds

CELL = ("task", "backbone", "method")


def analysis_tables(results: Results) -> dict[str, str]:
    """Return the tables that have rows: file name -> text."""
    costs = cost_rows(results)
    found = {
        "cost.csv": (COST_COLUMNS, costs),
        "conflict.csv": (CONFLICT_COLUMNS, conflict_rows(results)),
        "overthinking.csv": (OVERTHINKING_COLUMNS, overthinking_rows(results)),
        "weights.csv": (WEIGHT_COLUMNS, weight_rows(results)),
    }
    texts = {name: csv_text(columns, rows) for name, (columns, rows) in found.items() if rows}
    return texts | ({"cost.md": cost_markdown(costs)} if costs else {})


# ---- what training costs ---------------------------------------------------------------------------------------------

COST_COLUMNS = [
    *CELL,
    "seeds",
    "added_parameters",
    "training_steps",
    "training_seconds_mean",
    "training_seconds_std",
    "training_ratio_mean",
    "training_ratio_std",
    "with_full",
    "machine",
]


def cost_rows(results: Results) -> list[dict[str, Any]]:
    """Return what each method adds in parameters, and its training's steps and time over the full model's.

    The full model's training counts in where it is a part of the method's. A ratio is of one seed and of trainings on
    one machine; where one of the two times is missing, or of another machine, there is none.
    """
    full = {_seed(files): files for files in results.cells if files.cell.method == "full"}
    points = {point.cell: point for point in results.points if point.method == point.cell.method}

    def read(files: CellFiles) -> Iterable[tuple[tuple[Any, ...], Any]]:
        base, point = full.get(_seed(files)), points.get(files.cell)
        if point is None:  # no operating point of its own
            return
        machine, whole = _machine(files), base.training_timings.get("seconds") if base else None
        seconds = point.training_seconds  # with the full model's already, where a member is its copy
        if _builds_on_full(files):
            seconds = None if None in (seconds, whole) else seconds + whole
        same = machine and base and _machine(base) == machine
        yield (
            (),
            {
                "parameters": point.added_parameters,
                "steps": _steps(files, base),
                "seconds": seconds,
                "ratio": seconds / whole if same and whole and seconds is not None else None,
                "machine": machine,
                "with_full": _has_full(files),
            },
        )

    rows = []
    for (cell, _), seeds in over_seeds(results, read):
        steps, seconds, ratios = ([seed[name] for seed in seeds] for name in ("steps", "seconds", "ratio"))
        rows.append(
            dict(zip(CELL, cell, strict=True))
            | {"seeds": len(seeds), "added_parameters": seeds[0]["parameters"], "training_steps": mean(steps)}
            | {"training_seconds_mean": mean(seconds), "training_seconds_std": spread(seconds)}
            | {"training_ratio_mean": mean(ratios), "training_ratio_std": spread(ratios)}
            | {"with_full": "yes" if seeds[0]["with_full"] else "no"}
            | {"machine": " | ".join(sorted({seed["machine"] for seed in seeds if seed["machine"]}))}
        )
    return rows


def _machine(files: CellFiles) -> str:
    return machine_name(files.training_timings.get("environment") or {})


def _seed(files: CellFiles) -> tuple[Any, ...]:
    return files.cell.task, files.cell.backbone, files.cell.seed


def _has_full(files: CellFiles) -> bool:
    """Whether the full model's training is a part of this one."""
    return has_copy_of_full(files.training) or _builds_on_full(files)


def _builds_on_full(files: CellFiles) -> bool:
    """Whether the training starts from the full model or learns from it; older records do not say, their objective does."""
    train = files.training.params.get(f"methods.{files.cell.method}.train") or {}
    return files.training.details.get("builds_on_full", train.get("objective") == "frozen")


def _steps(files: CellFiles, full: CellFiles | None) -> int | None:
    """Return the optimiser steps of a training, of all members of a family, and of the full model where it is a part."""
    details = files.training.details
    members = [item for item in details.values() if isinstance(item, dict)]
    own = [item["steps"] for item in (details, *members) if "steps" in item]
    if _has_full(files):
        own.append(full.training.details.get("steps") if full else None)
    return sum(own) if own and None not in own else None


COST_NOTES = (
    "Steps are optimiser steps. Time is that of the whole training, development scoring included; × full: over the full "
    "model's training of the same seed on the same machine, mean ± std over seeds (n − 1).",
    "* the full model's training is a part: the method starts or learns from it, or a member is its copy.",
)


def cost_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return ``cost.md``."""
    lines = ["# What training costs", ""]
    for task, backbone in dict.fromkeys((row["task"], row["backbone"]) for row in rows):
        lines += [f"## {task}, {backbone}", ""]
        lines += [table_line(("Method", "Seeds", "Added parameters", "Steps", "Seconds", "× full"))]
        lines += [table_line(["---", *["---:"] * 5])]
        for row in rows:
            if (row["task"], row["backbone"]) == (task, backbone):
                std = row["training_ratio_std"]
                cells = [method_name(row["method"]) + (" *" if row["with_full"] == "yes" else "")]
                cells += [str(row["seeds"]), number(row["added_parameters"], "+,d")]
                cells += [number(row["training_steps"], ",.0f"), number(row["training_seconds_mean"], ",.0f")]
                cells += [
                    number(row["training_ratio_mean"], ".2f") + (f" ± {std:.2f}" if std is not None else "")
                ]
                lines.append(table_line(cells))
        lines.append("")
    machines = dict.fromkeys(row["machine"] for row in rows if row["machine"])
    notes = (*COST_NOTES, *(f"Machine: {machine}." for machine in machines))
    return "\n".join([*lines, "Notes", "", *(f"- {note}" for note in notes), ""])


# ---- how exits disagree ----------------------------------------------------------------------------------------------

CONFLICT_COLUMNS = [*CELL, "layer", "seeds", "pairs", "cosine_mean", "cosine_std"]


def conflict_rows(results: Results) -> list[dict[str, Any]]:
    """Return the mean cosine of the exits' gradients in each layer, over seeds; see `training.gradient_conflict`."""

    def read(files: CellFiles) -> Iterable[tuple[tuple[Any, ...], Any]]:
        for item in files.training.details.get("gradient_conflict") or []:
            yield (item["layer"],), (len(item["pairs"]), item["mean_cosine"])

    return [
        dict(zip(CELL, cell, strict=True))
        | {"layer": layer, "seeds": len(seeds), "pairs": seeds[0][0]}
        | {
            "cosine_mean": mean(value for _, value in seeds),
            "cosine_std": spread([value for _, value in seeds]),
        }
        for (cell, (layer,)), seeds in over_seeds(results, read)
    ]


OVERTHINKING = ("right_then_wrong", "wrong_then_right")
OVERTHINKING_COLUMNS = [
    *CELL,
    "exit_layer",
    "seeds",
    *(f"{name}_{figure}" for name in OVERTHINKING for figure in ("mean", "std")),
]


def overthinking_rows(results: Results) -> list[dict[str, Any]]:
    """Return shares of rows that the last exit loses and gains against each inner exit, over seeds.

    ``exit_layer`` ``inner`` is all inner exits together: lost where one of them was right, gained where none was.
    """

    def read(files: CellFiles) -> Iterable[tuple[tuple[Any, ...], Any]]:
        found = files.evaluation.details.get("overthinking")
        if found:
            yield ("inner",), (found["right_then_wrong"], found["last_only"])
            for item in found["exits"]:
                yield (item["layer"],), tuple(item[name] for name in OVERTHINKING)

    rows = []
    for (cell, (layer,)), seeds in over_seeds(results, read):
        row = dict(zip(CELL, cell, strict=True)) | {"exit_layer": layer, "seeds": len(seeds)}
        for name, values in zip(OVERTHINKING, zip(*seeds, strict=True), strict=True):
            row |= {f"{name}_mean": mean(values), f"{name}_std": spread(values)}
        rows.append(row)
    return rows


# ---- learned weights -------------------------------------------------------------------------------------------------

WEIGHT_COLUMNS = [
    *CELL,
    "seed",
    "scheme",
    "parametrisation",
    "steps",
    "terms",
    "max_deviation",
    "mean_deviation",
    "min",
    "max",
]


def weight_rows(results: Results) -> list[dict[str, Any]]:
    """Return how far the learned weights of the losses are from 1, where all start, when training ends; per seed."""
    rows = []
    for files in results.cells:
        if files.weights:
            cell, terms = files.cell, weight_terms(files.weights)
            values = [weight for row in terms[-1] for weight in row if weight is not None]
            away = [abs(weight - 1.0) for weight in values]
            rows.append(
                {"task": cell.task, "backbone": cell.backbone, "method": cell.method, "seed": cell.seed}
                | _learning(results.params, cell.task, cell.method)
                | {"steps": files.weights[-1]["step"], "terms": len(values)}
                | {"max_deviation": max(away), "mean_deviation": mean(away)}
                | {"min": min(values), "max": max(values)}
            )
    return rows


def weight_terms(trajectory: Sequence[Mapping[str, Any]]) -> list[list[list[float | None]]]:
    """Return the weights of each moment, student by term: the label's, then one per teacher; None where no such term is.

    All weights start at 1, and those of terms that the objective does not have stay 0: a term is whatever was ever
    anything but 0.
    """
    moments = [
        [[truth, *teachers] for truth, teachers in zip(row["truth"], row["teachers"], strict=True)]
        for row in trajectory
    ]
    exits, terms = len(moments[0]), len(moments[0][0])
    used = [[any(moment[s][t] for moment in moments) for t in range(terms)] for s in range(exits)]
    return [
        [[moment[s][t] if used[s][t] else None for t in range(terms)] for s in range(exits)]
        for moment in moments
    ]


def _learning(params: Params, task: str, method: str) -> dict[str, str | None]:
    """Return how the weights were learned, nothing for an objective that is not ours."""
    _, train = params.training_of(task, method)
    if train.objective != "weight_learning":
        return {}
    settings = train.weight_learning or WeightLearning()
    return {"scheme": settings.scheme, "parametrisation": settings.parametrisation}
