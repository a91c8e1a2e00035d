"""Graphs of segments of a model in ONNX Runtime, and the memory that they read and write. Loads no torch.

At batch 1 a segment of a small encoder takes some tenths of a millisecond, so that nothing else may take long: graphs read
and write the same memory again and again, bound once for each form of a batch, and no hidden state is copied.

Shape suffixes: B rows, N tokens, H hidden width, E exits of a segment, C outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from onnxruntime import InferenceSession, IOBinding, OrtValue, SessionOptions

from adaptive_inference.errors import UserError, first_line
from adaptive_inference.exits.deployment import FIX, WEIGHTS_KEY

#: Names of what graphs read and write; the others are what layers share, as ``KIND.NAME``, see `backbones.base.Context`.
IDS, MASK, TYPES = "input_ids", "attention_mask", "token_type_ids"
HIDDEN, LOGITS, CERTAINTY = "hidden", "logits", "certainty"
#: Ends the name of the hidden state that a graph reads; a graph has each name once.
READ = "_in"
#: Begins the names of what layers share of the rows: masks.
OF_ROWS = "rows."
#: Axes of inputs and outputs that differ from batch to batch.
ROWS, TOKENS = "rows", "tokens"
Axes = tuple[int | str, ...]
State = dict[str, tuple[Axes, np.ndarray]]
"""What the graphs to come read of a batch, by name, in memory of its own."""
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
        # each graph has threads of its own, which would go on waiting busily while the next graph wants their cores
        options.add_session_config_entry("session.force_spinning_stop", "1")
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

    def state(
        self, form: Form, place: int, rows: np.ndarray | None = None, length: int | None = None
    ) -> State:
        """Return what graphs from a place on read of some rows.

        Parameters
        ----------
        form
            Of the batch, whose graphs before that place have run.
        place
            Of a segment.
        rows
            Indices, ascending; None: all.
        length
            Columns to keep; None: all.
        """
        kept: State = {}
        for arrays, segment in zip(form.arrays[place:], self._segments[place:], strict=True):
            for name, axes, _ in segment.reads:
                if name not in kept:  # a later hidden state is not there yet
                    kept[name] = axes, taken(arrays[name], axes, rows, length)
        return kept

    def load(self, state: State, place: int) -> Form:
        """Lay out what graphs from a place on read, and return the form to run them with."""
        axes, item = state[HIDDEN + READ if place else IDS]
        form = self.form(len(item), item.shape[axes.index(TOKENS)])
        for name, (_, item) in state.items():
            reader = next(arrays for arrays in form.arrays[place:] if name in arrays)
            np.copyto(reader[name], item)
        return form

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


def fill(arrays: Mapping[str, np.ndarray], columns: Mapping[str, Any]) -> None:
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


def taken(array: np.ndarray, axes: Axes, rows: np.ndarray | None, length: int | None) -> np.ndarray:
    """Return a copy of what some rows need of an array, with tokens up to a length; None: all of them."""
    taken = array[tuple(slice(length if axis == TOKENS else None) for axis in axes)]
    return taken[rows] if axes[0] == ROWS and rows is not None else taken.copy()
