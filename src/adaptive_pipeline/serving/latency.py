"""How deep a text may run in a time: a table measured when the model is loaded, on the machine that answers.

What it can promise is no more than that: at start-up, with nothing else asked, no text of such a length took longer in so
many runs. Time that a text waits for those before it is not in it, and a machine that has become busier breaks it; the
server counts how often (`Counters`).
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from adaptive_inference.errors import UserError
from adaptive_inference.serving.predictor import Predictor
from adaptive_inference.tasks.encode import encode_texts

#: Runs of each entry, after one that is not counted. The slowest is what is promised by.
RUNS = 5
#: Least length of a row of the table, in tokens; the next ones double, up to the model's greatest.
LEAST = 16


@dataclass(frozen=True)
class LatencyTable:
    """Milliseconds of one text alone.

    Attributes
    ----------
    lengths
        (R,) tokens, ascending.
    cuts
        (K,) indices of the exits at which a text can be stopped, ascending.
    layers
        (K,) layers before those exits.
    milliseconds
        (R, K): the slowest of `RUNS` runs, and no less than that of a shorter text or an exit before.
    """

    lengths: tuple[int, ...]
    cuts: tuple[int, ...]
    layers: tuple[int, ...]
    milliseconds: np.ndarray

    @classmethod
    def measure(cls, predictor: Predictor) -> LatencyTable:
        """Time texts of growing length to each exit at which the model can be stopped."""
        cuts = tuple(predictor.engine.runner.cuts)
        to_exit = [predictor.under("fixed", float(cut), deepest=cut) for cut in cuts]
        texts = _texts(predictor)
        found = np.array([[_slowest(one, text) for one in to_exit] for text in texts.values()])
        found = np.maximum.accumulate(np.maximum.accumulate(found, axis=0), axis=1)
        layers = tuple(int(predictor.model.exits[cut]) for cut in cuts)
        return cls(tuple(texts), cuts, layers, found)

    def deepest(self, length: int, milliseconds: float) -> int:
        """Return the index of the deepest exit that a text may run to.

        Parameters
        ----------
        length
            Tokens of the text; taken as the next greater of `lengths`.
        milliseconds
            What it may take.

        Raises
        ------
        UserError
            Not even the first exit is reached in that time.
        """
        row = min(int(np.searchsorted(self.lengths, length)), len(self.lengths) - 1)
        fitting = int(np.searchsorted(self.milliseconds[row], milliseconds, side="right"))
        if not fitting:
            raise UserError(
                f"params entry `max_latency_ms` is {milliseconds:g}, and a text of {length} tokens takes up to "
                f"{self.milliseconds[row, 0]:.3g} ms here to the first exit; ask for no less than that"
            )
        return self.cuts[fitting - 1]

    def to_json(self) -> dict[str, object]:
        """Return the plain form, milliseconds by length and layers."""
        return {
            str(length): {str(layer): round(float(ms), 3) for layer, ms in zip(self.layers, row, strict=True)}
            for length, row in zip(self.lengths, self.milliseconds, strict=True)
        }


def length_of(predictor: Predictor, text: tuple[str, ...]) -> int:
    """Return the tokens that the model reads of a text."""
    (row,) = encode_texts([text], predictor.model.tokenizer, predictor.schema.max_length)
    return int(row["length"])


def _texts(predictor: Predictor) -> dict[int, tuple[str, ...]]:
    """Return lengths and a text of each: one word again and again, up to the greatest length that the model reads."""
    rest = ("a",) * (len(predictor.schema.text) - 1)
    wanted, found, words = LEAST, {}, 1
    longest = predictor.schema.max_length
    while True:
        text = (" ".join(["a"] * words), *rest)
        length = length_of(predictor, text)
        if length >= min(wanted, longest):
            found[length] = text
            wanted *= 2
        if length >= longest or words > 4 * longest:  # a tokenizer that swallows words ends it too
            found[length] = text
            return dict(sorted(found.items()))
        words += max(1, (min(wanted, longest) - length) // 4)


def _slowest(predictor: Predictor, text: tuple[str, ...]) -> float:
    predictor.answer(text)
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        predictor.answer(text)
        times.append(time.perf_counter() - start)
    return 1000 * max(times)
