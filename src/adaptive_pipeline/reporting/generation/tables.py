"""The tables on tasks that write text: to compute with, to read, to print."""

# ruff: noqa: RUF001 - signs that readers see

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import pandas as pd

from adaptive_inference.settings.generation import TextCalibration
from adaptive_pipeline.reporting.generation.frame import PAIR, TextResults
from adaptive_pipeline.reporting.names import method_name
from adaptive_pipeline.reporting.tables.csv import csv_text
from adaptive_pipeline.reporting.tables.latex import latex
from adaptive_pipeline.reporting.text.markdown import (
    folded,
    interval_text,
    notes_list,
    number,
    spread_text,
    table,
)

MISSING = [*PAIR, "method", "seed", "why"]
#: Heading of the first table -> the column of the main frame that it needs; without one it is always shown.
HEADERS = {
    "Method": "",
    "Threshold chosen for": "",
    "Threshold": "",
    "Quality": "",
    "Of its own full, %": "",
    "Of Full model, %": "share_of_full",
    "Agreement, %": "",
    "Blocks": "",
    "Waited for": "",
    "Papers' count": "",
    "FLOPs ×": "",
    "Text × (95 % interval of it)": "free_speedup",
    "Tokens/s ×": "free_tokens_speedup",
    "Fixed length × (95 % interval of it)": "fixed_speedup",
    "ms / plain": "free_seconds",
}
GRID_HEADERS = (
    "Method", "Seed", "Threshold", "Prompts", "Quality", "Of its own full, %", "Agreement, %", "Blocks", "Waited for",
    "Papers' count",     "FLOPs ×",
)  # fmt: skip
KIND_HEADERS = ("Method", "Threshold chosen for", "Difficulty", "Tokens", "Came from block", "Agreement, %")


def text_tables(results: TextResults) -> dict[str, str]:
    """Return every table that has something to say: file name -> text; none where no task writes text."""
    if not results.params.generation.tasks:
        return {}
    missing = [asdict(item.cell) | {"model": item.cell.backbone, "why": item.why} for item in results.missing]
    tables = {
        "generation.csv": csv_text(results.main),
        "generation_grid.csv": csv_text(results.grid),
        "generation_missing.csv": csv_text(pd.DataFrame(missing, columns=[*MISSING])),
        "generation.md": text_markdown(results),
        "generation.tex": text_latex(results),
    }
    if len(results.kinds):
        tables["generation_difficulty.csv"] = csv_text(results.kinds)
    return tables


# ---- to read ---------------------------------------------------------------------------------------------------------


def goal_words(row: Any, asked: TextCalibration) -> str:
    """Return in words what a row's threshold was chosen for, and on how many seeds it was reached where not on all."""
    if row.goal == "none":
        return ""
    words = f"loss ≤ {row.goal_value:g}, certified ({asked.consistency})"
    if row.goal == "min_quality":
        words = f"≥ {100 * row.goal_value:g} % of its own full quality"
    reached, _, of = row.reached_seeds.partition("/")
    return (
        words
        if reached == of
        else f"{words} (reached on {reached} of {of} {'seed' if of == '1' else 'seeds'})"
    )


def text_markdown(results: TextResults) -> str:
    """Return ``generation.md``: per task and model a row per chosen threshold; below it, folded, all that was run."""
    lines = ["# Early-exit decoding", ""]
    if results.main.empty:
        lines += ["Nothing is evaluated yet.", ""]
    for one in results.each:
        blocks = int(one.main.decoder_blocks.iloc[0])
        lines += [
            f"## {one.title} ({one.metric}, {blocks} decoder blocks)",
            "",
            *_main(one),
            "",
            *_kinds(one),
            *_grid(one),
        ]
    return "\n".join([*lines, *notes_list(_notes(results))])


def _main(results: TextResults) -> list[str]:
    asked = results.params.generation.calibration
    rows = list(results.main.itertuples())
    cells = [_cells(row, goal_words(row, asked)) for row in rows]
    shown = [
        place for place, name in enumerate(HEADERS.values()) if not name or results.main[name].notna().any()
    ]
    headers = [list(HEADERS)[place] for place in shown]
    return table(
        "ll" + "r" * (len(headers) - 2), headers, [[line[place] for place in shown] for line in cells]
    )


def _cells(row: Any, words: str) -> list[str]:
    spread = f" ± {row.quality_std:.4f}" if pd.notna(row.quality_std) else ""
    both = [number(1000 * value, ".1f") for value in (row.free_seconds, row.free_full_seconds)]
    return [
        method_name(row.method),
        words,
        number(row.threshold, ".4g"),
        number(row.quality_mean, ".4f") + spread,
        _percent(row.quality_share),
        _percent(row.share_of_full),
        _percent(row.agreement),
        number(row.blocks, ".2f"),
        number(row.block_calls, ".2f"),
        number(row.paper_blocks, ".2f"),
        number(row.flops_speedup, ".2f"),
        number(row.free_speedup, ".2f") + interval_text(row.free_speedup_low, row.free_speedup_high),
        number(row.free_tokens_speedup, ".2f"),
        number(row.fixed_speedup, ".2f") + interval_text(row.fixed_speedup_low, row.fixed_speedup_high),
        " / ".join(text for text in both if text),
    ]


def _percent(value: float) -> str:
    return number(100 * value, ".1f")


def _kinds(results: TextResults) -> list[str]:
    """Return the table of tokens of known difficulty, one threshold per method."""
    kinds, asked = results.shown_kinds, results.params.generation.calibration
    words = {(row.method, row.goal): goal_words(row, asked) for row in results.main.itertuples()}
    cells = [
        [
            method_name(row.method),
            words[row.method, row.goal],
            row.kind,
            f"{row.tokens:,d}",
            number(row.blocks, ".2f"),
            _percent(row.agreement),
        ]
        for row in kinds.itertuples()
    ]
    if not cells:
        return []
    lines = table("lllrrr", KIND_HEADERS, cells)
    return folded("Tokens by how hard they are to find, seeds pooled", [*lines, ""])


def _grid(results: TextResults) -> list[str]:
    rows = results.grid[(results.grid.split == "evaluation") & results.grid.threshold.notna()]
    cells = [
        [
            method_name(row.method),
            str(row.seed),
            number(row.threshold, ".4g"),
            str(row.prompts),
            number(row.quality, ".4f"),
            *map(_percent, (row.quality_share, row.agreement)),
            *(
                number(value, ".2f")
                for value in (row.blocks, row.block_calls, row.paper_blocks, row.flops_speedup)
            ),
        ]
        for row in rows.itertuples()
    ]
    if not cells:
        return []
    lines = table("l" + "r" * (len(GRID_HEADERS) - 1), GRID_HEADERS, cells)
    return folded(f"Every threshold that was run on the evaluation split ({len(cells)} rows)", [*lines, ""])


def _notes(results: TextResults) -> Iterator[str]:
    main, asked = results.main, results.params.generation
    if len(main):
        seeds = ", ".join(map(str, sorted(set(results.points.seed))))
        yield (
            f"Seeds: {seeds}; means over them, ± std with n − 1. Greedy decoding of {_range(main.prompts)} texts of the "
            "evaluation split per seed. Quality is a fraction. Its own full: the same weights with all blocks, on the same "
            "texts. Full model: the method `full`, trained by its own loss, so that what another training costs shows here."
        )
        yield (
            "Agreement: share of places at which the same weights with all blocks write the same token. Blocks: decoder "
            "blocks computed per token, deep rows that caught up included. Waited for: blocks run one after another per "
            "token, tokens that go through together counted once. Papers' count: by the block that each token came from, as "
            "CALM and FREE count; what catching up costs is not in it. FLOPs: exact decoder FLOPs per token, "
            "vocabulary projections included."
        )
        yield (
            "Thresholds were chosen on calibration rows, so that the evaluation split may miss what was asked for "
            "(`met_seeds` in generation.csv, where it tells). Not reached: no threshold below 1 is good enough, and 1 never "
            f"exits. Certified: with probability {1 - asked.calibration.epsilon:g}, for each method and seed by itself."
        )
        yield from _clock(results)
        yield (
            f"Every threshold was really run, on {_range(results.grid.prompts)} texts each: generation_grid.csv has them on "
            "both splits."
        )
    if results.missing:
        cells = ", ".join(f"{item.cell.name} ({item.why})" for item in results.missing[:12])
        more = f", and {len(results.missing) - 12} more" if len(results.missing) > 12 else ""
        yield f"**Missing cells ({len(results.missing)}, see generation_missing.csv):** {cells}{more}."


def _clock(results: TextResults) -> Iterator[str]:
    main = results.main[results.main.machine != ""]
    if main.empty:
        yield "Wall-clock was not measured."
        return
    yield (
        "Text ×: seconds of plain `generate` of the same weights over seconds of this, per text at batch 1, in turns in one "
        f"process; median over {_range(main.free_requests)} texts, with its 95 % bootstrap interval (several seeds: lowest "
        "and highest end). Texts end by themselves, so a text of another length counts as it is; fixed length: all have "
        f"{results.params.generation.evaluation.fixed_length} new tokens. Tokens/s ×: of all tokens over all seconds. "
        f"ms: median of a text, and of plain `generate`. Measured on: {'; '.join(sorted({*main.machine}))}."
    )


def _range(values: pd.Series) -> str:
    """Return e.g. ``200`` or ``40 to 200``."""
    low, high = int(values.min()), int(values.max())
    return str(low) if low == high else f"{low} to {high}"


# ---- to print --------------------------------------------------------------------------------------------------------

PRINTED = (
    "Method",
    "Threshold chosen for",
    "$n$",
    "Quality",
    "Agreement",
    "Blocks",
    "Waited for",
    "FLOPs ×",
    "Text ×",
    "Fixed length ×",
)


def text_latex(results: TextResults) -> str:
    """Return ``generation.tex``: one booktabs tabular, to be read by LaTeX's input (needs the package booktabs)."""
    asked = results.params.generation.calibration
    headers = [name if name.startswith("$") else latex(name) for name in PRINTED]
    lines = ["% Generated from the records by pipeline_steps/make_tables.py; needs \\usepackage{booktabs}."]
    lines += [
        f"\\begin{{tabular}}{{ll{'r' * (len(headers) - 2)}}}",
        "\\toprule",
        " & ".join(headers) + r" \\",
    ]
    for one in results.each:
        heading = latex(f"{one.title} ({one.metric})")
        lines += ["\\midrule", f"\\multicolumn{{{len(headers)}}}{{l}}{{\\emph{{{heading}}}}} \\\\"]
        for row in one.main.itertuples():
            cells = [method_name(row.method), goal_words(row, asked), str(row.seeds)]
            cells += [spread_text(row.quality_mean, row.quality_std), number(row.agreement, ".3f")]
            speeds = (row.blocks, row.block_calls, row.flops_speedup, row.free_speedup, row.fixed_speedup)
            cells += [number(value, ".2f") for value in speeds]
            lines.append(" & ".join(map(latex, cells)) + r" \\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", ""])
