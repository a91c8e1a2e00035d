r"""Make the tables, the figures and the recommendation from the records of a run.

A pure function of the records: no model is loaded, nothing is measured, and missing cells are named. Where the weights
of the recommended model are there too, it is put into `model/`, ready for `adaptive-inference predict`.

    python pipeline_steps/make_tables.py --runs runs --out results
    python pipeline_steps/make_tables.py --params presets/sst2-minilm.yaml \
        --runs docs/results/sst2-minilm/records --out docs/results/sst2-minilm
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

from adaptive_inference.errors import UserError
from adaptive_inference.files import write_json, write_text
from adaptive_pipeline.params import load_params
from adaptive_pipeline.reporting.collect import collect

#: What this stage owns in its output folder; anything else there (kept records, a report) stays.
OUTPUTS = ("tables", "figures", "model", "recommendation.json", "recommendation.md")


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--params", default="params.yaml", help="params file (default: params.yaml)")
    parser.add_argument("--runs", required=True, type=Path, help="folder of the records, e.g. runs")
    parser.add_argument("--out", required=True, type=Path, help="folder to write, e.g. results")
    return parser.parse_args()


def main() -> None:
    """Write everything beside the final place, then move it there."""
    args = parse_args()
    try:
        params = load_params(args.params)
        if not args.runs.is_dir():
            raise UserError(f"no folder {args.runs}; run the stages first, or name one with --runs")
        args.out.mkdir(parents=True, exist_ok=True)
        partial = args.out / ".make_tables.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            make_tables(collect(args.runs, params), args.runs, partial, args.out.as_posix())
            replace_outputs(partial, args.out)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def make_tables(results, runs: Path, out: Path, shown_as: str) -> None:  # noqa: ANN001 - `collect.Results`
    """Write tables, figures, recommendation and model into ``out``; commands in the texts name it ``shown_as``."""
    from adaptive_pipeline.reporting.aggregate import aggregate
    from adaptive_pipeline.reporting.analysis import draw_analysis
    from adaptive_pipeline.reporting.analysis_tables import analysis_tables
    from adaptive_pipeline.reporting.areas import area_rows, areas_csv, areas_markdown
    from adaptive_pipeline.reporting.comparisons import (
        compare,
        comparisons_csv,
        comparisons_markdown,
        unanswered,
    )
    from adaptive_pipeline.reporting.figures import draw_figures
    from adaptive_pipeline.reporting.forest import draw_differences
    from adaptive_pipeline.reporting.handout import hand_out
    from adaptive_pipeline.reporting.prose import main_latex, main_markdown
    from adaptive_pipeline.reporting.published_table import published_csv, published_markdown, side_by_side
    from adaptive_pipeline.reporting.recommendation import as_json, as_markdown, recommend
    from adaptive_pipeline.reporting.tables import csv_tables

    rows, choices = aggregate(results), recommend(results)
    comparisons, areas = compare(results, rows), area_rows(results)
    published = side_by_side(results, rows)
    texts = csv_tables(results, rows) | {
        "main.md": main_markdown(results, rows, choices, comparisons),
        "main.tex": main_latex(results, rows, choices),
        "comparisons.csv": comparisons_csv(comparisons),
        "comparisons.md": comparisons_markdown(comparisons, unanswered(results, comparisons)),
        "areas.csv": areas_csv(areas),
        "areas.md": areas_markdown(areas),
    }
    if published:  # a task and a method that papers have numbers of
        texts |= {"published.csv": published_csv(published), "published.md": published_markdown(published)}
    texts |= analysis_tables(results)
    for name, text in texts.items():
        write_text(out / "tables" / name, text)
    draw_figures(results, rows, choices, out / "figures")
    draw_differences(comparisons, out / "figures")
    draw_analysis(results, rows, out / "figures")
    handed_out = {choice.model for choice in choices if hand_out(results, rows, choice, runs, out)}
    write_json(out / "recommendation.json", as_json(choices, results, shown_as, handed_out))
    write_text(out / "recommendation.md", as_markdown(choices, results, shown_as, handed_out))


def replace_outputs(partial: Path, out: Path) -> None:
    """Put the new outputs in the place of the old ones; what was not made this time goes too."""
    for name in OUTPUTS:
        old, new = out / name, partial / name
        if old.is_dir() and not old.is_symlink():
            shutil.rmtree(old)
        elif old.exists() or old.is_symlink():
            old.unlink()
        if new.exists():
            os.replace(new, old)


if __name__ == "__main__":
    main()
