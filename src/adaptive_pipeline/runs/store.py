"""What finished stages left, in one view: over a `runs` folder, and over the files that git keeps of one.

A stage leaves its record and, beside it, what tables read besides: its companions. In a `runs` folder each is a file. Of a
kept run there is one gzip JSON-lines file per task, backbone and seed, a line per stage: ``{"record": ..., NAME: ...}``.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from adaptive_inference.errors import UserError
from adaptive_inference.files import plain, read_json
from adaptive_pipeline.grid import TRAINING_STAGES, Cell
from adaptive_pipeline.runs.records import RECORD_FILE, Record

#: Stages that train; ``finetune_backbone`` serves all methods and is the training of `full`.
TRAIN_STAGES = ("finetune_backbone", *TRAINING_STAGES)
#: Family -> companion -> its file, from the stage's folder.
COMPANIONS = {
    "train": {"timings": "../train_timings.json"},
    "train_fold": {"timings": "../train_timings.json"},
    "evaluate_batch1": {
        "timings": "../timings.json",
        "curves": "curves.json",
        "predictions": "predictions.json",
    },
    "evaluate_recommended": {"timings": "../timings.json"},
    "choose_deployment": {"timings": "../deployment_timings.json"},
    "train_free": {"timings": "../train_timings.json"},
    "evaluate_decoding": {"timings": "../timings.json", "confidences": "confidences.json"},
}
#: Family -> what is made of other files when its record is kept, and lies beside kept records alone.
MADE_WHEN_KEPT = {"evaluate_batch1": ("exit_answers",)}
#: Families whose records git keeps, in the order of a kept file's lines, so that what is alike lies together.
KEPT = (
    "prepare_data",
    "train",
    "extract_saliencies",
    "calibrate_thresholds",
    "evaluate_batch1",
    "score_rationales",
    "recommend",
    "evaluate_recommended",
    "export_model",
    "choose_deployment",
    "prepare_texts",
    "train_free",
    "calibrate_decoding",
    "evaluate_decoding",
)
#: Ends the names of kept files; what stands before is for people, the records say what they are of.
KEPT_ENDING = ".jsonl.gz"

#: Family of stage, and cell.
Key = tuple[str, Cell]


def family(stage: str) -> str:
    """Return ``train`` for any training stage, else the stage's own name."""
    return "train" if stage in TRAIN_STAGES else stage


def shown_cell(record: Record) -> Cell:
    """Return the cell that a record is of: the training that serves all methods is that of `full`."""
    return replace(record.cell, method="full") if record.stage == "finetune_backbone" else record.cell


@dataclass(frozen=True)
class Finished:
    """What one finished stage left.

    Attributes
    ----------
    record
        As the stage wrote it.
    folder
        Where it wrote; None of a kept one.
    at_hand
        Companions by name, all of a kept one; of others, those that need not be read from their files.
    """

    record: Record
    folder: Path | None = None
    at_hand: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> Key:
        """Under which it is found; the training that serves all methods is that of `full`."""
        return family(self.record.stage), shown_cell(self.record)

    @property
    def companions(self) -> tuple[str, ...]:
        """Names of what may lie beside the record."""
        return *COMPANIONS.get(self.key[0], ()), *MADE_WHEN_KEPT.get(self.key[0], ())

    @property
    def files(self) -> tuple[Path, ...]:
        """Where the record and its companions lie; none of a kept one."""
        names = (RECORD_FILE, *COMPANIONS.get(self.key[0], {}).values())
        return tuple(self.folder / name for name in names) if self.folder else ()

    def companion(self, name: str) -> dict[str, Any]:
        """Return what lies beside the record; empty where nothing does."""
        files = COMPANIONS.get(self.key[0], {})
        if self.folder is None or name in self.at_hand or name not in files:
            return dict(self.at_hand.get(name, {}))
        file = self.folder / files[name]
        return dict(read_json(file)) if file.is_file() else {}


@dataclass(frozen=True)
class Runs:
    """All that finished stages left below a folder.

    Attributes
    ----------
    root
        The folder.
    finished
        By family of stage and cell, in the order of paths.
    """

    root: Path
    finished: Mapping[Key, Finished]

    @cached_property
    def records(self) -> Mapping[Key, Record]:
        """The records, each with the cell of its key."""
        return {key: item.record.model_copy(update={"cell": key[1]}) for key, item in self.finished.items()}

    def companion(self, family: str, cell: Cell, name: str) -> dict[str, Any]:
        """Return what lies beside a record (`Finished.companion`); empty where there is no such record either."""
        item = self.finished.get((family, cell))
        return item.companion(name) if item else {}

    def folder(self, family: str, cell: Cell) -> Path | None:
        """Return where a stage wrote, models too; None where it is kept, or not there."""
        item = self.finished.get((family, cell))
        return item.folder if item else None


def open_runs(root: Path) -> Runs:
    """Read every record below a folder; see `read_finished`. There may be no such folder."""
    return Runs(root, {item.key: item for item in read_finished(root)})


def read_finished(root: Path) -> Iterator[Finished]:
    """Yield what each stage below ``root`` left, by path, but of stages that are being written.

    Raises
    ------
    UserError
        A file is damaged, of another shape or of another version.
    """
    for file in sorted(root.glob(f"*{KEPT_ENDING}")):
        yield from read_kept(file)
    for file in sorted(root.rglob(RECORD_FILE)):
        if not any(part.startswith(".") for part in file.relative_to(root).parts):
            yield Finished(Record.load(file.parent), file.parent)


def kept_file(root: Path, cell: Cell) -> Path:
    """Return where a cell's records are kept below ``root``."""
    return root / f"{cell.task}-{cell.backbone}-seed{cell.seed}{KEPT_ENDING}"


def read_kept(file: Path) -> list[Finished]:
    """Read what `write_kept` wrote."""
    try:
        lines = [json.loads(line) for line in gzip.decompress(file.read_bytes()).splitlines()]
        records = [dict(line.pop("record")) for line in lines]
    except (OSError, EOFError, zlib.error, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{file} holds no kept records ({error}); take it from git again") from error
    given = zip(records, lines, strict=True)
    return [Finished(Record.from_json(record, str(file)), None, kept) for record, kept in given]


def write_kept(file: Path, items: Iterable[Finished]) -> None:
    """Write what finished stages left into one file, in one move; equal content leaves the file as it is."""
    text = b"".join(_line(item) for item in sorted(items, key=_order))
    with contextlib.suppress(OSError, EOFError, zlib.error):  # missing or damaged: written anew
        if gzip.decompress(file.read_bytes()) == text:
            return
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.partial")
    partial.write_bytes(gzip.compress(text, compresslevel=9, mtime=0))
    os.replace(partial, file)


def _line(item: Finished) -> bytes:
    beside = {name: body for name in item.companions if (body := item.companion(name))}
    body = plain({"record": item.record.to_json(), **beside})
    return json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def _order(item: Finished) -> tuple[Any, ...]:
    """Sort key of the lines: stage after stage."""
    return KEPT.index(item.key[0]), item.key[1].method
