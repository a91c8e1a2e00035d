"""A classifier without layers: the mean of a text's token embeddings, and one linear layer. The cheapest opponent.

Trained in PyTorch, run by numpy. It begins with the token embeddings of the fine-tuned full model, which are trained too.

Shapes: N tokens of a text, V tokens of the vocabulary, D width, C outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from adaptive_inference.files import read_arrays, write_arrays
from adaptive_inference.tasks.quality import predict, quality

if TYPE_CHECKING:
    from adaptive_inference.tasks.encode import Feature
    from adaptive_inference.tasks.schema import Schema

FILE = "static_embedding.safetensors"
#: Passes over the training rows, rows of a step, and the rates that are tried: the development split chooses among them.
_EPOCHS, _BATCH, _RATES = 8, 16, (1e-3, 5e-3)


@dataclass(frozen=True)
class StaticEmbedding:
    """The classifier, ready to answer.

    Attributes
    ----------
    table_VD, weight_CD, bias_C
        Its weights, float32.
    """

    table_VD: np.ndarray
    weight_CD: np.ndarray
    bias_C: np.ndarray

    #: As an `Engine` has them, beside which it is timed.
    model = runner = None

    def run(self, features: Mapping[str, Any]) -> np.ndarray:
        """Answer a batch of one text, ``input_ids`` (1, N)."""
        return self.logits(features["input_ids"][0])

    def logits(self, input_ids_N: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return the logits of one text, (C,)."""
        return self.weight_CD @ self.table_VD[input_ids_N].mean(0) + self.bias_C

    def predictions(self, features: Sequence[Mapping[str, Any]], kind: str) -> np.ndarray:
        """Return the class or score of each text; see `tasks.quality.predict`."""
        return predict(np.stack([self.logits(row["input_ids"]) for row in features]), kind)

    def save(self, folder: Path) -> None:
        """Write its file."""
        arrays = {"table": self.table_VD, "weight": self.weight_CD, "bias": self.bias_C}
        write_arrays(folder / FILE, arrays, "static_embedding", {})

    @classmethod
    def load(cls, folder: Path) -> StaticEmbedding:
        """Read what `save` wrote."""
        arrays, _ = read_arrays(folder / FILE, "static_embedding")
        return cls(arrays["table"], arrays["weight"], arrays["bias"])


def fit_static_embedding(
    table_VD: np.ndarray,
    train: Sequence[Feature],
    development: Sequence[Feature],
    schema: Schema,
    seed: int,
) -> StaticEmbedding:
    """Train one: AdamW at a fixed rate; rate and epoch are those of the best quality on the development split.

    Parameters
    ----------
    table_VD
        Token embeddings to begin with. Those of tokens that no training row holds stay as they are.
    train, development
        Rows of `tasks.encode.encode`.
    schema
        Of the task.
    seed
        Of the order of the rows.
    """
    import torch
    from torch.nn import functional

    seen = np.unique(np.concatenate([row["input_ids"] for row in train]))
    place = np.zeros(len(table_VD), np.int64)
    place[seen] = np.arange(len(seen))
    texts = [torch.from_numpy(place[row["input_ids"]]) for row in train]
    scores = schema.labels is None
    labels = torch.tensor([row["label"] for row in train], dtype=torch.float32 if scores else torch.int64)
    truth = np.array([row["label"] for row in development])
    generator = torch.Generator().manual_seed(seed)
    best, found = -np.inf, None
    for rate in _RATES:
        table = torch.from_numpy(table_VD[seen].astype(np.float32)).requires_grad_()
        weight = torch.zeros(schema.outputs, table_VD.shape[1], requires_grad=True)
        bias = torch.zeros(schema.outputs, requires_grad=True)
        optimizer = torch.optim.AdamW([table, weight, bias], lr=rate, fused=True)
        for _ in range(_EPOCHS):
            for rows in torch.randperm(len(texts), generator=generator).split(_BATCH):
                chosen = [texts[row] for row in rows]
                starts = torch.tensor([0, *(len(item) for item in chosen[:-1])]).cumsum(0)
                means = functional.embedding_bag(torch.cat(chosen), table, starts, mode="mean")
                logits = functional.linear(means, weight, bias)
                loss = (
                    functional.mse_loss(logits[:, 0], labels[rows])
                    if scores
                    else functional.cross_entropy(logits, labels[rows])
                )
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            whole = table_VD.astype(np.float32)
            whole[seen] = table.detach().numpy()
            now = StaticEmbedding(whole, weight.detach().numpy().copy(), bias.detach().numpy().copy())
            said = now.predictions(development, schema.kind)
            merit = float(quality(schema.metric, said, truth, schema.outputs if not scores else None))
            if merit > best:
                best, found = merit, now
    assert found is not None
    return found
