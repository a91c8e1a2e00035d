"""What lies behind the main table, over seeds: by exit, by tier, by split, by layer, and what training cost.

Each is a frame in table order, empty where the records hold nothing for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any

import pandas as pd

from adaptive_inference.evaluation.explained import MEASURES
from adaptive_inference.settings.training import WeightLearning
from adaptive_pipeline.grid import Cell
from adaptive_pipeline.params import Params
from adaptive_pipeline.reporting.frame import PAIR, Results, machine_name
from adaptive_pipeline.reporting.measures import CELL, KEY, first, highest, joined, lowest, mean, over_seeds
from adaptive_pipeline.reporting.names import natural_key

#: One training: what is measured once of each.
SEED = [*CELL, "seed"]
SPLITS = ("train", "development", "calibration", "evaluation")
DATA_COLUMNS = [
    *PAIR, "seed", "split", "rows", "labels", "tokens", "truncated", "repeated", "shared", "tiers", "labels_flipped"
]  # fmt: skip


def _per_cell(
    results: Results, read: Callable[[Cell], Iterable[dict[str, Any]]], *columns: str
) -> pd.DataFrame:
    """Return what ``read`` yields of each evaluated cell, beside the cell's columns; None becomes NaN."""
    rows = [
        {name: getattr(cell, name) for name in SEED} | row for cell in results.cells for row in read(cell)
    ]
    found = [{name: math.nan if value is None else value for name, value in row.items()} for row in rows]
    return pd.DataFrame(found, columns=[*SEED, *columns])


# ---- each exit by itself ---------------------------------------------------------------------------------------------


def exit_points(results: Results) -> pd.DataFrame:
    """Return quality and speed-ups of every exit when all rows are forced to leave there, per seed."""

    def read(cell: Cell) -> Iterable[dict[str, Any]]:
        record = results.evaluation(cell)
        for item in record.exits:
            yield dict(item) | {"exit_layer": item.layer, "metric": record.rows[0].metric}

    return _per_cell(results, read, "exit_layer", "metric", "quality", "layers_speedup", "flops_speedup")


def exits(results: Results) -> pd.DataFrame:
    """Return the quality of every exit, over seeds."""
    return over_seeds(exit_points(results), [*CELL, "exit_layer"], ["quality"], metric=first)


def first_exit_difference(results: Results, one: str, other: str) -> pd.DataFrame:
    """Return ``one`` - ``other`` of the quality of their first exits, paired by seed, per task and backbone.

    The claim that SWEET is built on: its first exit is better than that of early exit (sweet.md, section 4).
    """
    points = exit_points(results)
    lowest = points.loc[points.groupby(SEED, sort=False).exit_layer.idxmin()]
    ours, theirs = (lowest[lowest.method == method] for method in (one, other))
    pairs = ours.merge(theirs, on=[*PAIR, "seed", "exit_layer"], suffixes=("", "_other"))
    pairs["difference"] = pairs.quality - pairs.quality_other
    pairs["won"] = pairs.difference > 0
    return over_seeds(pairs, PAIR, ["difference"], exit_layer=first, won="sum")


# ---- tiers, splits, calibration --------------------------------------------------------------------------------------


def tiers(results: Results) -> pd.DataFrame:
    """Return quality and mean exit layer of each difficulty tier at every operating point, over seeds."""
    rows = [
        {name: getattr(point, name) for name in (*KEY, "metric")} | {"tier": tier} | point.tiers[tier]
        for point in results.points.itertuples()
        for tier in sorted(point.tiers, key=natural_key)
    ]
    columns = [*KEY, "tier", "metric", "count", "quality", "mean_exit_layer"]
    frame = pd.DataFrame(rows, columns=columns).astype({"quality": float, "mean_exit_layer": float})
    return over_seeds(
        frame, [*KEY, "tier"], ["quality", "mean_exit_layer"], count="sum", metric=first
    ).rename(columns={"mean_exit_layer_mean": "mean_exit_layer"})


def splits(results: Results) -> pd.DataFrame:
    """Return the statistics of each split of each seed, as `prepare_data` recorded them."""
    rows = []
    for record in results.data:
        for name in sorted(record.splits, key=SPLITS.index):
            body, shared = record.splits[name], record.shared_texts
            rows.append(
                {column: getattr(record.cell, column) for column in (*PAIR, "seed")}
                | {"split": name, "labels_flipped": body.get("flipped")}
                | {column: body.get(column) for column in ("rows", "truncated", "repeated")}
                | {column: _pairs(body.get(column)) for column in ("labels", "tokens", "tiers")}
                | {"shared": _pairs({pair: n for pair, n in shared.items() if name in pair.split("-")})}
            )
    return pd.DataFrame(rows, columns=DATA_COLUMNS)


def _pairs(body: Mapping[str, Any] | None) -> str | None:
    """Return ``name:value`` pairs, separated by spaces, or None where there is nothing."""
    if not body:
        return None
    text = {key: f"{value:.6g}" if isinstance(value, float) else str(value) for key, value in body.items()}
    return " ".join(f"{key}:{text[key]}" for key in sorted(body, key=natural_key))


def calibration(results: Results) -> pd.DataFrame:
    """Return temperature, calibration error before and after, and failure prediction per exit, over seeds.

    All are of the calibration split. Older records hold no failure prediction.
    """

    def read(cell: Cell) -> Iterable[dict[str, Any]]:
        record = results.calibration(cell)
        before, after = (record.reliability.get(when) or [] for when in ("before", "after"))
        for raw, scaled in zip(before, after, strict=True):
            temperature = record.metrics.get(f"exit{raw['layer']}_temperature")
            eces = {"ece_before": raw["ece"], "ece_after": scaled["ece"]}
            told = eces | {"failure_auroc": scaled.get("failure_auroc")}
            yield {"exit_layer": raw["layer"], "temperature": temperature} | told

    figures = ["temperature", "ece_before", "ece_after", "failure_auroc"]
    return over_seeds(_per_cell(results, read, "exit_layer", *figures), [*CELL, "exit_layer"], figures)


# ---- what training costs ---------------------------------------------------------------------------------------------


def cost(results: Results) -> pd.DataFrame:
    """Return what each method adds in parameters, and its training's steps and time over the full model's.

    The full model's training counts in where it is a part of the method's, and so does that of the method on whose model it
    builds. A ratio is of one seed and of trainings on one machine; where one of the times is missing, or of another machine,
    there is none.
    """

    def read(cell: Cell) -> Iterable[dict[str, Any]]:
        record, timings = results.training(cell), results.runs.companion("train", cell, "timings")
        steps = [record.steps, *(member.steps for member in record.members)]
        known = [count for count in steps if count is not None]
        machine, body_steps, body_seconds = machine_name(timings.get("environment", {})), 0, 0.0
        if record.built_on:
            body = replace(cell, method=record.built_on)
            body_timings = results.runs.companion("train", body, "timings")
            there = machine_name(body_timings.get("environment", {})) == machine
            body_steps = results.training(body).steps or 0
            body_seconds = body_timings.get("seconds", math.nan) if there else math.nan
        yield {
            "steps": float(sum(known) + body_steps) if known else None,
            "body_seconds": body_seconds,
            "builds": record.builds_on_full,
            "with_full": record.builds_on_full or record.has_copy_of_full,
            "machine": machine,
        }

    own = results.points[results.points.method == [cell.method for cell in results.points.cell]]
    points = own[[*SEED, "added_parameters", "training_seconds"]].drop_duplicates(SEED)
    names = ["steps", "body_seconds", "builds", "with_full", "machine"]
    found = _per_cell(results, read, *names).merge(points, on=SEED)
    found.training_seconds += found.body_seconds
    full = found[found.method == "full"][[*PAIR, "seed", "steps", "training_seconds", "machine"]]
    found = found.merge(full, how="left", on=[*PAIR, "seed"], suffixes=("", "_of_full"))
    # with the full model's time already, where a member is its copy
    found.training_seconds += found.training_seconds_of_full.where(found.builds, 0.0)
    found["training_steps"] = found.steps + found.steps_of_full.where(found.with_full, 0.0)
    same = (found.machine != "") & (found.machine == found.machine_of_full)
    same &= found.training_seconds_of_full > 0  # 0: the full model came fine-tuned
    found["training_ratio"] = (found.training_seconds / found.training_seconds_of_full).where(same)
    carried = {"added_parameters": first, "training_steps": mean, "with_full": first, "machine": joined}
    table = over_seeds(found, CELL, ["training_seconds", "training_ratio"], **carried)
    table["with_full"] = table.with_full.map({True: "yes", False: "no"})
    return table[[name for name in table if name not in ("with_full", "machine")] + ["with_full", "machine"]]


# ---- how exits disagree ----------------------------------------------------------------------------------------------


def conflict(results: Results) -> pd.DataFrame:
    """Return the mean cosine of the exits' gradients in each layer, over seeds; see `training.gradient_conflict`."""

    def read(cell: Cell) -> Iterable[dict[str, Any]]:
        for item in results.training(cell).gradient_conflict:
            yield {"layer": item.layer, "pairs": len(item.pairs), "cosine": item.mean_cosine}

    found = _per_cell(results, read, "layer", "pairs", "cosine")
    return over_seeds(found, [*CELL, "layer"], ["cosine"], pairs=first)


OVERTHINKING = ["right_then_wrong", "wrong_then_right"]


def overthinking(results: Results) -> pd.DataFrame:
    """Return shares of rows that the last exit loses and gains against each inner exit, over seeds.

    ``exit_layer`` ``inner`` is all inner exits together: lost where one of them was right, gained where none was.
    """

    def read(cell: Cell) -> Iterable[dict[str, Any]]:
        found = results.evaluation(cell).overthinking
        if found:
            yield {"exit_layer": "inner"} | found | {"wrong_then_right": found["last_only"]}
            yield from ({"exit_layer": item["layer"]} | item for item in found["exits"])

    return over_seeds(
        _per_cell(results, read, "exit_layer", *OVERTHINKING), [*CELL, "exit_layer"], OVERTHINKING
    )


# ---- learned weights -------------------------------------------------------------------------------------------------


def weights(results: Results) -> pd.DataFrame:
    """Return how far the learned weights of the losses are from 1, where all start, when training ends; per seed."""

    def read(cell: Cell) -> Iterable[dict[str, Any]]:
        found = results.training(cell).loss_weights
        if found:
            yield dict(found) | _learning(results.params, cell)

    figures = ["steps", "terms", "max_deviation", "mean_deviation", "min", "max"]
    return _per_cell(results, read, "scheme", "parametrisation", *figures)


def _learning(params: Params, cell: Cell) -> dict[str, str]:
    """Return how the weights were learned, nothing for an objective that is not ours."""
    _, train = params.training_of(cell.task, cell.method)
    if train.objective != "weight_learning":
        return {}
    settings = train.weight_learning or WeightLearning()
    return {"scheme": settings.scheme, "parametrisation": settings.parametrisation}


# ---- explanations ----------------------------------------------------------------------------------------------------


def rationales(results: Results) -> pd.DataFrame:
    """Return how scores of tokens, and tokens that are kept, agree with rationales and with the model, over seeds.

    ``method`` is the one whose model was explained, or whose kept tokens others stand beside; the interval of the
    difference of false-positive rates is the widest of the seeds'.
    """

    def read(cell: Cell) -> Iterable[dict[str, Any]]:
        return (asdict(item) for item in results.explained(cell))

    figures = [name for name in MEASURES if name not in ("fpr_low", "fpr_high")]
    counts = ["rows", "rationales"]
    found = _per_cell(results, read, "kind", "layer", *counts, *MEASURES)
    ends = {"fpr_low": lowest, "fpr_high": highest}
    carried = dict.fromkeys(counts, "sum") | ends
    table = over_seeds(
        found.astype(dict.fromkeys(MEASURES, float)), [*CELL, "kind", "layer"], figures, **carried
    )
    return table[[name for name in table if name not in ends] + list(ends)]
