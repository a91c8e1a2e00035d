"""The main table to print: LaTeX with booktabs."""

# ruff: noqa: RUF001 - signs that readers see

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from adaptive_pipeline.reporting.choice import Choice
from adaptive_pipeline.reporting.frame import Results
from adaptive_pipeline.reporting.measures import KEY
from adaptive_pipeline.reporting.names import method_name, rule_name
from adaptive_pipeline.reporting.tables.main import point_words, shown_measures
from adaptive_pipeline.reporting.text.markdown import number, spread_text

HEADERS = ["Method", "Rule", "Operating point"]

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
    rows, chosen = results.main, {key for choice in choices if (key := _marked_key(results, choice))}
    speeds = [measure for measure in shown_measures(rows) if measure.unit == "times"]
    plain = set(rows.metric) <= {"accuracy"}  # what quality means where nothing else is said
    headers = [*map(latex, HEADERS), "$n$", "Quality", *(latex(measure.header) for measure in speeds)]
    lines = ["% Generated from the records by pipeline_steps/make_tables.py; needs \\usepackage{booktabs}."]
    lines += [f"\\begin{{tabular}}{{lll{'r' * (len(headers) - 3)}}}", "\\toprule"]
    lines += [" & ".join(headers) + r" \\"]
    for one in results.each:
        heading = one.title + ("" if plain else f" ({one.metric})")
        lines += ["\\midrule", f"\\multicolumn{{{len(headers)}}}{{l}}{{\\emph{{{latex(heading)}}}}} \\\\"]
        for row in one.main.itertuples():
            cells = [method_name(row.method), rule_name(row.rule), point_words(row), str(row.seeds)]
            cells += [spread_text(row.quality_mean, row.quality_std)]
            cells = [latex(text) for text in cells + [number(getattr(row, m.name), m.form) for m in speeds]]
            if tuple(getattr(row, name) for name in KEY) in chosen:
                cells = [f"\\textbf{{{text}}}" if text else "" for text in cells]
            lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", ""])


def _marked_key(results: Results, choice: Choice) -> tuple[str, ...] | None:
    """Return the key of the row of which the recommended model is one seed; None where its threshold is in no row."""
    points, marked = results.points, choice.marked
    here = (points.task == choice.task) & (points.backbone == choice.backbone)
    if not choice.known:
        return None
    if marked is None:
        found = points[here & (points.method == "full")]
    else:
        same = [(points[name] == getattr(marked, name)) for name in ("method", "rule", "seed", "threshold")]
        found = points[here & pd.concat(same, axis=1).all(axis=1)]
    return next(found[KEY].itertuples(index=False, name=None), None)
