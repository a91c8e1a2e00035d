"""Every exit's answer to every row, from one full-depth pass: all that offline sweeps need."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from adaptive_inference.errors import UserError

if TYPE_CHECKING:
    import torch

    from adaptive_inference.exits import MultiExitModel, MultiModel

#: Seconds between two lines that tell how far a long pass is.
TELL_EVERY = 30.0
logger = logging.getLogger("adaptive_inference")


@dataclass(frozen=True)
class ExitOutputs:
    """Cached outputs of N rows at E exits with C classes (1 for a score).

    Attributes
    ----------
    logits
        ``(N, E, C)`` float32, not calibrated.
    certainty
        ``(N, E)`` float32 in (0, 1) where the model has certainty heads.
    labels
        ``(N,)``, int64 classes or float32 scores.
    exits
        Layers before each exit, 1 to L.
    layers_cost
        Layers run in all when leaving at each exit, ``(E,)``; equals `exits` where nothing is run twice.
    ids, lengths
        ``(N,)``: row ids and token counts without padding.
    tiers
        ``(N,)`` difficulty tiers, where the task has them.
    survivors
        ``(N, L)`` int64, the tokens that each layer ran on, where the model removes tokens.
    """

    logits: np.ndarray
    certainty: np.ndarray | None
    labels: np.ndarray
    exits: tuple[int, ...]
    layers_cost: tuple[int, ...]
    ids: np.ndarray
    lengths: np.ndarray
    tiers: np.ndarray | None = None
    survivors: np.ndarray | None = None

    def alone(self, k: int) -> ExitOutputs:
        """Return the outputs of exit index ``k`` as a model of one exit: a member of a cascade by itself."""
        return replace(
            self,
            logits=self.logits[:, [k]],
            certainty=None if self.certainty is None else self.certainty[:, [k]],
            exits=(self.exits[k],),
            layers_cost=(self.exits[k],),
        )

    def take(self, rows: np.ndarray) -> ExitOutputs:
        """Return the outputs of some rows, by their indices."""
        columns = ("logits", "certainty", "labels", "ids", "lengths", "tiers", "survivors")
        found = {name: getattr(self, name) for name in columns}
        return replace(self, **{name: None if all_ is None else all_[rows] for name, all_ in found.items()})


def collect_outputs(
    model: MultiExitModel | MultiModel,
    features: Sequence[dict[str, Any]],
    batch_size: int,
    tiers: Sequence[int] | None = None,
) -> ExitOutputs:
    """Run all exits on all rows, in eval mode, on the model's device.

    Rows of like length share a batch, so that little padding is computed; the result is in the rows' order.

    Parameters
    ----------
    model
        A `MultiExitModel` or `MultiModel`.
    features
        Rows of `tasks.encode.encode`.
    batch_size
        Rows per forward.
    tiers
        Difficulty of the rows, passed through.
    """
    import torch

    model.eval()
    order, logits, certainty, survivors = [], [], [], []
    with torch.inference_mode():
        for places, batch in batches_of_like_length(model, features, batch_size):
            out = model(**batch)
            order.append(places)
            logits.append(out.logits.float().cpu().numpy())
            if out.certainty is not None:
                certainty.append(out.certainty.float().cpu().numpy())
            if out.survivors is not None:
                survivors.append(out.survivors)
    back = np.argsort(np.concatenate(order))
    return ExitOutputs(
        logits=np.concatenate(logits)[back],
        certainty=np.concatenate(certainty)[back] if certainty else None,
        labels=np.array([feature["label"] for feature in features]),
        exits=tuple(model.exits),
        layers_cost=tuple(model.layers_cost),
        ids=np.array([feature["id"] for feature in features]),
        lengths=np.array([feature["length"] for feature in features]),
        tiers=None if tiers is None else np.asarray(tiers),
        survivors=np.concatenate(survivors)[back] if survivors else None,
    )


def batches_of_like_length(
    model: MultiExitModel | MultiModel, features: Sequence[dict[str, Any]], batch_size: int
) -> Iterator[tuple[np.ndarray, dict[str, torch.Tensor]]]:
    """Yield batches on the model's device, each with the places of its rows among the features; tell how far it is."""
    from adaptive_inference.tasks.encode import collate

    lengths = np.array([feature["length"] for feature in features])
    order = np.argsort(-lengths, kind="stable")  # the longest first: memory runs out at once or never
    told = time.monotonic()
    for start in range(0, len(order), batch_size):
        if time.monotonic() - told >= TELL_EVERY:
            told = time.monotonic()
            logger.info("%d of %d rows answered, the longest first", start, len(order))
        places = order[start : start + batch_size]
        batch = collate([features[i] for i in places], getattr(model.tokenizer, "pad_token_id", None))
        yield places, {name: tensor.to(model.device) for name, tensor in batch.items()}


def pick_device(name: str) -> torch.device:
    """Return the device of ``runtime.device``.

    Raises
    ------
    UserError
        CUDA is asked for and there is none.
    """
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("runtime.device is cuda, but torch sees no CUDA device; set it to auto or cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
