"""All that is made of the records of a run: tables, figures, the recommendation, and the model that it recommends."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pandas as pd

from adaptive_inference.files import write_json, write_text
from adaptive_pipeline.params import Params
from adaptive_pipeline.reporting import breakdowns
from adaptive_pipeline.reporting.choice import Choice, recommend
from adaptive_pipeline.reporting.combined import combined
from adaptive_pipeline.reporting.deployments import deployments
from adaptive_pipeline.reporting.figures import analysis, exits, rationales, weights
from adaptive_pipeline.reporting.figures.differences import draw_differences
from adaptive_pipeline.reporting.figures.headline import draw_speed
from adaptive_pipeline.reporting.figures.survivors import draw_exit_survivors
from adaptive_pipeline.reporting.frame import Results, collect
from adaptive_pipeline.reporting.generation.confidence import draw_confidences, draw_trajectory
from adaptive_pipeline.reporting.generation.curves import draw_quality_latency
from adaptive_pipeline.reporting.generation.difficulty import draw_difficulty
from adaptive_pipeline.reporting.generation.frame import TextResults, collect_texts
from adaptive_pipeline.reporting.generation.headline import text_metrics
from adaptive_pipeline.reporting.generation.tables import text_tables
from adaptive_pipeline.reporting.handout import hand_out
from adaptive_pipeline.reporting.headline import metrics_json
from adaptive_pipeline.reporting.page import report_page
from adaptive_pipeline.reporting.published.side_by_side import COLUMNS as PUBLISHED
from adaptive_pipeline.reporting.published.side_by_side import published_markdown, side_by_side
from adaptive_pipeline.reporting.statistics.areas import areas
from adaptive_pipeline.reporting.statistics.comparisons import compare, unanswered
from adaptive_pipeline.reporting.tables.combined import combined_markdown
from adaptive_pipeline.reporting.tables.csv import comparisons_csv, csv_tables, csv_text
from adaptive_pipeline.reporting.tables.deployments import deployments_markdown
from adaptive_pipeline.reporting.tables.latex import main_latex
from adaptive_pipeline.reporting.tables.main import main_markdown
from adaptive_pipeline.reporting.tables.markdown import areas_markdown, comparisons_markdown, cost_markdown
from adaptive_pipeline.reporting.tables.rationales import rationales_markdown
from adaptive_pipeline.reporting.text.recommendation import as_json, as_markdown

#: What a report owns in its folder; anything else there (kept records, a page about them) stays.
OUTPUTS = (
    "tables", "figures", "model", "recommendation.json", "recommendation.md", "report.html", "metrics.json"
)  # fmt: skip

#: Kind -> what draws it, one figure or one per method, of a task and backbone; besides quality against speed.
FIGURES = {
    "exit_quality": analysis.draw_exit_quality,
    "exits": exits.draw_exits,
    "reliability": exits.draw_reliability,
    "rule_matrix": analysis.draw_rule_matrix,
    "patience": analysis.draw_patience,
    "conflict": analysis.draw_conflict,
    "overthinking": analysis.draw_overthinking,
    "weights": weights.draw_weights,
    "rationales": rationales.draw_rationales,
    "exit_survivors": draw_exit_survivors,
}
#: The same of a task that writes text, and a model.
TEXT_FIGURES = {
    "quality_latency": draw_quality_latency,
    "difficulty": draw_difficulty,
    "confidences": draw_confidences,
    "threshold": draw_trajectory,
}


def make_report(runs: Path, params: Params, out: Path) -> None:
    """Write the whole report of the records in ``runs`` beside its final place, then move it there."""
    out.mkdir(parents=True, exist_ok=True)
    partial = out / ".make_tables.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        results = collect(runs, params)
        _write(results, collect_texts(results.runs, params), runs, partial, out.as_posix())
        _replace_outputs(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write(results: Results, written: TextResults, runs: Path, out: Path, shown_as: str) -> None:
    """Write everything into ``out``; commands in the texts name it ``shown_as``."""
    choices, comparisons = recommend(results), compare(results)
    texts = tables(results, choices, comparisons) | text_tables(written)
    for name, text in texts.items():
        write_text(out / "tables" / name, text)
    drawn = draw_figures(results, choices, comparisons, out / "figures")
    drawn += draw_text_figures(written, out / "figures")
    handed_out = {choice.model for choice in choices if hand_out(results, choice, runs, out)}
    write_json(out / "recommendation.json", as_json(choices, results, shown_as, handed_out))
    recommendation = as_markdown(choices, results, shown_as, handed_out)
    write_text(out / "recommendation.md", recommendation)
    told = recommendation if results.params.tasks else ""
    shown = report_page([*results.each, *written.each], told, texts, drawn, out / "figures")
    write_text(out / "report.html", shown)
    write_json(out / "metrics.json", metrics_json(results, choices) | text_metrics(written))


def tables(results: Results, choices: list[Choice], comparisons: pd.DataFrame) -> dict[str, str]:
    """Return every table that has something to say: file name -> text."""
    curves, published = areas(results), side_by_side(results)
    costs, explained = breakdowns.cost(results), breakdowns.rationales(results)
    texts = csv_tables(results) | {
        "main.md": main_markdown(results, choices, comparisons),
        "main.tex": main_latex(results, choices),
        "comparisons.csv": comparisons_csv(comparisons, results.cost),
        "comparisons.md": comparisons_markdown(comparisons, unanswered(results, comparisons), results.cost),
        "areas.csv": csv_text(curves),
        "areas.md": areas_markdown(curves),
    }
    if len(costs):
        texts["cost.md"] = cost_markdown(costs)
    if len(explained):
        texts["rationales.md"] = rationales_markdown(explained)
    deployed = deployments(results)
    if len(deployed):
        texts |= {"deployments.csv": csv_text(deployed), "deployments.md": deployments_markdown(deployed)}
    both = combined(results)
    if len(both):
        goals = [goal.name for goal in both.goal]
        texts |= {"combined.csv": csv_text(both.assign(goal=goals)), "combined.md": combined_markdown(both)}
    if len(published):  # a task and a method that papers have numbers of
        texts |= {
            "published.csv": csv_text(published, PUBLISHED),
            "published.md": published_markdown(published),
        }
    return texts


def draw_figures(
    results: Results, choices: list[Choice], comparisons: pd.DataFrame, folder: Path
) -> list[str]:
    """Write every figure that has data, PNG and SVG, and return their names (``TASK-BACKBONE-KIND``)."""
    folder.mkdir(parents=True, exist_ok=True)
    names = draw_differences(comparisons, folder)
    for one, choice in zip(results.each, choices, strict=True):
        stem = "-".join(one.pair)
        names += draw_speed(one, choice, folder, stem)
        for kind, draw in FIGURES.items():
            names += draw(one, folder, f"{stem}-{kind}")
    return names


def draw_text_figures(written: TextResults, folder: Path) -> list[str]:
    """Write every figure of the tasks that write text, as `draw_figures` does (``TASK-MODEL-KIND``)."""
    stems = [("-".join(one.pair), one) for one in written.each]
    return [
        name
        for stem, one in stems
        for kind, draw in TEXT_FIGURES.items()
        for name in draw(one, folder, f"{stem}-{kind}")
    ]


def _replace_outputs(partial: Path, out: Path) -> None:
    """Put the new outputs in the place of the old ones; what was not made this time goes too."""
    for name in OUTPUTS:
        old, new = out / name, partial / name
        if old.is_dir() and not old.is_symlink():
            shutil.rmtree(old)
        elif old.exists() or old.is_symlink():
            old.unlink()
        if new.exists():
            os.replace(new, old)
