"""Runs a model's layers by ONNX Runtime, one graph for each segment between two cuts. Loads no torch.

What a graph answers stays where it is: hidden states and what layers share are handed from graph to graph, not copied.

Shape suffixes: B rows, N tokens, H hidden width, E exits of a segment, C outputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from onnxruntime import InferenceSession, OrtValue, SessionOptions

from adaptive_inference.engine.runner import Answer
from adaptive_inference.errors import UserError, first_line
from adaptive_inference.exits.deployment import FIX, WEIGHTS_KEY, Deployment, segment_file

#: Names of what graphs read and write; the others are what layers share, as ``KIND.NAME``, see `backbones.base.Context`.
IDS, MASK, TYPES = "input_ids", "attention_mask", "token_type_ids"
HIDDEN, LOGITS, CERTAINTY = "hidden", "logits", "certainty"
#: Ends the name of the hidden state that a graph reads; a graph has each name once.
READ = "_in"


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
            self._session = InferenceSession(file, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's own classes, which it does not export
            raise UserError(f"{file} is no graph that can be run ({first_line(error)}); {FIX}") from error
        if self._session.get_modelmeta().custom_metadata_map.get(WEIGHTS_KEY) != weights:
            raise UserError(f"{file} was made of other weights than {file.parent} says; {FIX}")
        self._reads = [(item.name, item.name.removesuffix(READ)) for item in self._session.get_inputs()]
        self._writes = [item.name for item in self._session.get_outputs()]

    def run(self, state: dict[str, OrtValue]) -> None:
        """Read what the graph needs from a state, and write into it what the graph gives."""
        given = {name: state[key] for name, key in self._reads}
        state.update(zip(self._writes, self._session.run_with_ort_values(self._writes, given), strict=True))


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

    looks_back, waits = True, False

    def __init__(self, folder: Path, deployment: Deployment, threads: int | None = None) -> None:
        order = [layer for segment in deployment.exits for layer in segment]
        self.cuts = tuple(order.index(layer) for layer in deployment.cuts)
        self.segments = [
            Segment(folder / segment_file(place), deployment.weights, threads)
            for place in range(len(self.cuts))
        ]
        self._names = deployment.tokens.names
        self._apart = deployment.quantisation is not None

    @contextmanager
    def start(self, features: Mapping[str, Any]) -> Iterator[OnnxRun]:
        """See `Runner.start`."""
        ids_BN = np.asarray(features[IDS], dtype=np.int64)
        mask_BN = features.get(MASK)
        columns = {
            IDS: ids_BN,
            MASK: np.ones_like(ids_BN) if mask_BN is None else np.asarray(mask_BN, dtype=np.int64),
        }
        if TYPES in self._names:
            types_BN = features.get(TYPES)
            columns[TYPES] = (
                np.zeros_like(ids_BN) if types_BN is None else np.asarray(types_BN, dtype=np.int64)
            )
        parts = [columns]
        if self._apart and len(ids_BN) > 1:
            ends_B = _ends(columns[MASK])
            parts = [
                {name: item[row : row + 1, : ends_B[row]] for name, item in columns.items()}
                for row in range(len(ids_BN))
            ]
        yield OnnxRun(self, [Part(part) for part in parts])


class Part:
    """Rows that go through the graphs together, and how far they are."""

    def __init__(self, columns: Mapping[str, np.ndarray]) -> None:
        self.state = {name: _value(item) for name, item in columns.items()}

    def select(self, rows: np.ndarray) -> None:
        """Keep some rows, and of their columns those that one of them has a token in."""
        mask_BN = self.state[MASK].numpy()[rows]
        length = int(_ends(mask_BN).max())
        for name, value in self.state.items():
            kind, item = name.partition(".")[0], value.numpy()
            if kind == "shared":
                continue
            if kind == "pairs":  # one for all rows
                item = item[..., :length, :length]
            elif kind == "rows":
                item = item[rows][..., :length, :length]
            else:
                item = item[rows, :length]
            self.state[name] = _value(item)


class OnnxRun:
    """One batch under way; see `Run`."""

    survivors = None

    def __init__(self, runner: OnnxRunner, parts: list[Part]) -> None:
        self._runner, self._parts = runner, parts
        self._segment = 0
        self._held: dict[int, Answer] = {}

    def advance(self, index: int, answers: Sequence[int] = ()) -> dict[int, Answer]:
        """See `Run.advance`."""
        cuts = self._runner.cuts
        while self._segment < len(cuts) and cuts[self._segment] <= index:
            first = cuts[self._segment - 1] + 1 if self._segment else 0
            self._run_segment(self._runner.segments[self._segment], first)
            self._segment += 1
        return self.answer(answers)

    def _run_segment(self, segment: Segment, first: int) -> None:
        found = []
        for part in self._parts:
            segment.run(part.state)
            certainty = part.state.pop(CERTAINTY, None)
            found.append((part.state.pop(LOGITS).numpy(), None if certainty is None else certainty.numpy()))
        logits_BEC, certainty_BE = found[0]
        if len(found) > 1:
            logits_BEC = np.concatenate([item[0] for item in found])
            if certainty_BE is not None:
                certainty_BE = np.concatenate([item[1] for item in found])
        for place in range(logits_BEC.shape[1]):
            sure_B = None if certainty_BE is None else certainty_BE[:, place]
            self._held[first + place] = Answer(logits_BEC[:, place], sure_B)

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
            self._parts[0].select(rows)
        self._held = {
            index: Answer(logits[rows], None if sure is None else sure[rows])
            for index, (logits, sure) in self._held.items()
        }


def _value(item: np.ndarray) -> OrtValue:
    return OrtValue.ortvalue_from_numpy(np.ascontiguousarray(item))


def _ends(mask_BN: np.ndarray) -> np.ndarray:
    """Return the place after each row's last token, (B,)."""
    return mask_BN.shape[1] - mask_BN[:, ::-1].argmax(1)
