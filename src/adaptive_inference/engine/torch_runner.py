"""Runs a model's layers by torch, on the model's device.

Shape suffixes: B rows, N tokens, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from adaptive_inference.engine.runner import Answer
from adaptive_inference.exits.forward import Forward
from adaptive_inference.exits.model import ExitModule

INPUTS = ("input_ids", "attention_mask", "token_type_ids")


class TorchRunner:
    """The runner of a `MultiExitModel` or a `MultiModel`; see `Runner`.

    Parameters
    ----------
    model
        Put into eval mode.
    certainty
        Whether answers hold the certainty.
    packed
        Compute no padding, see `EncoderForward`; None: where the model removes tokens, so that rows of a batch come to
        differ in length.
    """

    looks_back = True

    def __init__(self, model: ExitModule, certainty: bool, packed: bool | None = None) -> None:
        self.model, self.certainty = model.eval(), certainty
        self.packed = model.removes_tokens if packed is None else packed
        self.cuts = tuple(range(len(model.exits)))
        self.device = model.device
        self.waits = self.device.type != "cpu"

    @contextmanager
    def start(self, features: Mapping[str, Any]) -> Iterator[TorchRun]:
        """See `Runner.start`."""
        batch = {name: torch.as_tensor(features[name]) for name in INPUTS if features.get(name) is not None}
        lengths = None
        if "attention_mask" in batch:  # read before the batch goes to the device
            lengths = _lengths(batch["attention_mask"].cpu().numpy())
            if lengths is None:
                del batch["attention_mask"]
        batch = {name: item.to(self.device, non_blocking=True) for name, item in batch.items()}
        with torch.inference_mode():  # once for a batch: entered at each exit, it would show in a timing
            yield TorchRun(self.model.start(batch, packed=self.packed), self.certainty, self.device, lengths)


class TorchRun:
    """One batch under way; see `Run`."""

    def __init__(
        self, forward: Forward, certainty: bool, device: torch.device, lengths_B: np.ndarray | None
    ) -> None:
        self._forward, self._certainty, self._device = forward, certainty, device
        self._lengths_B = lengths_B

    def advance(self, index: int, answers: Sequence[int] = ()) -> dict[int, Answer]:
        """See `Run.advance`."""
        self._forward.advance(index)
        return self.answer(answers) if answers else {}

    def answer(self, indices: Sequence[int]) -> dict[int, Answer]:
        """See `Run.answer`; one transfer from the device for all."""
        found = []
        for index in indices:
            answer = self._forward.answer(index, self._certainty)
            self._forward.release(index)
            columns = answer.logits
            if answer.certainty is not None:
                columns = torch.cat([columns, answer.certainty[:, None]], dim=1)
            found.append(columns)
        fetched = (
            [found[0].float().cpu().numpy()] if len(found) == 1 else torch.stack(found).float().cpu().numpy()
        )
        if not self._certainty:
            return {index: Answer(item_BC) for index, item_BC in zip(indices, fetched, strict=True)}
        return {
            index: Answer(item[:, :-1], item[:, -1]) for index, item in zip(indices, fetched, strict=True)
        }

    @property
    def survivors(self) -> np.ndarray | None:
        """See `Run`."""
        return np.stack(self._forward.survivors, axis=1) if self._forward.survivors else None

    def release(self, indices: Sequence[int]) -> None:
        """See `Run.release`."""
        for index in indices:
            self._forward.release(index)

    def select(self, rows: np.ndarray) -> None:
        """See `Run.select`; padding that none of the rows needs goes too."""
        length = None
        if self._lengths_B is not None:
            self._lengths_B = self._lengths_B[rows]
            length = int(self._lengths_B.max())
        self._forward.select(torch.from_numpy(rows).to(self._device), length)


def _lengths(mask_BN: np.ndarray) -> np.ndarray | None:
    """Return the place after each row's last token, (B,), or None where no token is padding."""
    if mask_BN.all():
        return None
    return mask_BN.shape[1] - mask_BN[:, ::-1].argmax(1)
