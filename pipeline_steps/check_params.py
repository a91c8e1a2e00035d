r"""Check `params.yaml`, and the search that is on, before anything else runs.

Every stage of `dvc.yaml` reads the file that this one writes, so DVC runs it first and stops where it fails: before any
other command, and before any output goes. The file never changes, so no stage runs again because of it. A second file tells
of each method and backbone which code of one's own it uses; stages depend on their own keys of it.

    python pipeline_steps/check_params.py --own-code .own_code.yaml --out .params_checked
    python pipeline_steps/check_params.py --params presets/grid.yaml --out /tmp/checked
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from adaptive_inference.errors import UserError
from adaptive_inference.files import write_text
from adaptive_pipeline.params import own_code
from adaptive_pipeline.params.preflight import checked_params
from adaptive_pipeline.search.plan import Plan, read_section


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--params", default="params.yaml", help="params file (default: params.yaml)")
    parser.add_argument(
        "--search",
        type=Path,
        default=Path("search/params.yaml"),
        help="plan of the search that is on (default: search/params.yaml)",
    )
    parser.add_argument(
        "--own-code", type=Path, help="file to note code of one's own in (default: not noted)"
    )
    parser.add_argument("--out", required=True, type=Path, help="file to write where nothing is wrong")
    return parser.parse_args()


def tell_of_another_version() -> None:
    """Name what `dvc repro` alone runs again because its code is elsewhere now; a run under Snakemake says it itself."""
    if not Path("dvc.lock").is_file():
        return  # nothing was built yet; DVC takes a second to load
    from adaptive_pipeline import dvc_graph, progress

    if names := dvc_graph.built_by_another_version():
        progress.say(progress.run_again(names))


def main() -> None:
    """Check both files, or say in a sentence what is wrong."""
    args = parse_args()
    try:
        params = checked_params(args.params)
        read_section(Plan, args.search)
        if args.own_code:
            own_code.note(params, args.own_code)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    tell_of_another_version()
    write_text(args.out, "The params were checked.\n")


if __name__ == "__main__":
    main()
