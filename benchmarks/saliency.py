r"""Measure saliency extraction: one backward pass for the batch against a Jacobian of all classes.

The Jacobian needs a pass backwards for each class, of which the gold one's is kept; it is taken in both usual ways: one
pass forward whose graph all classes run back through (`jacobian`), and a pass forward and backward for each class
(`class_by_class`). Both leave out the gradients of weights, as we do. The values must be the same. Rounds are interleaved
in one process; printed are medians. The last line is one JSON object.

    python benchmarks/saliency.py
    python benchmarks/saliency.py --weights random:bert --classes 4 --batch-size 4 --length 8 --repeats 2
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from adaptive_inference.attribution.saliency import from_embeddings, gradient, saliencies
from adaptive_inference.exits import MultiExitModel, build_model
from adaptive_inference.exits.build import full_exits
from adaptive_inference.exits.outputs import pick_device
from adaptive_inference.settings.inputs import Backbone
from adaptive_inference.tasks.schema import Schema
from adaptive_pipeline.runs.environment import environment

Batch = dict[str, Tensor]
Extract = Callable[[MultiExitModel, Batch, Tensor], Tensor]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", default="packaged", help="as in params: backbones.NAME.weights")
    parser.add_argument("--classes", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument(
        "--length", type=int, default=64, help="tokens of the longest row; the shortest has half"
    )
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", choices=("auto", "cpu", "cuda"))
    return parser.parse_args()


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


def make_batch(args: argparse.Namespace) -> tuple[Batch, Tensor]:
    """Return rows of random tokens, and their gold labels."""
    draw = np.random.default_rng(0)
    lengths = draw.integers(args.length // 2, args.length + 1, args.batch_size)
    lengths[0] = args.length
    mask = np.arange(args.length) < lengths[:, None]
    ids = draw.integers(5, 150, mask.shape) * mask
    batch = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask).long()}
    return batch, torch.from_numpy(draw.integers(0, args.classes, args.batch_size))


def main() -> None:
    args = parse_args()
    torch.set_num_threads(args.threads)
    device = pick_device(args.device)
    labels = tuple(f"class {number}" for number in range(args.classes))
    backbone = Backbone(weights=args.weights, exits=[1], read="mean")
    schema = Schema("benchmark", "classification", labels, "accuracy", 128)
    model = build_model(backbone, schema, 0, exits=full_exits(backbone)).to(device)
    batch, gold = make_batch(args)
    batch, gold = {name: item.to(device) for name, item in batch.items()}, gold.to(device)
    spent: dict[str, list[float]] = {name: [] for name in WAYS}
    names = list(WAYS)
    for number in range(args.repeats + 2):
        turn = number % len(names)  # none of them always goes first
        for name in names[turn:] + names[:turn]:
            start = time.perf_counter()
            found = WAYS[name](model, batch, gold).cpu()  # waits for the device
            if number >= 2:
                spent[name].append(time.perf_counter() - start)
            elif name == "one_backward":
                wanted = found
    differences = {
        name: float((extract(model, batch, gold).cpu() - wanted).abs().max())
        for name, extract in WAYS.items()
    }
    body = {
        "benchmark": Path(__file__).stem,
        "largest_saliency": float(wanted.max()),
        "settings": vars(args),
        "environment": environment(device.type),
    }
    ours = np.array(spent["one_backward"])
    for name, seconds in spent.items():
        per_second = args.batch_size / float(np.median(seconds))
        ratio = float(np.median(np.array(seconds) / ours))
        body[name] = {
            "examples_per_second": per_second,
            "slower_than_one_backward": ratio,
            "difference": differences[name],
        }
        print(
            f"{name:16}{per_second:9.1f} examples/s{ratio:8.2f} x our time   differs by {differences[name]:.1e}"
        )
    print(json.dumps(body, sort_keys=True))


if __name__ == "__main__":
    main()
