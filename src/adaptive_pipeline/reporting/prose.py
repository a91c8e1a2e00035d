"""The main table for readers: Markdown with notes, LaTeX with booktabs."""

# ruff: noqa: RUF001 - signs that readers see

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from adaptive_inference.serving.card import metric_name
from adaptive_inference.settings.inputs import REGRESSION_METRICS
from adaptive_pipeline.reporting.aggregate import Row
from adaptive_pipeline.reporting.collect import Results
from adaptive_pipeline.reporting.comparisons import Comparison, sign_note, signs
from adaptive_pipeline.reporting.markdown import number, spread_text, table_line
from adaptive_pipeline.reporting.names import is_certified, method_name, point_name, rule_name
from adaptive_pipeline.reporting.recommendation import Choice
from adaptive_pipeline.reporting.tables import exit_rows, first_exit_difference

HEADERS = ("Method", "Rule", "Operating point", "Seeds", "Quality", "± std", "Δ full", "Layers ×", "FLOPs ×")
WALLCLOCK = ("Wall-clock ×", "95 % interval")
LAST = "Leaves after layer: share"


def main_markdown(
    results: Results,
    rows: Sequence[Row],
    choices: Iterable[Choice],
    comparisons: Sequence[Comparison] = (),
) -> str:
    """Return ``main.md``: one table per task and backbone, what each exit can do, and what to know when reading it.

    Significant differences among ``comparisons`` are marked in the cells of quality and of its loss.
    """
    choices = list(choices)
    chosen, signed = _chosen(choices), signs(comparisons)
    at_chance = {(choice.task, choice.backbone): choice.chance for choice in choices if choice.chance}
    lines = ["# Results", ""]
    if not rows:
        lines += ["Nothing is evaluated yet.", ""]
    for task, backbone in results.pairs():
        here = [row for row in rows if (row.task, row.backbone) == (task, backbone)]
        lines += [f"## {task}, {backbone} ({metric_name(here[0].metric)})", ""]
        if (task, backbone) in at_chance:
            lines += [at_chance[task, backbone].sentence, ""]
        timed = any(row.wallclock_speedup is not None for row in here)
        headers = (*HEADERS, *(WALLCLOCK if timed else ()), LAST)
        lines += [
            table_line(headers),
            table_line(["---", "---", "---", *["---:"] * (len(headers) - 4), "---"]),
        ]
        for row in here:
            bold = _key(row) in chosen
            lines.append(
                table_line(
                    [
                        _bold(text) if bold and text else text
                        for text in _cells(row, timed, signed.get(_key(row), {}))
                    ]
                )
            )
        lines += ["", *_exits(results, task, backbone)]
    return "\n".join([*lines, *_notes(results, rows, comparisons)])


def _key(row: Row) -> tuple[str, ...]:
    return (row.task, row.backbone, row.method, row.rule, row.operating_point)


def _chosen(choices: Iterable[Choice]) -> set[tuple[str, ...]]:
    return {_key(choice.row) for choice in choices if choice.row is not None}


def _bold(text: str) -> str:
    return f"**{text}**"


def _cells(row: Row, timed: bool, sign: Mapping[str, str]) -> list[str]:
    seeds = str(row.seeds) if row.seeds == row.evaluated else f"{row.seeds} of {row.evaluated}"
    cells = [method_name(row.method), rule_name(row.rule), _point(row), seeds]
    cells += [number(row.quality_mean, ".4f") + sign.get("early_exit", ""), number(row.quality_std, ".4f")]
    cells += ["" if row.method == "full" else number(row.quality_difference, "+.4f") + sign.get("full", "")]
    cells += [number(row.layers_speedup, ".2f"), number(row.flops_speedup, ".2f")]
    if timed:
        cells += [number(row.wallclock_speedup, ".2f"), _interval(row)]
    return [*cells, " ".join(f"{layer}:{share:.2f}" for layer, share in row.exit_share.items())]


def _point(row: Row) -> str:
    met, _, of = row.qualifying_seeds.partition("/")
    if met == of:
        return point_name(row.operating_point)
    return f"{point_name(row.operating_point)} (met on {met} of {of} seeds)"


def _interval(row: Row) -> str:
    if row.wallclock_low is None or row.wallclock_high is None:
        return ""
    return f"{row.wallclock_low:.2f} to {row.wallclock_high:.2f}"


def _exits(results: Results, task: str, backbone: str) -> list[str]:
    """Return the small table of each exit by itself, and whether SWEET's first exit beats early exit's."""
    here = [row for row in exit_rows(results) if (row["task"], row["backbone"]) == (task, backbone)]
    layers = sorted({row["exit_layer"] for row in here})
    methods = list(dict.fromkeys(row["method"] for row in here))
    lookup = {(row["method"], row["exit_layer"]): row for row in here}
    if not here:
        return []
    lines = ["Each exit by itself (every row forced to leave there), mean ± std over seeds:", ""]
    lines += [
        table_line(["Method", *(f"layer {layer}" for layer in layers)]),
        table_line(["---", *["---:"] * len(layers)]),
    ]
    for method in methods:
        found = [lookup.get((method, layer)) for layer in layers]
        cells = [spread_text(row["quality_mean"], row["quality_std"]) if row else "" for row in found]
        lines.append(table_line([method_name(method), *cells]))
    for row in first_exit_difference(results, "sweet", "early_exit"):
        if (row["task"], row["backbone"]) == (task, backbone):
            lines += ["", _first_exit_sentence(row)]
    return [*lines, ""]


def _first_exit_sentence(row: dict) -> str:
    verdict = "beats" if row["mean"] > 0 else "equals" if row["mean"] == 0 else "does not beat"
    won = sum(difference > 0 for difference in row["differences"])
    spread = "" if row["std"] is None else f" (std {row['std']:.4f})"
    return (
        f"SWEET's first exit (layer {row['layer']}) {verdict} early exit's: difference "
        f"{number(row['mean'], '+.4f')}{spread}, paired by seed, better in {won} of {row['seeds']}."
    )


def _notes(results: Results, rows: Sequence[Row], comparisons: Sequence[Comparison]) -> list[str]:
    notes = [
        f"{_quality_note(rows)} Speed-ups are cost of the full fine-tuned model / cost of the "
        "method; layers, FLOPs and batch-1 wall-clock are never mixed. Means over seeds, std with n − 1; empty: not "
        "measured. Operating points were chosen on the calibration split, so a goal may be missed here. "
        "Bold: the recommendation (chosen on calibration, see recommendation.md).",
    ]
    if comparisons:
        notes.append(sign_note(comparisons))
    leaked = {
        files.cell.task
        for files in results.cells
        if files.calibration and files.calibration.details.get("calibrated_on") == "evaluation"
    }
    if leaked:
        notes.append(
            f"**Calibrated on the evaluation split ({', '.join(sorted(leaked))}): these numbers are optimistic** and only "
            "reproduce a published protocol."
        )
    if any(not row.attainable for row in rows):
        notes.append("The oracle looks at the labels: a bound, not a method.")
    risk = results.params.goal.risk
    if risk and any(is_certified(row.operating_point) for row in rows):
        notes.append(
            f"risk ≤ {risk.delta:g}: the fastest threshold certified on the calibration split, with probability "
            f"{1 - risk.epsilon:g} for each method, rule and seed by itself ({risk.loss} loss against the full model)."
        )
    seeds = sorted({point.cell.seed for point in results.points if point.wallclock})
    if seeds:
        named = ", ".join(str(seed) for seed in seeds)
        notes.append(
            f"Wall-clock of seed{'' if len(seeds) == 1 else 's'} {named}, measured on: {'; '.join(results.machines)}."
        )
        if set(seeds) != {point.cell.seed for point in results.points}:
            notes.append(
                "Quality and layers of these seeds alone, to set beside wall-clock, are `timed_quality` and "
                "`timed_layers_speedup` in main.csv."
            )
    else:
        notes.append("Wall-clock was not measured.")
    if results.missing:
        cells = ", ".join(f"{m.cell.name} ({m.why})" for m in results.missing[:12])
        more = f", and {len(results.missing) - 12} more" if len(results.missing) > 12 else ""
        notes.append(f"**Missing cells ({len(results.missing)}, see missing.csv):** {cells}{more}.")
    return ["Notes", "", *(f"- {note}" for note in notes), ""]


def _quality_note(rows: Sequence[Row]) -> str:
    """Say what quality is measured in; tasks of several metrics are never averaged."""
    metrics = {row.metric for row in rows}
    if not metrics & set(REGRESSION_METRICS):
        return "Quality is a fraction of the evaluation split."
    return (
        "Quality is the metric that a table is headed with, on the evaluation split; a correlation lies between −1 and 1, "
        "counts as 0 where all answers are equal, and a point of it is 0.01."
        + (" Metrics of several kinds stand here: compare within a table only." if len(metrics) > 1 else "")
    )


# ---- LaTeX -----------------------------------------------------------------------------------------------------------

_ESCAPES = {"&": r"\&", "%": r"\%", "#": r"\#", "_": r"\_", "$": r"\$", "{": r"\{", "}": r"\}"}
_SYMBOLS = {"≤": r"$\leq$", "≥": r"$\geq$", "×": r"$\times$", "±": r"$\pm$", "−": r"$-$", "Δ": r"$\Delta$"}


def latex(text: str) -> str:
    """Return text with LaTeX's special characters escaped."""
    text = (
        text.replace("\\", r"\textbackslash ")
        .replace("~", r"\textasciitilde ")
        .replace("^", r"\textasciicircum ")
    )
    return "".join(_ESCAPES.get(char) or _SYMBOLS.get(char) or char for char in text)


def main_latex(results: Results, rows: Sequence[Row], choices: Iterable[Choice]) -> str:
    """Return ``main.tex``: one booktabs tabular, to be read by LaTeX's input (needs the package booktabs)."""
    chosen = _chosen(choices)
    timed = any(row.wallclock_speedup is not None for row in rows)
    metrics = {(row.task, row.backbone): metric_name(row.metric) for row in rows}
    plain = set(metrics.values()) <= {"accuracy"}  # what quality means where nothing else is said
    headers = (
        "Method",
        "Rule",
        "Operating point",
        "$n$",
        "Quality",
        "Layers ×",
        "FLOPs ×",
        *(("Wall-clock ×",) if timed else ()),
    )
    lines = ["% Generated from the records by pipeline_steps/make_tables.py; needs \\usepackage{booktabs}."]
    lines += [f"\\begin{{tabular}}{{lll{'r' * (len(headers) - 3)}}}", "\\toprule"]
    lines += [" & ".join(h if h == "$n$" else latex(h) for h in headers) + r" \\"]
    for task, backbone in results.pairs():
        heading = f"{task}, {backbone}" + ("" if plain else f" ({metrics[task, backbone]})")
        lines += [
            "\\midrule",
            f"\\multicolumn{{{len(headers)}}}{{l}}{{\\emph{{{latex(heading)}}}}} \\\\",
        ]
        for row in rows:
            if (row.task, row.backbone) != (task, backbone):
                continue
            cells = [method_name(row.method), rule_name(row.rule), _point(row), str(row.seeds)]
            cells += [spread_text(row.quality_mean, row.quality_std)]
            cells += [number(row.layers_speedup, ".2f"), number(row.flops_speedup, ".2f")]
            cells += [number(row.wallclock_speedup, ".2f")] if timed else []
            wrap: Callable[[str], str] = (
                (lambda text: f"\\textbf{{{text}}}" if text else "") if _key(row) in chosen else str
            )
            lines.append(" & ".join(wrap(latex(cell)) for cell in cells) + r" \\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", ""])
