"""CALM's classifier: how probable it is that a block's state already gives the token of all blocks (free.md 1d).

The second stage of a training: the decoder is frozen, and one classifier, shared by all blocks, learns to tell from the
state after block k whether that block agrees with the last one.

Shape suffixes: N target tokens of a batch, D width, V vocabulary, K = L - 1 blocks that may be left.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from adaptive_inference.decoding.confidence import AgreementClassifier, ClassifierKind
from adaptive_inference.errors import UserError
from adaptive_inference.exits.outputs import pick_device
from adaptive_inference.exits.weights import save_weights
from adaptive_inference.generation.layer_states import LayerStates
from adaptive_inference.settings.protocol import Runtime
from adaptive_inference.training.arithmetic import fast_cpu
from adaptive_inference.training.order import epoch_order

CLASSIFIER_FILE = "classifier.safetensors"
logger = logging.getLogger("adaptive_inference")


def agreement(states: LayerStates, batch: Mapping[str, Tensor]) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield each block below the last with h_k (N, D) and whether argmax_k equals argmax_L, (N,) float.

    Both are taken at the same position, after the true tokens before it. (The reference compares with block L - 1.)
    """
    raw, _ = states.raw(batch, range(1, states.blocks + 1))
    last_N = states.logits(raw[states.blocks]).argmax(-1)
    for layer in range(1, states.blocks):
        here_N = states.logits(states.read(layer, raw[layer])).argmax(-1)
        yield layer, raw[layer], (here_N == last_N).float()


@dataclass(frozen=True)
class Agreeing:
    """A trained classifier, and what it is worth on the development split.

    Attributes
    ----------
    classifier
        In evaluation mode.
    development_loss
        Its binary cross-entropy, mean over blocks.
    constant_loss
        That of a classifier which knows the share of agreeing tokens and no state; lower is better than this.
    shares
        Share of tokens at which each block agrees with the last.
    """

    classifier: AgreementClassifier
    development_loss: float
    constant_loss: float
    shares: tuple[float, ...]


def fit_classifier(
    model: PreTrainedModel,
    kind: ClassifierKind,
    train: Sequence[Mapping[str, Any]],
    development: Sequence[Mapping[str, Any]],
    collate: Callable[[list[Any]], dict[str, Tensor]],
    runtime: Runtime,
    seed: int,
    epochs: int = 1,
    batch_size: int = 32,
    learning_rate: float = 1e-3,
) -> Agreeing:
    """Train a classifier on a decoder that stays as it is.

    The loss is the binary cross-entropy, mean over tokens and then over blocks 1..L-1. A killed run starts anew: an
    epoch costs one forward of the model.

    Parameters
    ----------
    model
        Its trained weights.
    kind
        See `AgreementClassifier`.
    train, development
        Rows; see `TextRows`.
    collate
        Makes a batch of rows.
    runtime
        Where it computes.
    seed
        Of the classifier's weights and the order of rows.
    epochs, batch_size, learning_rate
        Of Adam.

    Raises
    ------
    UserError
        A split is empty, or the decoder has one block, which has nothing to agree with.
    """
    states = LayerStates(model)
    if states.blocks < 2:
        raise UserError(
            "a decoder of 1 block cannot be left early; train no classifier, or take a deeper model"
        )
    for name, rows in (("training", train), ("development", development)):
        if not rows:
            raise UserError(f"the {name} split is empty; give the task more rows")
    device = pick_device(runtime.device)
    model.to(device).eval()
    lengths = [len(row["input_ids"]) + len(row["labels"]) for row in train]
    with fast_cpu(runtime.threads), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classifier = AgreementClassifier(model.config.hidden_size, kind).to(device)
        optimizer = torch.optim.Adam(classifier.parameters(), lr=learning_rate)
        for epoch in range(epochs):
            order = epoch_order(lengths, batch_size, seed, epoch, group_by_length=True)
            for batch in _batches([train[place] for place in order], batch_size, collate, device):
                loss = _losses(classifier, states, batch)[0].mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        classifier.eval()
        found = _measure(classifier, states, _batches(development, batch_size, collate, device))
    logger.info(
        "classifier: development loss %.4f, %.4f by the share of agreeing tokens alone",
        found.development_loss,
        found.constant_loss,
    )
    return found


def _batches(
    rows: Sequence[Any], size: int, collate: Callable[[list[Any]], dict[str, Tensor]], device: torch.device
) -> Iterator[dict[str, Tensor]]:
    for start in range(0, len(rows), size):
        batch = collate(list(rows[start : start + size]))
        yield {name: item.to(device) for name, item in batch.items()}


def _losses(
    classifier: AgreementClassifier, states: LayerStates, batch: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor, int]:
    """Return cross-entropy and share of agreeing tokens of each block, (K,), and the number of tokens."""
    with torch.no_grad():
        seen = list(agreement(states, batch))
    losses = [
        functional.binary_cross_entropy_with_logits(classifier(h_ND), agrees_N) for _, h_ND, agrees_N in seen
    ]
    return torch.stack(losses), torch.stack([agrees_N.mean() for *_, agrees_N in seen]), len(seen[0][2])


@torch.no_grad()
def _measure(
    classifier: AgreementClassifier, states: LayerStates, batches: Iterator[dict[str, Tensor]]
) -> Agreeing:
    sums, tokens = torch.zeros(2, states.blocks - 1), 0
    for batch in batches:
        losses_K, shares_K, count = _losses(classifier, states, batch)
        sums, tokens = sums + count * torch.stack([losses_K, shares_K]).cpu(), tokens + count
    losses_K, shares_K = sums / tokens
    overall = shares_K.mean()
    constant = functional.binary_cross_entropy(overall, overall)
    return Agreeing(classifier, float(losses_K.mean()), float(constant), tuple(shares_K.tolist()))


def save_classifier(classifier: AgreementClassifier, folder: Path) -> None:
    """Write ``classifier.safetensors`` beside a model."""
    save_weights(classifier, folder / CLASSIFIER_FILE)


def load_classifier(folder: Path) -> AgreementClassifier | None:
    """Read what `save_classifier` wrote, in evaluation mode; None where the model has none.

    Raises
    ------
    UserError
        The file is damaged, or no classifier's.
    """
    file = folder / CLASSIFIER_FILE
    if not file.is_file():
        return None
    try:
        tensors = safetensors.torch.load_file(file)
        kind: ClassifierKind = "mlp" if "hidden.weight" in tensors else "linear"
        classifier = AgreementClassifier(tensors["output.weight"].shape[1], kind)
        classifier.load_state_dict(tensors)
    except (safetensors.SafetensorError, KeyError, RuntimeError) as error:
        raise UserError(f"{file} is no classifier ({error}); train it again") from error
    return classifier.eval()
