"""Runs a model's layers by torch, on the model's device.

Shape suffixes: B rows, N tokens, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
        self.merges = (
            self.packed or not model.removes_tokens
        )  # once padded, lost tokens leave no place behind
        self.cuts = tuple(range(len(model.exits)))
        self.device = model.device
        self.waits = self.device.type != "cpu"

    def inference(self) -> torch.inference_mode:
        """See `Runner.inference`; entered once for a batch: at each exit, it would show in a timing."""
        return torch.inference_mode()

    def start(self, features: Mapping[str, Any], alone: bool = True) -> TorchRun:
        """See `Runner.start`; one row alone has no padding, and is not packed."""
        batch = {name: torch.as_tensor(features[name]) for name in INPUTS if features.get(name) is not None}
        rows, columns = batch["input_ids"].shape
        lengths_B = np.full(rows, columns)
        if "attention_mask" in batch:  # read before the batch goes to the device
            mask_BN = batch["attention_mask"].cpu().numpy()
            if mask_BN.all():
                del batch["attention_mask"]
            else:
                lengths_B = columns - mask_BN[:, ::-1].argmax(1)  # the place after each row's last token
        batch = {name: item.to(self.device, non_blocking=True) for name, item in batch.items()}
        packed = self.packed and not (alone and rows == 1)
        return TorchRun(self.model.start(batch, packed=packed), self.certainty, self.device, lengths_B)

    def single(self, features: Mapping[str, Any], ascending: bool) -> TorchSingle:
        """See `Runner.single`."""
        return TorchSingle(self, features, ascending)


class TorchSingle:
    """One row under way; see `Single`."""

    def __init__(self, runner: TorchRunner, features: Mapping[str, Any], ascending: bool) -> None:
        self._ascending, self._passed, self._held = ascending, -1, []
        self._mode = runner.inference()
        self._mode.__enter__()
        try:
            self._run = runner.start(features)
        except BaseException:
            self.close()
            raise
        self._found: dict[int, tuple[list[float], float | None]] = {}

    @property
    def survivors(self) -> np.ndarray | None:
        """See `Single`."""
        return self._run.survivors

    def advance(self, index: int) -> None:
        """See `Single.advance`."""
        for passed in range(self._passed + 1, index + 1):
            self._run.advance(passed)
            self._held.append(passed)
            if self._ascending:
                self.forget(passed)
        self._passed = max(self._passed, index)

    def answer(self, index: int) -> tuple[list[float], float | None]:
        """See `Single.answer`."""
        if index not in self._found:
            self.advance(index)
            self._found[index] = self._run.answer_one(index)
            self._held.remove(index)
        return self._found[index]

    def forget(self, oldest: int) -> None:
        """See `Single.forget`."""
        while self._held and self._held[0] < oldest:
            self._run.release(self._held[:1])
            del self._held[0]

    def close(self) -> None:
        """See `Single.close`; memory goes with it."""
        self._mode.__exit__(None, None, None)


class TorchRun:
    """One batch under way; see `Run`."""

    def __init__(
        self, forward: Forward, certainty: bool, device: torch.device, lengths_B: np.ndarray
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

    def answer_one(self, index: int) -> tuple[list[float], float | None]:
        """Return what an exit answers to the only row."""
        answer = self._forward.answer(index, self._certainty)
        self._forward.release(index)
        certainty = None if answer.certainty is None else answer.certainty.item()
        return answer.logits.tolist()[0], certainty

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
        self._lengths_B, index, length = self._cut(rows)
        self._forward.select(index, length)

    def take(self, rows: np.ndarray) -> TorchRun:
        """See `Run.take`."""
        lengths_B, index, length = self._cut(rows)
        return TorchRun(self._forward.take(index, length), self._certainty, self._device, lengths_B)

    def _cut(self, rows: np.ndarray) -> tuple[np.ndarray, torch.Tensor, int]:
        """Return the lengths of some rows, their indices on the device, and the columns that they need."""
        lengths_B = self._lengths_B[rows]
        return lengths_B, torch.from_numpy(rows).to(self._device), int(lengths_B.max())

    def merge(self, others: Sequence[TorchRun]) -> None:
        """See `Run.merge`."""
        every = [self, *others]
        self._lengths_B = np.concatenate([item._lengths_B for item in every])
        self._forward.merge([item._forward for item in others])
