"""What every stage script shares: arguments, lock, atomic output, threads, record, tracking, errors.

A script declares the paths that it takes and a ``main(stage)``; everything scientific is in the library::

    if __name__ == "__main__":
        run_stage(main, __doc__, inputs=("data",), per_method=True, timings=True)
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from adaptive_inference.errors import UserError
from adaptive_inference.files import write_json
from adaptive_pipeline import prefork
from adaptive_pipeline.grid import Cell
from adaptive_pipeline.params import Params, load_params, named
from adaptive_pipeline.params.own_code import check_loaded
from adaptive_pipeline.presets import preset_of
from adaptive_pipeline.runs import layout
from adaptive_pipeline.runs.checksums import refuse_damaged, write_checksums
from adaptive_pipeline.runs.digests import code_digest, digest_path
from adaptive_pipeline.runs.records import FAMILIES, Record
from adaptive_pipeline.runs.store import Finished
from adaptive_pipeline.tracking.given import Background, training_beside
from adaptive_pipeline.tracking.live import Tracker, start_tracking
from adaptive_pipeline.tracking.secrets import mask_output

logger = logging.getLogger("adaptive_inference")


@dataclass
class Stage:
    """One running stage instance, as its script sees it."""

    name: str
    cell: Cell
    params: Params
    inputs: dict[str, Path]
    out: Path  #: folder to write into; it takes its final name when the stage succeeds
    scratch: Path  #: resumable state, kept over a kill and removed on success
    timings: dict[str, Any]  #: figures that depend on the clock
    script: str
    record: Record | None = None
    tracker: Tracker | None = None
    files: dict[str, Path] = field(default_factory=dict)  #: to write beside `out`, moved when it is
    options: dict[str, str] = field(default_factory=dict)
    keys: tuple[str, ...] = ()  #: params that the record holds, dotted

    def add_input(self, name: str, path: Path) -> Path:
        """Take an input that another one tells of, and return its path.

        Raises
        ------
        UserError
            It was damaged since a stage wrote it.
        """
        refuse_damaged(path)
        self.inputs[name] = path
        return path

    def begin(self, *keys: str, made_from: Mapping[str, str] | None = None, **given: Any) -> Any:
        """Open the record, of the type of the stage's family; call it once all imports are done and before any work.

        ``keys`` are the params that ``dvc.yaml`` declares for this stage, dotted; ``given`` is what else it was given;
        ``made_from`` are digests of what its input was made from, by name: the record stands on them too.

        Raises
        ------
        UserError
            An input is not what another one was made from.
        """
        read = {name: path for name, path in self.inputs.items() if name not in layout.WHOLE}
        digests = {name: digest_path(path) for name, path in read.items()} | check_loaded()
        for name, digest in (made_from or {}).items():
            if digests.setdefault(name, digest) != digest:
                read, again = _made(self.inputs)
                raise UserError(
                    f"{read} was made from another {name} than {self.inputs.get(name, 'there is now')}; run {again} again"
                )
        self.keys = keys
        params = self.params.echo(keys) | given
        family = FAMILIES.get(self.name, Record)
        self.record = family(
            stage=self.name, cell=self.cell, params=params, inputs=digests, code=code_digest(self.script)
        )
        background = Background(training_beside(self.out, self.record), preset_of(self.params))
        self.tracker = start_tracking(self.record, background)
        return self.record


def run_stage(
    main: Callable[[Stage], None],
    doc: str,
    *,
    inputs: Sequence[str] = (),
    options: Sequence[str] = (),
    files: Sequence[str] = (),
    per_method: bool = False,
    per_kind: bool = False,
    per_training: bool = False,
    texts: bool = False,
    timings: bool = False,
    encoder: bool = True,
) -> None:
    """Parse the command line and run ``main`` under the stage's lock.

    The output folder appears whole or not at all. A second process of the same stage waits for the first,
    because a killed scheduler leaves its child alive and DVC would start another one into the same folder.
    ``files`` are written beside it (`layout.FILES`). ``per_method``, ``per_kind`` and ``per_training`` say what its cell is
    of: a method, a kind of scores of tokens, or a training of ``texts``, the second grid.
    ``encoder`` says whether the stage uses the encoder or its tokenizer: an adapter of one's own is then loaded first.
    An input that was damaged since a stage wrote it is refused. A `UserError` is printed without traceback, exit
    status 2. No secret of the tracking store is printed.
    """
    prefork.hand_over()
    script = sys.argv[0]
    mask_output()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s", datefmt="%H:%M:%S")
    name = Path(script).stem
    of = {"method": per_method, "scores": per_kind, "training": per_training}
    axis = next((axis for axis, given in of.items() if given), "")
    args = _parser(name, doc, inputs, options, files, axis, texts, timings).parse_args()
    try:
        params = load_params(args.params)
        model = args.model if texts else args.backbone
        cell = Cell(args.task, model, args.seed, getattr(args, axis) if axis else "")
        _refuse_unknown(params, cell, axis, texts)
        _fill_in(args, name, cell, params.pruned_body)
        out = Path(args.out)
        out.parent.mkdir(parents=True, exist_ok=True)
        _keep_lock_files()
        with _exclusive(out.parent / f".{out.name}.lock"):
            adapter = params.backbone(cell.backbone).adapter if encoder and not texts else None
            _run(main, name, cell, params, args, inputs, options, files, out, script, adapter)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except OSError as error:
        if error.errno not in _DISK_ERRNOS:
            raise
        print(
            f"error: cannot write {error.filename or args.out}: {error.strerror}. Free some space (`dvc gc -w` drops "
            "unused results) and run the same command again; finished stages are kept.",
            file=sys.stderr,
        )
        raise SystemExit(2) from None


def _refuse_unknown(params: Params, cell: Cell, axis: str, texts: bool) -> None:
    """Refuse a cell of names that the params lack."""
    if texts:
        asked = params.generation
        named(asked.tasks, cell.task, "task of generation"), named(asked.models, cell.backbone, "model")
        if axis:
            named(getattr(asked, f"{axis}s"), cell.method, f"{axis} of generation")
        return
    params.task(cell.task), params.backbone(cell.backbone)
    if axis == "method":
        params.method(cell.method)


def _refuse_edited(params: Params, keys: Sequence[str], file: str | Path) -> None:
    """Refuse a result whose params, or code of one's own, were edited meanwhile.

    DVC notes them when a stage has ended, not when it began.
    """
    try:
        same = load_params(file).echo(keys) == params.echo(keys)
    except (UserError, KeyError):  # what the stage read is no longer there
        same = False
    if not same:
        raise UserError(
            f"{file} was edited while this stage ran, in one of {', '.join(keys)}; its result was not kept: run it "
            "again, and edit between runs"
        )
    check_loaded()


def _keep_lock_files() -> None:
    """Keep what DVC noted of the stages before this one, if ``dvc repro`` alone runs it; else Snakemake's job does so.

    In a process of its own: the digest of a record's code is of all that this one has imported.
    """
    if "DVC_STAGE" in os.environ and "ADAPTIVE_INFERENCE_RUN" not in os.environ:
        program = "from adaptive_pipeline import dvc_graph; dvc_graph.mend_lock_files()"
        if status := subprocess.run([sys.executable, "-c", program], check=False).returncode:
            raise SystemExit(status)


def _made(inputs: Mapping[str, Path]) -> tuple[Path, str]:
    """Return the input that tells what it was made from, and the stage that made it."""
    makers = {"answers": "collect_answers", "assigned": "assign_model", "methods": "collect_answers"}
    name = next(name for name in makers if name in inputs)
    return inputs[name], makers[name]


_DISK_ERRNOS = (28, 122, 30)  # no space, quota, read-only


def _run(
    main: Callable[[Stage], None],
    name: str,
    cell: Cell,
    params: Params,
    args: argparse.Namespace,
    inputs: Sequence[str],
    options: Sequence[str],
    files: Sequence[str],
    out: Path,
    script: str,
    adapter: str | None,
) -> None:
    _set_threads(params.runtime.threads)
    if adapter:
        from adaptive_inference.backbones.load import load_adapter

        load_adapter(adapter)
    partial, scratch, trash = (out.parent / f".{out.name}.{kind}" for kind in ("partial", "scratch", "trash"))
    for leftover in (partial, trash):
        shutil.rmtree(leftover, ignore_errors=True)
    partial.mkdir()
    paths = {key: Path(getattr(args, key)) for key in inputs}
    given = {key: getattr(args, key) for key in options}
    for key, path in paths.items():
        if key not in layout.WHOLE:
            refuse_damaged(path)
    beside = {key: Path(getattr(args, f"out_{key}")) for key in files}
    parts = {key: path.with_name(f".{path.name}.partial") for key, path in beside.items()}
    for path in parts.values():
        path.parent.mkdir(parents=True, exist_ok=True)
    stage = Stage(name, cell, params, paths, partial, scratch, {}, script, files=parts, options=given)
    status = "FAILED"
    try:
        main(stage)
        if stage.record is None:
            raise RuntimeError(f"{script} ended without a record")
        _refuse_edited(params, stage.keys, args.params)
        stage.record.save(partial)
        write_checksums(partial)
        if getattr(args, "timings", None):
            write_json(Path(args.timings), stage.timings)
        for key, path in beside.items():
            os.replace(parts[key], path)
        shutil.rmtree(out, ignore_errors=True)
        os.replace(partial, out)
        if stage.tracker:
            stage.tracker.finish(Finished(stage.record, out, {"timings": stage.timings}))
        status = "FINISHED"
    finally:
        if stage.tracker and status != "FINISHED":
            stage.tracker.fail()
    if scratch.exists():  # a kill while it is deleted must leave nothing that a later run would resume from
        os.replace(scratch, trash)
    shutil.rmtree(trash, ignore_errors=True)


def _parser(
    name: str,
    doc: str,
    inputs: Sequence[str],
    options: Sequence[str],
    files: Sequence[str],
    axis: str,
    texts: bool,
    timings: bool,
) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--params", default="params.yaml", help="params file (default: params.yaml)")
    at = "generation." if texts else ""
    models = ("model", "models") if texts else ("backbone", "backbones")
    parser.add_argument("--task", required=True, help=f"a key of `{at}tasks`")
    parser.add_argument(f"--{models[0]}", required=True, help=f"a key of `{at}{models[1]}`")
    parser.add_argument("--seed", required=True, type=int, help=f"one of `{at}seeds`")
    if axis:
        help = "a kind of `token_scores`" if axis == "scores" else f"a key of `{at}{axis}s`"
        parser.add_argument(f"--{axis}", required=True, help=help)
    for key in inputs:
        flag, known = f"--{key.replace('_', '-')}", key in layout.INPUTS
        parser.add_argument(flag, dest=key, required=not known, help="input path" + _PLACE * known)
    for key in options:
        parser.add_argument(f"--{key}", required=True, help="see above")
    for key in files:
        flag = f"--out-{key.replace('_', '-')}"
        parser.add_argument(flag, dest=f"out_{key}", help=f"file to write{_PLACE}")
    elsewhere = name not in layout.FOLDERS
    place = "" if elsewhere else _PLACE
    parser.add_argument(
        "--out", required=elsewhere, help=f"folder to write; replaced when the stage succeeds{place}"
    )
    if timings:
        parser.add_argument(
            "--timings", required=elsewhere, help=f"JSON file for figures that depend on the clock{place}"
        )
    return parser


_PLACE = " (default: its place below runs/, as dvc.yaml has it)"


def _fill_in(args: argparse.Namespace, name: str, cell: Cell, pruned_body: str) -> None:
    """Set the paths that the command line leaves to the layout of ``runs``."""
    places = {key: layout.input_path(key, cell, pruned_body) for key in layout.INPUTS}
    if name in layout.FOLDERS:
        places |= {"out": layout.out_path(name, cell), "timings": layout.timings_path(name, cell)}
        places |= {f"out_{key}": layout.file_path(key, cell) for key in layout.FILES}
    for key, path in places.items():
        if getattr(args, key, "") is None:
            setattr(args, key, str(path))


def _set_threads(threads: int) -> None:
    """Fix the intra-op threads before any numerical library is loaded: they change results bit by bit."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


class _exclusive(FileLock):
    """A file lock that says whom it waits for."""

    def __enter__(self) -> FileLock:
        started = time.monotonic()
        while True:
            try:
                return self.acquire(timeout=30)
            except Timeout:
                logger.warning(
                    "%s is held by another process of this stage since at least %.0f s; waiting for it to end",
                    self.lock_file,
                    time.monotonic() - started,
                )
