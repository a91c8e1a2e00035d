"""Give MLflow the runs of all finished stages that it lacks.

MLflow is a view of the records. A stage that DVC restores from its cache executes nothing and so logs nothing, and a
store may be new or on another machine; this fills it from the records. Running it twice changes nothing.

    python -m adaptive_pipeline.tracking.publish
    python -m adaptive_pipeline.tracking.publish --records docs/results/NAME/records
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from adaptive_inference.errors import UserError
from adaptive_pipeline.runs.store import read_finished
from adaptive_pipeline.tracking.live import tracking_off
from adaptive_pipeline.tracking.secrets import mask_output
from adaptive_pipeline.tracking.store import Store

logger = logging.getLogger("adaptive_inference")


def publish(*roots: Path) -> tuple[int, int]:
    """Publish every record below some folders; return how many were lacking and how many there are."""
    found = [item for root in roots for item in read_finished(root)]
    if not found:
        return 0, 0
    store = Store()
    return sum(store.publish(item) for item in found), len(found)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--records",
        type=Path,
        nargs="+",
        default=[Path("runs"), Path("search")],
        help="folders of records (default: runs and search)",
    )
    return parser.parse_args()


def main() -> None:
    """Publish and say what was done."""
    mask_output()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s", datefmt="%H:%M:%S")
    args = parse_args()
    if tracking_off():
        logger.info("tracking is off (ADAPTIVE_INFERENCE_TRACKING); nothing published")
        return
    try:
        lacking, total = publish(*args.records)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    print(f"MLflow has {total} runs, {lacking} of them new")


if __name__ == "__main__":
    main()
