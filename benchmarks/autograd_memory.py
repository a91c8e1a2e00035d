r"""Count the bytes that autograd holds at most during a training step, parameters excluded.

Saved-tensor hooks see every tensor that autograd keeps for the backward pass and the moment at which it lets go; a
storage saved many times counts once. Compared are early exit and SWEET with block-local backward, on a 12-layer
encoder. The bounds of the project: 0.55 of early exit with exits 1, 4, 6, 12 and 0.30 with exits 3, 6, 9, 12. The
last line is one JSON object.

    python benchmarks/autograd_memory.py
    python benchmarks/autograd_memory.py --width 768 --batch-size 16 --length 128
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import TracebackType

import torch
from encoders import SCHEMA, backbone
from paired import Group, Pair, Work, parser, run_alone
from torch import Tensor, nn

from adaptive_inference.exits.build import add_exits
from adaptive_inference.objectives import load_objective
from adaptive_inference.settings.protocol import Runtime
from adaptive_inference.settings.training import MethodTraining, Training
from adaptive_inference.training.progress import Progress
from adaptive_inference.training.recipe import Recipe
from adaptive_inference.training.rows import Rows
from adaptive_inference.training.trainer import ExitTrainer

METHODS = {
    "early_exit": MethodTraining(),
    "sweet": MethodTraining(gradient="blockwise"),
    "sweet_block_local": MethodTraining(gradient="blockwise", backward="block_local"),
}
BOUNDS = {(1, 4, 6, 12): 0.55, (3, 6, 9, 12): 0.30}


class HeldByAutograd:
    """Counts the bytes that autograd holds while the context is entered; ``peak`` is the most at one time."""

    def __init__(self, model: nn.Module) -> None:
        self._weights = {item.untyped_storage().data_ptr() for item in model.parameters()}
        self._users: Counter[int] = Counter()
        self.held = self.peak = 0

    def __enter__(self) -> HeldByAutograd:
        self._hooks = torch.autograd.graph.saved_tensors_hooks(
            lambda item: _Saved(item, self), _Saved.tensor.fget
        )
        self._hooks.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hooks.__exit__(kind, error, trace)

    def take(self, item: Tensor) -> int:
        """Count a saved tensor's storage unless it is counted already; return its key, 0 for a weight's."""
        key, size = item.untyped_storage().data_ptr(), item.untyped_storage().nbytes()
        if key in self._weights:
            return 0
        self._users[key] += 1
        if self._users[key] == 1:
            self.held += size
            self.peak = max(self.peak, self.held)
        return key

    def drop(self, key: int, item: Tensor) -> None:
        """Take off one user of a storage, and with the last one its bytes."""
        self._users[key] -= 1
        if self._users[key] == 0:
            self.held -= item.untyped_storage().nbytes()


class _Saved:
    """Stands for a saved tensor; dies when autograd lets go of it."""

    def __init__(self, item: Tensor, counter: HeldByAutograd) -> None:
        self._item, self._counter, self._key = item, counter, counter.take(item)

    @property
    def tensor(self) -> Tensor:
        return self._item

    def __del__(self) -> None:
        if self._key:
            self._counter.drop(self._key, self._item)


def peak_bytes(
    exits: tuple[int, ...], method: MethodTraining, width: int, batch_size: int, length: int
) -> int:
    """Return the most that autograd holds during one training step."""
    model = add_exits(backbone(12, width), exits, SCHEMA, 0)
    row = {"input_ids": [5], "attention_mask": [1], "label": 0, "id": 0, "length": 1}
    shape = (batch_size, length)
    mask = torch.ones(shape, dtype=torch.long)
    mask[0, length // 2 :] = 0
    batch = {
        "input_ids": torch.randint(0, 1000, shape),
        "attention_mask": mask,
        "labels": torch.randint(0, 2, shape[:1]),
        "ids": torch.arange(batch_size),
    }
    with tempfile.TemporaryDirectory() as folder:
        objective, progress = load_objective("joint", method), Progress(exits, lambda row, step: None)
        recipe = Recipe(SCHEMA, Training(), method, Runtime(device="cpu"), 0)
        trainer = ExitTrainer(model, objective, Rows([row], [row]), recipe, Path(folder), progress)
        trainer.current_gradient_accumulation_steps = 1
        with HeldByAutograd(model) as counter:
            trainer.training_step(model, batch)
    if counter.held:
        raise RuntimeError(f"{counter.held} bytes are still held after the step: the count is wrong")
    return counter.peak


def groups(extent: str) -> Iterator[Group]:
    """Yield all that `make bench` measures of this."""
    yield from all_groups(32, 2, 8) if extent == "quick" else all_groups(256, 8, 64)


def all_groups(width: int, batch_size: int, length: int) -> Iterator[Group]:
    """Yield one group for each choice of exits."""
    for exits in BOUNDS:
        shape = f"12 x {width}, exits {' '.join(map(str, exits))}, {length} tokens, batch {batch_size}"
        yield Group(shape, 1, partial(make, exits, width, batch_size, length))


def make(exits: tuple[int, ...], width: int, batch_size: int, length: int) -> Work:
    """Return the ways; each returns bytes."""
    ways = {
        name: partial(peak_bytes, exits, method, width, batch_size, length)
        for name, method in METHODS.items()
    }
    pairs = [Pair("sweet", "early_exit"), Pair("sweet_block_local", "early_exit", BOUNDS[exits])]
    return Work(ways, pairs, unit="bytes")


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--width", type=int, default=256)
    options.add_argument("--batch-size", type=int, default=8)
    options.add_argument("--length", type=int, default=64)
    options.set_defaults(rounds=1)
    args = options.parse_args()
    run_alone(__file__, all_groups(args.width, args.batch_size, args.length), args)


if __name__ == "__main__":
    main()
