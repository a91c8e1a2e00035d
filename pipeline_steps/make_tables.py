r"""Make the tables, the figures and the recommendation from the records of a run.

A pure function of the records: no model is loaded, nothing is measured, and missing cells are named. Where the weights
of the recommended model are there too, it is put into `model/`, ready for `adaptive-inference predict`.

    python pipeline_steps/make_tables.py --runs runs --out results
    python pipeline_steps/make_tables.py --params presets/sst2-minilm.yaml \
        --runs docs/results/sst2-minilm/records --out docs/results/sst2-minilm
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from adaptive_inference.errors import UserError
from adaptive_pipeline.params import load_params


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
    """Check what is given, then write the report."""
    args = parse_args()
    try:
        params = load_params(args.params)
        if not args.runs.is_dir():
            raise UserError(f"no folder {args.runs}; run the stages first, or name one with --runs")
        from adaptive_pipeline.reporting.report import (
            make_report,
        )  # pandas is not loaded for --help and mistakes

        make_report(args.runs, params, args.out)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
