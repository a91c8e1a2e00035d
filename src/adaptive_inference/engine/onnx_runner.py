"""Runs a model's layers by ONNX Runtime, one graph for each segment between two cuts. Loads no torch.

At batch 1 a segment of a small encoder takes some tenths of a millisecond, so that nothing else may take long: graphs read
and write the same memory again and again, bound once for each form of a batch, and no hidden state is copied.

Shape suffixes: B rows, N tokens, H hidden width, E exits of a segment, C outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import repeat
from math import prod
from pathlib import Path
from typing import Any, NamedTuple
from weakref import finalize

import numpy as np
from onnxruntime import InferenceSession, IOBinding, OrtValue, SessionOptions

from adaptive_inference.engine.runner import Answer
from adaptive_inference.errors import UserError, first_line
from adaptive_inference.exits.deployment import FIX, WEIGHTS_KEY, Deployment, segment_file

#: Names of what graphs read and write; the others are what layers share, as ``KIND.NAME``, see `backbones.base.Context`.
IDS, MASK, TYPES = "input_ids", "attention_mask", "token_type_ids"
HIDDEN, LOGITS, CERTAINTY = "hidden", "logits", "certainty"
#: Ends the name of the hidden state that a graph reads; a graph has each name once.
READ = "_in"
#: Axes of inputs and outputs that differ from batch to batch.
ROWS, TOKENS = "rows", "tokens"
Axes = tuple[int | str, ...]
_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(bool)": np.bool_,
}
#: ONNX Runtime 1.32 adds and normalises in one step more slowly than in two: the whole int8 encoder then takes a tenth more.
_DISABLED = ["SkipLayerNormFusion"]
#: Columns of a batch, and what fills one that it lacks: no token is padding, all belong to the first text.
_COLUMNS = ((IDS, 0), (MASK, 1), (TYPES, 0))
#: Forms of batches whose bindings are kept.
_KEPT_FORMS = 1024


class Segment:
    """One graph, ready to run.

    Parameters
    ----------
    file
        Of the graph.
    weights
        Digest of the weights that it must have been made of.
    threads
        That one operator may use; None: one for each core.

    Attributes
    ----------
    session
        Runs it.
    reads, writes
        Name, shape with `ROWS` and `TOKENS` in it, and type of its inputs and outputs.

    Raises
    ------
    UserError
        The file is missing, damaged, or was made of other weights.
    """

    def __init__(self, file: Path, weights: str, threads: int | None) -> None:
        options = SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads or 0, 1
        options.log_severity_level = 3  # what it warns of is how it places constants
        if not file.is_file():
            raise UserError(f"{file} is missing; {FIX}")
        try:
            self.session = InferenceSession(
                file, options, providers=["CPUExecutionProvider"], disabled_optimizers=_DISABLED
            )
        except Exception as error:  # ONNX Runtime's own classes, which it does not export
            raise UserError(f"{file} is no graph that can be run ({first_line(error)}); {FIX}") from error
        if self.session.get_modelmeta().custom_metadata_map.get(WEIGHTS_KEY) != weights:
            raise UserError(f"{file} was made of other weights than {file.parent} says; {FIX}")
        self.reads, self.writes = (
            [(item.name, tuple(item.shape), _DTYPES[item.type]) for item in items]
            for items in (self.session.get_inputs(), self.session.get_outputs())
        )


class Form(NamedTuple):
    """Memory as batches of one number of rows and tokens use it, an item for each segment.

    Attributes
    ----------
    bindings
        What a graph is run with.
    arrays
        What it reads and writes, by name.
    logits, certainty
        What it writes of the first row, (E, C) and (E,); None where there are no certainty heads.
    """

    bindings: list[IOBinding]
    arrays: list[dict[str, np.ndarray]]
    logits: list[np.ndarray]
    certainty: list[np.ndarray] | None


class Workspace:
    """Memory that the graphs of one batch at a time read and write, whatever the batch's form.

    A graph writes its hidden state over the one that it reads: what it writes is made of all that it reads, so that
    nothing is left to read by then, and memory that was just used is in the processor's cache.
    """

    def __init__(self, segments: Sequence[Segment]) -> None:
        self._segments = segments
        self._memory: dict[str, np.ndarray] = {}
        self.forms: dict[tuple[int, int], Form] = {}  #: Those that are at hand, by rows and tokens.

    def form(self, rows: int, tokens: int) -> Form:
        """Return the form of batches of so many rows and tokens."""
        found = self.forms.get((rows, tokens))
        if found is None:
            while (found := self._bound(rows, tokens)) is None:
                self.forms.clear()  # memory has grown, and moved
            if len(self.forms) >= _KEPT_FORMS:
                self.forms.clear()
            self.forms[rows, tokens] = found
        return found

    def _bound(self, rows: int, tokens: int) -> Form | None:
        sizes, bindings, arrays, grown = {ROWS: rows, TOKENS: tokens}, [], [], False
        for segment in self._segments:
            binding, own = segment.session.io_binding(), {}
            for items in (segment.reads, segment.writes):
                for name, axes, dtype in items:
                    shape = tuple(sizes.get(size, size) for size in axes)
                    key = name.removesuffix(READ)
                    grown |= self._grow(key, prod(shape), dtype)
                    own[name] = self._memory[key][: prod(shape)].reshape(shape)
                    value = OrtValue.ortvalue_from_numpy(own[name])
                    if items is segment.reads:
                        binding.bind_ortvalue_input(name, value)
                    else:
                        binding.bind_ortvalue_output(name, value)
            bindings.append(binding)
            arrays.append(own)
        if grown:
            return None
        sure = [own[CERTAINTY][0] for own in arrays] if CERTAINTY in arrays[0] else None
        return Form(bindings, arrays, [own[LOGITS][0] for own in arrays], sure)

    def _grow(self, key: str, size: int, dtype: type) -> bool:
        if key in self._memory and self._memory[key].size >= size:
            return False
        self._memory[key] = np.zeros(size, dtype)
        return True


class OnnxRunner:
    """The runner of an exported model; see `Runner`.

    Rows of a batch go through fp32 graphs together, padded. Where activations are quantised, their scale is that of all
    that a product reads at once, so that neighbours and padding would move a row's answer: each row goes by itself, and
    gets the answer that it gets alone.

    Parameters
    ----------
    folder
        With the graphs.
    deployment
        What the folder says of them.
    threads
        That one operator may use; None: one for each core.

    Raises
    ------
    UserError
        A graph is missing, damaged, or was made of other weights.
    """

    looks_back, waits, merges = True, False, False

    def __init__(self, folder: Path, deployment: Deployment, threads: int | None = None) -> None:
        order = [layer for segment in deployment.exits for layer in segment]
        self.cuts = tuple(order.index(layer) for layer in deployment.cuts)
        self.segments = [
            Segment(folder / segment_file(place), deployment.weights, threads)
            for place in range(len(self.cuts))
        ]
        self.sessions = [segment.session for segment in self.segments]
        self._apart = deployment.quantisation is not None
        self.free: list[Workspace] = []  #: One is taken for each batch that is under way at the same time.

    def inference(self) -> AbstractContextManager[None]:
        """See `Runner.inference`; ONNX Runtime has no such state."""
        return nullcontext()

    def start(self, features: Mapping[str, Any], alone: bool = True) -> OnnxRun:
        """See `Runner.start`; the memory that a run uses is free for others when nobody holds the run any more."""
        ids_BN = np.asarray(features[IDS])
        columns = {
            name: np.asarray(features[name]) for name in (MASK, TYPES) if features.get(name) is not None
        }
        columns[IDS] = ids_BN
        parts = [columns]
        if self._apart and len(ids_BN) > 1:
            ends_B = _ends(columns[MASK]) if MASK in columns else [ids_BN.shape[1]] * len(ids_BN)
            parts = [
                {name: item[row : row + 1, : ends_B[row]] for name, item in columns.items()}
                for row in range(len(ids_BN))
            ]
        spaces = [self.free.pop() if self.free else Workspace(self.segments) for _ in parts]
        run = OnnxRun(self, [Part(*pair) for pair in zip(spaces, parts, strict=True)])
        finalize(run, self.free.extend, spaces)
        return run

    def single(self, features: Mapping[str, Any], ascending: bool) -> OnnxSingle:
        """See `Runner.single`."""
        return OnnxSingle(self, features)


class OnnxSingle:
    """One row under way; see `Single`."""

    survivors = None

    def __init__(self, runner: OnnxRunner, features: Mapping[str, Any]) -> None:
        self._free = free = runner.free
        self._space = space = free.pop() if free else Workspace(runner.segments)
        self._sessions, self._place = runner.sessions, 0  # of the next segment
        shape = np.shape(features[IDS])
        form = space.forms.get(shape) or space.form(*shape)
        self._bindings, arrays, self._logits, self._certainty = form
        _fill(arrays[0], features)
        self._answers: list[tuple[list[float], float | None]] = []  # of the exits so far

    def answer(self, index: int) -> tuple[list[float], float | None]:
        """See `Single.answer`; segments write their answers over those of the ones before."""
        answers = self._answers
        while len(answers) <= index:
            place, self._place = self._place, self._place + 1
            self._sessions[place].run_with_iobinding(self._bindings[place])
            sure = self._certainty
            answers += zip(
                self._logits[place].tolist(),
                repeat(None) if sure is None else sure[place].tolist(),
                strict=False,
            )
        return answers[index]

    #: See `Single.advance`: where layers have run, heads have too.
    advance = answer

    def forget(self, oldest: int) -> None:
        """See `Single.forget`; a few numbers are all that is held."""

    def close(self) -> None:
        """See `Single.close`."""
        self._free.append(self._space)


def _fill(arrays: Mapping[str, np.ndarray], columns: Mapping[str, Any]) -> None:
    """Write the columns of a batch to where the first graph reads them; what fills a column that it lacks stands in."""
    for name, absent in _COLUMNS:
        array = arrays.get(name)
        if array is None:
            continue
        column = columns.get(name)
        if column is None:
            array.fill(absent)
        else:
            array[...] = column


class Part:
    """Rows that go through the graphs together, and their state in a workspace."""

    def __init__(self, space: Workspace, columns: Mapping[str, np.ndarray]) -> None:
        self._space = space
        self._bindings, self._arrays, *_ = space.form(*columns[IDS].shape)
        _fill(self._arrays[0], columns)
        self._ends_B = _ends(columns[MASK]) if MASK in columns else None

    def run(self, place: int, segment: Segment) -> tuple[np.ndarray, np.ndarray | None]:
        """Run a segment; return its logits (B, E, C) and certainty (B, E) or None."""
        arrays = self._arrays[place]
        segment.session.run_with_iobinding(self._bindings[place])
        certainty = arrays.get(CERTAINTY)
        return arrays[LOGITS].copy(), None if certainty is None else certainty.copy()

    def select(self, place: int, rows: np.ndarray, segments: Sequence[Segment]) -> None:
        """Keep some rows before a segment is run, and of their columns those that one of them has a token in."""
        length = None
        if self._ends_B is not None:
            self._ends_B = self._ends_B[rows]
            length = int(self._ends_B.max())
        kept = {}
        for arrays, segment in zip(self._arrays[place:], segments[place:], strict=True):
            for name, axes, _ in segment.reads:
                if name not in kept:  # a later hidden state is not there yet
                    kept[name] = _taken(arrays[name], axes, rows, length)
        tokens = kept[HIDDEN + READ].shape[1]
        self._bindings, self._arrays, *_ = self._space.form(len(rows), tokens)
        for name, item in kept.items():
            reader = next(arrays for arrays in self._arrays[place:] if name in arrays)
            np.copyto(reader[name], item)


def _taken(array: np.ndarray, axes: Axes, rows: np.ndarray, length: int | None) -> np.ndarray:
    """Return a copy of what some rows need of an array, with tokens up to a length; None: all."""
    taken = array[tuple(slice(length if axis == TOKENS else None) for axis in axes)]
    return taken[rows] if axes[0] == ROWS else taken.copy()


class OnnxRun:
    """One batch under way; see `Run`."""

    survivors = None

    def __init__(self, runner: OnnxRunner, parts: list[Part]) -> None:
        self._runner, self._parts = runner, parts
        self._place = 0  # of the next segment
        self._held: dict[int, Answer] = {}

    def advance(self, index: int, answers: Sequence[int] = ()) -> dict[int, Answer]:
        """See `Run.advance`."""
        cuts = self._runner.cuts
        while self._place < len(cuts) and cuts[self._place] <= index:
            self._run_segment()
        return self.answer(answers)

    def _run_segment(self) -> None:
        place, runner = self._place, self._runner
        found = [part.run(place, runner.segments[place]) for part in self._parts]
        logits_BEC, certainty_BE = found[0]
        if len(found) > 1:
            logits_BEC = np.concatenate([item[0] for item in found])
            if certainty_BE is not None:
                certainty_BE = np.concatenate([item[1] for item in found])
        first = runner.cuts[place - 1] + 1 if place else 0
        for column in range(logits_BEC.shape[1]):
            sure_B = None if certainty_BE is None else certainty_BE[:, column]
            self._held[first + column] = Answer(logits_BEC[:, column], sure_B)
        self._place += 1

    def answer(self, indices: Sequence[int]) -> dict[int, Answer]:
        """See `Run.answer`; the graphs have answered already."""
        return {index: self._held.pop(index) for index in indices}

    def release(self, indices: Sequence[int]) -> None:
        """See `Run.release`."""
        for index in indices:
            del self._held[index]

    def select(self, rows: np.ndarray) -> None:
        """See `Run.select`; padding that none of the rows needs goes too."""
        if len(self._parts) > 1:
            self._parts = [self._parts[row] for row in rows]
        else:
            self._parts[0].select(self._place, rows, self._runner.segments)
        self._held = {
            index: Answer(logits[rows], None if sure is None else sure[rows])
            for index, (logits, sure) in self._held.items()
        }


def _ends(mask_BN: np.ndarray) -> np.ndarray:
    """Return the place after each row's last token, (B,)."""
    return mask_BN.shape[1] - mask_BN[:, ::-1].argmax(1)
