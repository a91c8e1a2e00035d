r"""Choose the best point of a search from the records of its folds.

Writes `results.csv` (all points, in the grid's order) and `patch.yaml` (what the winner sets, ready to be applied).

    python pipeline_steps/choose_point.py --search search/params.yaml --points search/leebert/points \
        --out search/leebert/results
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from adaptive_inference.errors import UserError
from adaptive_inference.files import write_text
from adaptive_pipeline.runs.records import Record
from adaptive_pipeline.search.plan import Plan, read_section
from adaptive_pipeline.search.scores import Scored, best, patch_text, results_csv


def read_scores(plan: Plan, points: Path) -> list[Scored]:
    """Return the score of every point in every fold, from the records and nothing else."""
    return [
        Scored(
            name,
            patch,
            tuple(
                Record.load(points / name / f"fold{fold}" / "train").metrics["held_out_quality"]
                for fold in plan.folds
            ),
        )
        for name, patch in plan.points.items()
    ]


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--search", required=True, type=Path, help="the plan, search/params.yaml")
    parser.add_argument("--points", required=True, type=Path, help="folder of the points' records")
    parser.add_argument("--out", required=True, type=Path, help="folder to write")
    return parser.parse_args()


def main() -> None:
    """Write both files."""
    args = parse_args()
    try:
        plan = read_section(Plan, args.search)
        if not plan.points:
            raise UserError(f"{args.search} holds no search; write one with `make search NAME=...`")
        scored = read_scores(plan, args.points)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    write_text(args.out / "results.csv", results_csv(scored))
    write_text(args.out / "patch.yaml", patch_text(best(scored), len(scored), plan.search[0]))


if __name__ == "__main__":
    main()
