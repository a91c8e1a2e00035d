"""The encoders that benchmarks compare: BERT's shapes with random weights, stock and with exits."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from paired import Shape
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification, BertModel

from adaptive_inference.backbones.bert import BertBackbone
from adaptive_inference.calibration.calibrator import Calibrator
from adaptive_inference.tasks.schema import Schema

SCHEMA = Schema("benchmark", "classification", ("no", "yes"), "accuracy", 512)
SIZES = ((6, 384), (12, 768))
LENGTHS = (16, 32, 64, 128, 256)
#: Tokens of a batch, at most.
MOST_TOKENS = 4096
#: Exits of the presets, by the number of layers.
EXITS = {2: (1, 2), 6: (1, 2, 4, 6), 12: (1, 4, 6, 12)}


def shapes(extent: str, batches: tuple[int, ...]) -> Iterator[tuple[Shape, int]]:
    """Yield shapes, and threads to run them with: two for the larger size alone, unless the extent is ``full``."""
    if extent == "quick":
        yield from ((Shape(2, 32, 8, batch), 1) for batch in batches[:1])
        return
    for layers, width in SIZES:
        for threads in (1, 2) if width == 768 or extent == "full" else (1,):
            for length in LENGTHS:
                for batch in batches:
                    if length * batch <= MOST_TOKENS or (
                        extent == "full" and length * batch <= 4 * MOST_TOKENS
                    ):
                        yield Shape(layers, width, length, batch), threads


def config(layers: int, width: int) -> BertConfig:
    """Return the shape's configuration: heads of 32 in the small size, of 64 in the large one."""
    return BertConfig(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=12 if width % 12 == 0 else 4,
        intermediate_size=4 * width,
    )


def backbone(layers: int, width: int) -> BertBackbone:
    """Return an encoder to which exits can be added."""
    torch.manual_seed(0)
    return BertBackbone(BertModel(config(layers, width)))


def stock(layers: int, width: int) -> Callable[[dict[str, Tensor]], np.ndarray]:
    """Return the stock classifier: from a batch to its logits on the host."""
    torch.manual_seed(0)
    model = BertForSequenceClassification(config(layers, width)).eval()

    def answer(batch: dict[str, Tensor]) -> np.ndarray:
        with torch.inference_mode():
            return model(**batch).logits.numpy()

    return answer


def tokens(shape: Shape, count: int = 1) -> list[dict[str, Any]]:
    """Return batches of random tokens without padding."""
    draw = torch.Generator().manual_seed(0)
    size = shape.batch, shape.length
    return [{"input_ids": torch.randint(5, 30000, size, generator=draw)} for _ in range(count)]


def leave_at(index: int, exits: int) -> Calibrator:
    """Return a calibration by which every row is sure at one exit and at none before: the rule is run, not replaced."""
    return Calibrator(tuple(1e-9 if k == index else 1e9 for k in range(exits)))


def size_options(options: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add what says which shapes a benchmark is run on by itself."""
    options.add_argument(
        "--sizes", type=int, nargs="+", default=[6, 384, 12, 768], help="layers and width, in turns"
    )
    options.add_argument("--lengths", type=int, nargs="+", default=[16, 32, 128], help="tokens")
    return options


def chosen(args: argparse.Namespace, batches: Sequence[int] = (1,)) -> list[Shape]:
    """Return the shapes of these options."""
    sizes = list(zip(args.sizes[::2], args.sizes[1::2], strict=True))
    return [Shape(*size, length, batch) for size in sizes for length in args.lengths for batch in batches]
