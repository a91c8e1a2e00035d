"""Give MLflow the runs of all finished stages that it lacks, and the recommended models.

MLflow is a view of the records. A stage that DVC restores from its cache executes nothing and so logs nothing, and a
store may be new or on another machine; this fills it from the records. Running it twice changes nothing.

    python -m adaptive_pipeline.tracking.publish
    python -m adaptive_pipeline.tracking.publish --records docs/results/NAME/records
"""

from __future__ import annotations

import argparse
import logging
import sys
from dataclasses import dataclass
from pathlib import Path

from adaptive_inference.errors import UserError
from adaptive_pipeline.params import Params, load_params
from adaptive_pipeline.presets import CURRENT, names, preset_of, preset_path, records_folder
from adaptive_pipeline.runs.layout import RUNS
from adaptive_pipeline.runs.records import TrainingRecord
from adaptive_pipeline.runs.store import Finished, Runs, read_finished
from adaptive_pipeline.runs.validity import asked_for, why_unusable
from adaptive_pipeline.tracking.given import Background, training_beside
from adaptive_pipeline.tracking.live import tracking_off
from adaptive_pipeline.tracking.registry import publish_model, recommended_models
from adaptive_pipeline.tracking.secrets import mask_output
from adaptive_pipeline.tracking.store import Store

logger = logging.getLogger("adaptive_inference")
NAMELESS = "own params"  #: how results are called that are of no preset


@dataclass(frozen=True)
class Asked:
    """The params that records were made for, their name, and the folder of what was made of the records."""

    params: Params
    name: str
    results: Path

    @property
    def preset(self) -> str | None:
        """Its name, if it has one."""
        return None if self.name == NAMELESS else self.name


def publish(*roots: Path) -> tuple[int, int]:
    """Publish every record below some folders, and what was made of them: tables, figures, and the recommended models.

    Returns
    -------
    lacking, total
        How many records MLflow did not have, and how many there are.
    """
    found = [(root, list(read_finished(root))) for root in roots]
    total = sum(len(items) for _, items in found)
    if not total:
        return 0, 0
    store, lacking = Store(), 0
    for root, items in found:
        runs, asked = Runs(root, {item.key: item for item in items}), asked_by(root)
        for item in items:
            lacking += store.publish(item, _background(item, runs, asked))
        if asked:
            store.publish_results(asked.name, asked.results)
            for name, folder in recommended_models(asked.results).items():
                publish_model(store, name, folder)
    return lacking, total


def asked_by(records: Path) -> Asked | None:
    """Return what a folder of records was made for; None of one that is neither `runs` nor that of a kept preset."""
    place = records.resolve()
    if place == RUNS.resolve() and CURRENT.is_file():
        params = load_params(CURRENT)
        return Asked(params, preset_of(params) or NAMELESS, Path("results"))
    kept = next((name for name in names() if place == records_folder(name).resolve()), None)
    return Asked(load_params(preset_path(kept)), kept, records.parent) if kept else None


def _background(item: Finished, runs: Runs, asked: Asked | None) -> Background:
    """Return what the run of a record shows besides it; a record of other params is of no preset."""
    if item.folder:
        trained = training_beside(item.folder, item.record)
    else:
        beside = runs.finished.get(("train", item.key[1]))
        trained = beside.record if beside and isinstance(beside.record, TrainingRecord) else None
    holds = asked and asked_for(*item.key, asked.params) and not why_unusable(*item.key, runs, asked.params)
    return Background(trained, asked.preset if asked and holds else None)


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
