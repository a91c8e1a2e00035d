"""The tables: CSV to compute with, Markdown to read, LaTeX to print. Nothing here is ever rounded to look better."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from adaptive_pipeline.reporting.aggregate import Row, mean, spread
from adaptive_pipeline.reporting.collect import CellFiles, Point, Results
from adaptive_pipeline.reporting.names import natural_key
from adaptive_pipeline.runs.records import Record

#: Columns of ``main.csv``. Never renamed or moved: later ones go to the end.
MAIN_COLUMNS = [
    "task",
    "backbone",
    "method",
    "rule",
    "operating_point",
    "threshold",
    "seeds",
    "metric",
    "quality_mean",
    "quality_std",
    "layers_speedup",
    "flops_speedup",
    "wallclock_speedup",
    "quality_low",
    "quality_high",
    "wallclock_low",
    "wallclock_high",
    "exit_share",
    "quality_difference",
    "added_parameters",
    "training_seconds",
    "machine",
    "qualifying_seeds",
    "layers_speedup_std",
    "timed_seeds",
    "timed_quality",
    "timed_layers_speedup",
]
DIGITS = {"threshold": 9}  #: significant digits; else 6


def cell_text(value: Any, column: str = "") -> str:
    """Return a CSV cell: empty for None, counts as integers, numbers to 6 digits (thresholds: 9)."""
    if value is None:
        return ""
    if isinstance(value, float):
        text = f"{round(value, 12):.{DIGITS.get(column, 6)}g}"
        return "0" if text == "-0" else text
    if isinstance(value, Mapping):  # an exit distribution
        return " ".join(f"{layer}:{share:.3f}" for layer, share in value.items())
    return str(value)


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Return a CSV with the given columns in order."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([cell_text(row.get(column), column) for column in columns])
    return stream.getvalue()


def main_csv(rows: Iterable[Row]) -> str:
    """Return ``main.csv``."""
    return csv_text(MAIN_COLUMNS, ({name: getattr(row, name) for name in MAIN_COLUMNS} for row in rows))


def missing_csv(results: Results) -> str:
    """Return ``missing.csv``: the cells of the params' grid that no usable record covers, with the reason."""
    rows = (
        {
            "task": m.cell.task,
            "backbone": m.cell.backbone,
            "method": m.cell.method,
            "seed": m.cell.seed,
            "why": m.why,
        }
        for m in results.missing
    )
    return csv_text(("task", "backbone", "method", "seed", "why"), rows)


# ---- quality of each exit by itself ----------------------------------------------------------------------------------


def exit_rows(results: Results) -> list[dict[str, Any]]:
    """Return the quality of every exit when all rows are forced to leave there, per method, over seeds."""
    metrics = {(p.cell.task, p.cell.backbone): p.metric for p in results.points}

    def read(files: CellFiles) -> Iterable[tuple[tuple[Any, ...], Any]]:
        for item in files.evaluation.details.get("exits") or []:
            yield (item["layer"],), item["quality"]

    return [
        {
            "task": cell[0],
            "backbone": cell[1],
            "method": cell[2],
            "exit_layer": layer,
            "seeds": len(values),
            "metric": metrics[cell[:2]],
            "quality_mean": mean(values),
            "quality_std": spread(values),
        }
        for (cell, (layer,)), values in over_seeds(results, read)
    ]


def first_exit_difference(results: Results, first: str, second: str) -> list[dict[str, Any]]:
    """Return ``first`` - ``second`` of the quality of their first exits, paired by seed, per task and backbone.

    The claim that SWEET is built on: its first exit is better than that of early exit (sweet.md, section 4).
    """
    lowest: dict[tuple[str, str], dict[str, dict[int, tuple[int, float]]]] = {}
    for files in results.cells:
        exits = files.evaluation.details.get("exits") or []
        cell = files.cell
        if exits and cell.method in (first, second):
            item = min(exits, key=lambda exit_: exit_["layer"])
            by_seed = lowest.setdefault((cell.task, cell.backbone), {}).setdefault(cell.method, {})
            by_seed[cell.seed] = (item["layer"], item["quality"])
    rows = []
    for (task, backbone), methods in lowest.items():
        a, b = methods.get(first, {}), methods.get(second, {})
        seeds = [seed for seed in sorted(set(a) & set(b)) if a[seed][0] == b[seed][0]]
        if seeds:
            differences = [a[seed][1] - b[seed][1] for seed in seeds]
            body = {"task": task, "backbone": backbone, "layer": a[seeds[0]][0], "seeds": len(seeds)}
            rows.append(
                body | {"mean": mean(differences), "std": spread(differences), "differences": differences}
            )
    return rows


# ---- by difficulty tier ----------------------------------------------------------------------------------------------


def tier_rows(results: Results) -> list[dict[str, Any]]:
    """Return quality and mean exit layer of each difficulty tier at every operating point, over seeds."""
    groups: dict[tuple[Any, ...], list[tuple[Point, Mapping[str, Any]]]] = {}
    for point in results.points:
        for tier in sorted(point.tiers, key=natural_key):
            key = (
                point.cell.task,
                point.cell.backbone,
                point.method,
                point.rule,
                point.operating_point,
                tier,
            )
            groups.setdefault(key, []).append((point, point.tiers[tier]))
    rows = []
    for key, members in groups.items():
        entries = [entry for _, entry in members]
        names = ("task", "backbone", "method", "rule", "operating_point", "tier")
        rows.append(
            dict(zip(names, key, strict=True))
            | {
                "seeds": len(entries),
                "count": sum(entry["count"] for entry in entries),
                "metric": members[0][0].metric,
                "quality_mean": mean(entry.get("quality") for entry in entries),
                "quality_std": spread([entry.get("quality") for entry in entries]),
                "mean_exit_layer": mean(entry.get("mean_exit_layer") for entry in entries),
                "mean_exit_layer_std": spread([entry.get("mean_exit_layer") for entry in entries]),
            }
        )
    return rows


# ---- data and calibration --------------------------------------------------------------------------------------------


def data_rows(results: Results) -> list[dict[str, Any]]:
    """Return the statistics of each split of each seed, as `prepare_data` recorded them."""
    rows = []
    for record in results.data:
        shared = record.details.get("shared_texts") or {}
        splits = record.details.get("splits") or {}
        for name in sorted(splits, key=_split_key):
            body = splits[name]
            rows.append(
                {
                    "task": record.cell.task,
                    "backbone": record.cell.backbone,
                    "seed": record.cell.seed,
                    "split": name,
                    "rows": body.get("rows"),
                    "labels": _pairs(body.get("labels")),
                    "tokens": _pairs(body.get("tokens")),
                    "truncated": body.get("truncated"),
                    "repeated": body.get("repeated"),
                    "shared": _pairs({pair: n for pair, n in shared.items() if name in pair.split("-")}),
                    "tiers": _pairs(body.get("tiers")),
                    "labels_flipped": body.get("flipped"),
                }
            )
    return rows


DATA_COLUMNS = [
    "task",
    "backbone",
    "seed",
    "split",
    "rows",
    "labels",
    "tokens",
    "truncated",
    "repeated",
    "shared",
    "tiers",
    "labels_flipped",
]
SPLITS = ("train", "development", "calibration", "evaluation")


def _split_key(name: str) -> tuple[int, str]:
    return (SPLITS.index(name) if name in SPLITS else len(SPLITS), name)


def _pairs(body: Mapping[str, Any] | None) -> str | None:
    """Return ``name:value`` pairs, separated by spaces, or None where there is nothing."""
    if not body:
        return None
    return " ".join(f"{key}:{cell_text(body[key])}" for key in sorted(body, key=natural_key))


def calibration_rows(results: Results) -> list[dict[str, Any]]:
    """Return temperature and expected calibration error before and after, per exit, over seeds (calibration split)."""

    def read(files: CellFiles) -> Iterable[tuple[tuple[Any, ...], Any]]:
        record = files.calibration
        curves = (record.details.get("reliability") if record else None) or {}
        for before, after in zip(curves.get("before") or [], curves.get("after") or [], strict=True):
            assert isinstance(record, Record)
            temperature = record.metrics.get(f"exit{before['layer']}_temperature")
            yield (before["layer"],), (temperature, before["ece"], after["ece"])

    rows = []
    for (cell, (layer,)), values in over_seeds(results, read):
        body: dict[str, Any] = dict(zip(("task", "backbone", "method"), cell, strict=True))
        body |= {"exit_layer": layer, "seeds": len(values)}
        for index, name in enumerate(("temperature", "ece_before", "ece_after")):
            column = [value[index] for value in values]
            body |= {f"{name}_mean": mean(column), f"{name}_std": spread(column)}
        rows.append(body)
    return rows


def over_seeds(
    results: Results, read: Callable[[CellFiles], Iterable[tuple[tuple[Any, ...], Any]]]
) -> list[tuple[tuple[tuple[str, str, str], tuple[Any, ...]], list[Any]]]:
    """Group what ``read`` yields from each cell by (task, backbone, method) and key, in table order."""
    groups: dict[tuple[tuple[str, str, str], tuple[Any, ...]], list[Any]] = {}
    for files in results.cells:
        cell = (files.cell.task, files.cell.backbone, files.cell.method)
        for key, value in read(files):
            groups.setdefault((cell, key), []).append(value)
    return list(groups.items())


EXIT_COLUMNS = [
    "task",
    "backbone",
    "method",
    "exit_layer",
    "seeds",
    "metric",
    "quality_mean",
    "quality_std",
]
TIER_COLUMNS = [
    "task",
    "backbone",
    "method",
    "rule",
    "operating_point",
    "tier",
    "seeds",
    "count",
    "metric",
    "quality_mean",
    "quality_std",
    "mean_exit_layer",
    "mean_exit_layer_std",
]
CALIBRATION_COLUMNS = [
    "task",
    "backbone",
    "method",
    "exit_layer",
    "seeds",
    "temperature_mean",
    "temperature_std",
    "ece_before_mean",
    "ece_before_std",
    "ece_after_mean",
    "ece_after_std",
]


def csv_tables(results: Results, rows: Sequence[Row]) -> dict[str, str]:
    """Return every CSV: file name -> text."""
    return {
        "main.csv": main_csv(rows),
        "exits.csv": csv_text(EXIT_COLUMNS, exit_rows(results)),
        "tiers.csv": csv_text(TIER_COLUMNS, tier_rows(results)),
        "data.csv": csv_text(DATA_COLUMNS, data_rows(results)),
        "calibration.csv": csv_text(CALIBRATION_COLUMNS, calibration_rows(results)),
        "missing.csv": missing_csv(results),
    }
