"""The main table for readers: what each method gives at the goal, and folded away all that was measured."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from adaptive_pipeline.reporting.breakdowns import exits, first_exit_difference
from adaptive_pipeline.reporting.choice import Choice
from adaptive_pipeline.reporting.frame import Results
from adaptive_pipeline.reporting.goal_rows import coinciding
from adaptive_pipeline.reporting.measures import KEY, MEASURES, UNITS, Measure
from adaptive_pipeline.reporting.names import method_name, rule_name
from adaptive_pipeline.reporting.tables.at_goal import goal_lines
from adaptive_pipeline.reporting.text.markdown import (
    folded,
    interval_text,
    notes_list,
    number,
    points_text,
    spread_text,
    table,
)
from adaptive_pipeline.reporting.text.notes import first_exit_sentence, main_notes, signs
from adaptive_pipeline.reporting.text.sentences import chance_sentence, nothing_evaluated

#: Signs of significant differences stand with the figure that they speak of.
SIGNED = {"quality_mean": "early_exit", "quality_difference": "full"}
#: Rows of the main table that are shown as one, with the names of their rules.
Merged = tuple[Any, tuple[str, ...]]


def main_markdown(results: Results, choices: Sequence[Choice], comparisons: pd.DataFrame) -> str:
    """Return ``main.md``: per task and backbone one row per method at the goal; below it, folded, every rule and goal.

    Significant differences among ``comparisons`` are marked in the folded cells of quality and of its loss.
    """
    signed, by_pair = signs(comparisons), {(choice.task, choice.backbone): choice for choice in choices}
    lines = ["# Results", ""]
    if results.main.empty:
        lines += [nothing_evaluated(results.params), ""]
    for one in results.each:
        choice = by_pair[one.pair]
        lines += [f"## {one.title} ({one.metric})", ""]
        if choice.chance:
            lines += [chance_sentence(choice.chance), ""]
        lines += [*goal_lines(one, choice), *_everything(one, signed), *_leaving(one), *_exits(one)]
    return "\n".join([*lines, *notes_list(main_notes(results, comparisons))])


# ---- every rule at every goal ----------------------------------------------------------------------------------------


def _everything(results: Results, signed: Mapping[tuple[str, ...], Mapping[str, str]]) -> list[str]:
    shown = shown_measures(results.main)
    headers = ["Method", "Rule", "Seeds", *(header for measure in shown for header in _headers(measure))]
    lines = []
    for words, rows in _by_goal(results.main):
        merged = [item for item in coinciding(rows) if item[0].seeds]
        cells = [_cells(item, shown, _signs_of(item, signed)) for item in merged]
        lines += [f"**{words}**", ""]
        if cells:
            lines += [*table("ll" + "r" * (len(headers) - 2), headers, cells), ""]
        lines += _unmet(rows)
    return folded(f"Every rule at every goal ({len(results.main)} rows)", lines)


def _by_goal(main: pd.DataFrame) -> Iterator[tuple[str, list[Any]]]:
    """Yield the rows of each goal under its words, first those without a threshold to choose, last the overhead alone."""
    rows = list(main.itertuples())
    named = {row.goal for row in rows if row.goal.chosen or row.goal.kind == "nothing_removed"}
    given = [row for row in rows if row.goal not in named]
    if given:
        yield "no threshold to choose", given
    for goal in sorted(named, key=lambda goal: goal.order):
        yield goal.words, [row for row in rows if row.goal == goal]


def _unmet(rows: Iterable[Any]) -> list[str]:
    """Return the line that names the rules by which no threshold meets the goal."""
    rules: dict[str, list[str]] = {}
    for row in rows:
        if not row.seeds:
            rules.setdefault(row.method, []).append(rule_name(row.rule))
    named = "; ".join(f"{method_name(method)} ({', '.join(own)})" for method, own in rules.items())
    return [f"No threshold meets it on the calibration split: {named}.", ""] if named else []


def shown_measures(rows: pd.DataFrame) -> list[Measure]:
    """Return the measures that readers see, by unit: those of the clock only where something was timed."""
    there = [m for m in MEASURES if m.header and (m.among != "timed" or rows[m.name].notna().any())]
    return sorted(there, key=lambda measure: UNITS.index(measure.unit))


def _headers(measure: Measure) -> list[str]:
    return [measure.header, *(["95 % interval of it"] if measure.name == "wallclock_speedup" else [])]


def _signs_of(item: Merged, signed: Mapping[tuple[str, ...], Mapping[str, str]]) -> dict[str, str]:
    row, rules = item
    keys = ([getattr(row, name) if name != "rule" else rule for name in KEY] for rule in rules)
    return {reference: sign for key in keys for reference, sign in signed.get(tuple(key), {}).items()}


def _cells(item: Merged, shown: Iterable[Measure], sign: Mapping[str, str]) -> list[str]:
    row, rules = item
    cells = [method_name(row.method), ", ".join(map(rule_name, rules)), _seeds(row)]
    for measure in shown:
        value, text = getattr(row, measure.name), ""
        if measure.name != "quality_difference":
            text = number(value, measure.form)
        elif row.method != "full":
            text = points_text(value)
        cells.append(text + sign.get(SIGNED.get(measure.name, ""), ""))
        if measure.name == "wallclock_speedup":
            cells.append(interval_text(row.wallclock_low, row.wallclock_high, "{}"))
    return cells


def _seeds(row: Any) -> str:
    return str(row.seeds) if row.seeds == row.evaluated else f"{row.seeds} of {row.evaluated}"


def point_words(row: Any) -> str:
    """Return a row's goal in words, and on how many seeds it was met where not on all."""
    met, _, of = row.qualifying_seeds.partition("/")
    return row.goal.words + ("" if met == of else f" (met on {met} of {of} seeds)")


# ---- where rows leave, and what each exit can do ----------------------------------------------------------------------


def _leaving(results: Results) -> list[str]:
    """Return which share of the rows leaves after each layer, goal by goal."""
    lines = []
    for words, rows in _by_goal(results.main):
        merged = [(row, rules) for row, rules in coinciding(rows) if row.exit_share and row.goal.chosen]
        layers = sorted({layer for row, _ in merged for layer in row.exit_share})
        cells = [
            [method_name(row.method), ", ".join(map(rule_name, rules))]
            + [f"{100 * row.exit_share.get(layer, 0.0):.0f} %" for layer in layers]
            for row, rules in merged
        ]
        if cells:
            headers = ["Method", "Rule", *(f"layer {layer}" for layer in layers)]
            lines += [f"**{words}**", "", *table("ll" + "r" * len(layers), headers, cells), ""]
    return folded("Where rows leave: share after each layer, seeds pooled", lines) if lines else []


def _exits(results: Results) -> list[str]:
    """Return the small table of each exit by itself, and whether SWEET's first exit beats early exit's."""
    rows = exits(results)
    if rows.empty:
        return []
    rows["text"] = [spread_text(*pair) for pair in zip(rows.quality_mean, rows.quality_std, strict=True)]
    wide = rows.pivot(index="method", columns="exit_layer", values="text").fillna("")
    cells = [[method_name(method), *wide.loc[method]] for method in rows.method.drop_duplicates()]
    headers = ["Method", *(f"layer {layer}" for layer in wide.columns)]
    lines = table("l" + "r" * len(wide.columns), headers, cells)
    for row in first_exit_difference(results, "sweet", "early_exit").itertuples():
        lines += ["", first_exit_sentence(row)]
    return folded("Each exit by itself: every row forced to leave there, mean ± std over seeds", [*lines, ""])
