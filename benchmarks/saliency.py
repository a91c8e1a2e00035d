r"""Measure saliency extraction: one backward pass for the batch against a Jacobian of all classes.

The Jacobian needs a pass backwards for each class, of which the gold one's is kept; it is taken in both usual ways: one
pass forward whose graph all classes run back through (`jacobian`), and a pass forward and backward for each class
(`class_by_class`). Both leave out the gradients of weights, as we do. The values must be the same. The last line is one
JSON object.

    python benchmarks/saliency.py
    python benchmarks/saliency.py --weights random:bert --classes 4 --batch-size 4 --length 8 --rounds 2
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from paired import Group, Pair, Work, parser, run_alone
from torch import Tensor

from adaptive_inference.attribution.saliency import from_embeddings, gradient, saliencies
from adaptive_inference.exits import MultiExitModel, build_model
from adaptive_inference.exits.build import full_exits
from adaptive_inference.exits.outputs import pick_device
from adaptive_inference.settings.inputs import Backbone
from adaptive_inference.tasks.schema import Schema

Batch = dict[str, Tensor]
Extract = Callable[[MultiExitModel, Batch, Tensor], Tensor]


def groups(extent: str) -> Iterator[Group]:
    """Yield all that `make bench` measures of this."""
    yield group("random:bert", 4, 2, 8, 1) if extent == "quick" else group("packaged", 4, 16, 64, 1)


def group(
    weights: str, classes: int, batch_size: int, length: int, threads: int, device: str = "cpu"
) -> Group:
    """Return the only group."""
    shape = f"{weights}, {classes} classes, {length} tokens, batch {batch_size}"
    return Group(shape, threads, partial(make, weights, classes, batch_size, length, pick_device(device)))


def jacobian(model: MultiExitModel, batch: Batch, labels: Tensor) -> Tensor:
    """Run forward once and back once for each class."""
    forward = from_embeddings(model, batch)
    hidden, last = forward.hidden_BNH, len(model.exits) - 1
    forward.advance(last)
    logits = forward.answer(last).logits
    found = [torch.autograd.grad(item.sum(), hidden, retain_graph=True)[0] for item in logits.unbind(1)]
    gold = torch.stack(found, 1)[torch.arange(len(labels)), labels]
    return (gold * hidden.detach()).norm(dim=-1) * batch["attention_mask"]


def class_by_class(model: MultiExitModel, batch: Batch, labels: Tensor) -> Tensor:
    """Run forward and back once for each class."""
    found = []
    for label in range(model.outputs):
        forward = from_embeddings(model, batch)
        hidden = forward.hidden_BNH.detach()
        found.append(gradient(forward, torch.full_like(labels, label)))
    gold = torch.stack(found, 1)[torch.arange(len(labels)), labels]
    return (gold * hidden).norm(dim=-1) * batch["attention_mask"]


WAYS: dict[str, Extract] = {
    "one_backward": saliencies,
    "jacobian": jacobian,
    "class_by_class": class_by_class,
}


def make_batch(classes: int, batch_size: int, length: int) -> tuple[Batch, Tensor]:
    """Return rows of random tokens, the longest of ``length``, and their gold labels."""
    draw = np.random.default_rng(0)
    lengths = draw.integers(length // 2, length + 1, batch_size)
    lengths[0] = length
    mask = np.arange(length) < lengths[:, None]
    ids = draw.integers(5, 150, mask.shape) * mask
    batch = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask).long()}
    return batch, torch.from_numpy(draw.integers(0, classes, batch_size))


def make(weights: str, classes: int, batch_size: int, length: int, device: torch.device) -> Work:
    """Return the ways, after a look at whether they find the same."""
    labels = tuple(f"class {number}" for number in range(classes))
    backbone = Backbone(weights=weights, exits=[1], read="mean")
    schema = Schema("benchmark", "classification", labels, "accuracy", 512)
    model = build_model(backbone, schema, 0, exits=full_exits(backbone)).to(device)
    batch, gold = make_batch(classes, batch_size, length)
    batch, gold = {name: item.to(device) for name, item in batch.items()}, gold.to(device)
    ours, *others = (extract(model, batch, gold).cpu() for extract in WAYS.values())
    facts = {
        "largest_saliency": float(ours.max()),
        "largest_difference": max(float((other - ours).abs().max()) for other in others),
    }
    ways = {name: partial(extract, model, batch, gold) for name, extract in WAYS.items()}
    return Work(ways, [Pair(name, "one_backward") for name in WAYS if name != "one_backward"], facts)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--weights", default="packaged", help="as in params: backbones.NAME.weights")
    options.add_argument("--classes", type=int, default=4)
    options.add_argument("--batch-size", type=int, default=16)
    options.add_argument(
        "--length", type=int, default=64, help="tokens of the longest row; the shortest has half"
    )
    options.add_argument("--device", default="cpu", choices=("auto", "cpu", "cuda"))
    args = options.parse_args()
    only = group(args.weights, args.classes, args.batch_size, args.length, args.threads, args.device)
    run_alone(__file__, iter([only]), args)


if __name__ == "__main__":
    main()
