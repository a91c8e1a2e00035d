"""When taking rows that left out of a batch pays: by what it costs and what it saves, both measured, never guessed.

A batch from which rows leave can be cut down, which copies what is left, or run on as it is, which computes rows that
nobody asks for. Which is cheaper depends on the model and the machine, see "Throughput in batches" of docs/protocol.md.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from adaptive_inference.engine.runner import Runner
from adaptive_inference.errors import UserError


@dataclass(frozen=True)
class Compaction:
    """Measured costs, at some sizes of a batch; between them they are interpolated.

    Attributes
    ----------
    tokens
        Rows times columns, ascending.
    layer_seconds
        Of one layer on so many tokens; never falls.
    select_seconds
        Of cutting a batch down to so many tokens.
    """

    tokens: tuple[int, ...]
    layer_seconds: tuple[float, ...]
    select_seconds: tuple[float, ...]

    def pays(self, kept: int, carried: int, columns: int, layers: int) -> bool:
        """Whether to cut a batch down.

        Parameters
        ----------
        kept, carried
            Rows that are still there, and rows in the batch.
        columns
            Tokens of its longest row.
        layers
            To be run until the next exit; what rows cost after it is decided there.
        """
        dead = self._at(self.layer_seconds, carried * columns) - self._at(self.layer_seconds, kept * columns)
        return self._at(self.select_seconds, kept * columns) < layers * dead

    def _at(self, seconds: Sequence[float], tokens: int) -> float:
        if tokens > self.tokens[-1]:  # a full machine: in proportion
            return seconds[-1] * tokens / self.tokens[-1]
        return float(np.interp(tokens, self.tokens, seconds))

    @classmethod
    def measure(
        cls, runner: Runner, layers_cost: Sequence[int], rows: int, columns: int, repeats: int = 5
    ) -> Compaction:
        """Time the layers between a runner's first two cuts, and `Run.select`, at 1, 2, 4, ... rows.

        Parameters
        ----------
        runner
            Of the model.
        layers_cost
            Layers run in total up to each exit.
        rows, columns
            The largest batch: rows, and tokens of each.
        repeats
            Of which the median counts; sizes come in turns.

        Raises
        ------
        UserError
            There is one cut only, after which nothing is run, or no row or token.
        """
        if rows < 1 or columns < 1:
            raise UserError(f"a batch of {rows} x {columns} tokens measures nothing; give 1 or more of both")
        if len(runner.cuts) < 2:
            raise UserError(
                "this model runs in one piece, so that no row leaves before the end; there is nothing to measure"
            )
        first, second = runner.cuts[:2]
        counts = sorted({*(2**power for power in range(rows.bit_length()) if 2**power < rows), rows})
        spent = np.zeros((2, repeats + 1, len(counts)))
        with runner.inference():
            for turn in range(repeats + 1):
                for place, count in enumerate(counts):
                    run = runner.start({"input_ids": np.zeros((2 * count, columns), np.int64)}, alone=False)
                    run.advance(first, [first])  # an answer is waited for, so the device is idle after it
                    since = time.perf_counter()
                    run.select(np.arange(0, 2 * count, 2))
                    spent[1, turn, place] = time.perf_counter() - since
                    since = time.perf_counter()
                    run.advance(second, [second])
                    spent[0, turn, place] = time.perf_counter() - since
        layer, select = np.median(spent[:, 1:], axis=1)  # the first turn warms up
        layer = np.maximum.accumulate(layer / (layers_cost[second] - layers_cost[first]))
        tokens = tuple(count * columns for count in counts)
        return cls(tokens, tuple(layer.tolist()), tuple(select.tolist()))
