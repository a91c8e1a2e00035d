"""Runs a model's layers by ONNX Runtime, one graph for each segment between two cuts. Loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from itertools import repeat
from pathlib import Path
from typing import Any
from weakref import finalize

import numpy as np

from adaptive_inference.engine.onnx_graphs import IDS, MASK, TYPES, Segment, Workspace, fill
from adaptive_inference.engine.onnx_runs import MergingRun, OnnxRun, Part, ends
from adaptive_inference.exits.deployment import Deployment, segment_file


class OnnxRunner:
    """The runner of an exported model; see `Runner`.

    Rows of a batch go through fp32 graphs together, padded. Where activations are quantised, their scale is that of all
    that a product reads at once, so that neighbours and padding would move a row's answer: each row goes by itself, and
    gets the answer that it gets alone. Such rows have nothing to gain from being merged with others.

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
        self.sessions = [segment.session for segment in self.segments]
        self.merges = deployment.quantisation is None
        self.free: list[Workspace] = []  #: One is taken for each batch that is under way at the same time.

    def inference(self) -> AbstractContextManager[None]:
        """See `Runner.inference`; ONNX Runtime has no such state."""
        return nullcontext()

    def workspace(self) -> Workspace:
        """Return memory that nobody uses; whoever takes it gives it back to `free`."""
        return self.free.pop() if self.free else Workspace(self.segments)

    def start(self, features: Mapping[str, Any], alone: bool = True) -> OnnxRun | MergingRun:
        """See `Runner.start`; the memory that a run uses is free for others when nobody holds the run any more."""
        ids_BN = np.asarray(features[IDS])
        columns = {
            name: np.asarray(features[name]) for name in (MASK, TYPES) if features.get(name) is not None
        }
        columns[IDS] = ids_BN
        if not alone and self.merges:
            return MergingRun.begin(self, columns)
        parts = [columns]
        if not self.merges and len(ids_BN) > 1:
            ends_B = ends(columns.get(MASK), ids_BN)
            parts = [
                {name: item[row : row + 1, : ends_B[row]] for name, item in columns.items()}
                for row in range(len(ids_BN))
            ]
        spaces = [self.workspace() for _ in parts]
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
        fill(arrays[0], features)
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
