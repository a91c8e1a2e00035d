"""The main table for readers: Markdown with notes, LaTeX with booktabs."""

# ruff: noqa: RUF001 - signs that readers see

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from adaptive_pipeline.reporting.breakdowns import exits, first_exit_difference
from adaptive_pipeline.reporting.choice import Choice
from adaptive_pipeline.reporting.frame import Results
from adaptive_pipeline.reporting.measures import KEY, MEASURES, UNITS, Measure
from adaptive_pipeline.reporting.names import method_name, rule_name
from adaptive_pipeline.reporting.text.markdown import notes_list, number, spread_text, table
from adaptive_pipeline.reporting.text.notes import first_exit_sentence, main_notes, signs
from adaptive_pipeline.reporting.text.sentences import chance_sentence

HEADERS = ["Method", "Rule", "Operating point"]
#: Signs of significant differences stand with the figure that they speak of.
SIGNED = {"quality_mean": "early_exit", "quality_difference": "full"}


def main_markdown(results: Results, choices: Sequence[Choice], comparisons: pd.DataFrame) -> str:
    """Return ``main.md``: one table per task and backbone, what each exit can do, and what to know when reading it.

    Significant differences among ``comparisons`` are marked in the cells of quality and of its loss.
    """
    chosen, signed = _chosen(choices), signs(comparisons)
    at_chance = {(choice.task, choice.backbone): choice.chance for choice in choices}
    lines = ["# Results", ""]
    if results.main.empty:
        lines += ["Nothing is evaluated yet.", ""]
    for one in results.each:
        lines += [f"## {one.title} ({one.metric})", ""]
        chance = at_chance.get(one.pair)
        if chance:
            lines += [chance_sentence(chance), ""]
        shown = sorted(_shown(one.main), key=lambda measure: UNITS.index(measure.unit))
        headers = [*HEADERS, "Seeds", *(header for measure in shown for header in _headers(measure))]
        cells = [
            _bold(_cells(row, shown, signed.get(_key(row), {})), _key(row) in chosen)
            for row in one.main.itertuples()
        ]
        lines += [*table("lll" + "r" * (len(headers) - 4) + "l", headers, cells), "", *_exits(one)]
    return "\n".join([*lines, *notes_list(main_notes(results, comparisons))])


def _shown(rows: pd.DataFrame) -> list[Measure]:
    """Return the measures that readers see: wall-clock only where something was timed."""
    return [m for m in MEASURES if m.header and (m.among != "timed" or rows[m.name].notna().any())]


def _headers(measure: Measure) -> list[str]:
    return [measure.header, *(["95 % interval"] if measure.among == "timed" else [])]


def _key(row: Any) -> tuple[str, ...]:
    return tuple(getattr(row, name) for name in KEY)


def _chosen(choices: Iterable[Choice]) -> set[tuple[str, ...]]:
    return {_key(choice.row) for choice in choices if choice.row is not None}


def _bold(cells: Sequence[str], bold: bool) -> list[str]:
    return [f"**{text}**" if bold and text else text for text in cells]


def _cells(row: Any, shown: Iterable[Measure], sign: Mapping[str, str]) -> list[str]:
    seeds = str(row.seeds) if row.seeds == row.evaluated else f"{row.seeds} of {row.evaluated}"
    cells = [method_name(row.method), rule_name(row.rule), _point(row), seeds]
    for measure in shown:
        value = getattr(row, measure.name)
        if measure.unit == "share":
            cells.append(" ".join(f"{layer}:{share:.2f}" for layer, share in value.items()))
        elif measure.name == "quality_difference" and row.method == "full":
            cells.append("")
        else:
            cells.append(number(value, measure.form) + sign.get(SIGNED.get(measure.name, ""), ""))
        if measure.among == "timed":
            low, high = row.wallclock_low, row.wallclock_high
            cells.append("" if pd.isna(low) or pd.isna(high) else f"{low:.2f} to {high:.2f}")
    return cells


def _point(row: Any) -> str:
    met, _, of = row.qualifying_seeds.partition("/")
    return row.goal.words + ("" if met == of else f" (met on {met} of {of} seeds)")


def _exits(results: Results) -> list[str]:
    """Return the small table of each exit by itself, and whether SWEET's first exit beats early exit's."""
    rows = exits(results)
    if rows.empty:
        return []
    rows["text"] = [spread_text(*pair) for pair in zip(rows.quality_mean, rows.quality_std, strict=True)]
    wide = rows.pivot(index="method", columns="exit_layer", values="text").fillna("")
    cells = [[method_name(method), *wide.loc[method]] for method in rows.method.drop_duplicates()]
    headers = ["Method", *(f"layer {layer}" for layer in wide.columns)]
    lines = ["Each exit by itself (every row forced to leave there), mean ± std over seeds:", ""]
    lines += table("l" + "r" * len(wide.columns), headers, cells)
    for row in first_exit_difference(results, "sweet", "early_exit").itertuples():
        lines += ["", first_exit_sentence(row)]
    return [*lines, ""]


# ---- LaTeX -----------------------------------------------------------------------------------------------------------

_ESCAPES = {
    "\\": r"\textbackslash ", "~": r"\textasciitilde ", "^": r"\textasciicircum ",
    "&": r"\&", "%": r"\%", "#": r"\#", "_": r"\_", "$": r"\$", "{": r"\{", "}": r"\}",
    "≤": r"$\leq$", "≥": r"$\geq$", "×": r"$\times$", "±": r"$\pm$", "−": r"$-$", "Δ": r"$\Delta$",
}  # fmt: skip


def latex(text: str) -> str:
    """Return text with LaTeX's special characters escaped."""
    return text.translate(str.maketrans(_ESCAPES))


def main_latex(results: Results, choices: Iterable[Choice]) -> str:
    """Return ``main.tex``: one booktabs tabular, to be read by LaTeX's input (needs the package booktabs)."""
    rows, chosen = results.main, _chosen(choices)
    speeds = [measure for measure in _shown(rows) if measure.unit == "times"]
    plain = set(rows.metric) <= {"accuracy"}  # what quality means where nothing else is said
    headers = [*map(latex, HEADERS), "$n$", "Quality", *(latex(measure.header) for measure in speeds)]
    lines = ["% Generated from the records by pipeline_steps/make_tables.py; needs \\usepackage{booktabs}."]
    lines += [f"\\begin{{tabular}}{{lll{'r' * (len(headers) - 3)}}}", "\\toprule"]
    lines += [" & ".join(headers) + r" \\"]
    for one in results.each:
        heading = one.title + ("" if plain else f" ({one.metric})")
        lines += ["\\midrule", f"\\multicolumn{{{len(headers)}}}{{l}}{{\\emph{{{latex(heading)}}}}} \\\\"]
        for row in one.main.itertuples():
            cells = [method_name(row.method), rule_name(row.rule), _point(row), str(row.seeds)]
            cells += [spread_text(row.quality_mean, row.quality_std)]
            cells = [latex(text) for text in cells + [number(getattr(row, m.name), m.form) for m in speeds]]
            if _key(row) in chosen:
                cells = [f"\\textbf{{{text}}}" if text else "" for text in cells]
            lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", ""])
