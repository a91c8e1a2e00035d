r"""Time a training step with exits against plain fine-tuning.

One optimiser step (forward, backward, clip, AdamW) of early exit and of SWEET through `ExitTrainer`, against a plain
PyTorch loop over the stock model with one head, on the same batches with the same fused optimiser. Asked: at most 1.15 times
as long. The last line is one JSON object.

    python benchmarks/train_step.py
    python benchmarks/train_step.py --weights random:bert --rounds 10 --batch-size 32 --length 32
"""

from __future__ import annotations

import copy
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from encoders import SCHEMA
from paired import Group, Pair, Work, parser, run_alone
from torch import Tensor, nn

from adaptive_inference.exits.build import build_model, full_exits
from adaptive_inference.objectives import load_objective
from adaptive_inference.settings.inputs import Backbone
from adaptive_inference.settings.protocol import Runtime
from adaptive_inference.settings.training import MethodTraining, Training
from adaptive_inference.training.arithmetic import fast_cpu
from adaptive_inference.training.progress import Progress
from adaptive_inference.training.recipe import Recipe
from adaptive_inference.training.rows import Rows
from adaptive_inference.training.trainer import ExitTrainer

LIMIT = 1.15
METHODS = {
    "full": MethodTraining(),
    "early_exit": MethodTraining(),
    "sweet": MethodTraining(gradient="blockwise"),
    "sweet_block_local": MethodTraining(gradient="blockwise", backward="block_local"),
}

Step = Callable[[dict[str, Tensor]], None]


def groups(extent: str) -> Iterator[Group]:
    """Yield all that `make bench` measures of this."""
    if extent == "quick":
        yield group("random:bert", [1, 2], 2, 8)
    else:
        yield group("packaged", [2, 4, 6], 16, 14)


def group(weights: str, exits: list[int], batch_size: int, length: int) -> Group:
    """Return the only group; 14 is the mean length of SST-2's training rows."""
    shape = f"{weights}, exits {' '.join(map(str, exits))}, {length} tokens, batch {batch_size}"
    return Group(shape, 1, partial(make, weights, exits, batch_size, length))


def make(weights: str, exits: list[int], batch_size: int, length: int) -> Work:
    """Return the ways: each step takes the next of the same batches."""
    logging.getLogger("adaptive_inference").setLevel(logging.ERROR)
    backbone = Backbone(weights=weights, exits=exits, read="mean")
    full = build_model(backbone, SCHEMA, 0, exits=full_exits(backbone))
    model = build_model(backbone, SCHEMA, 0, num_layers=full.backbone.num_layers)
    steps = {"plain": plain_step(copy.deepcopy(full))}
    for name, method in METHODS.items():
        steps[name] = trainer_step(copy.deepcopy(full if name == "full" else model), method)
    vocabulary = full.backbone.config.vocab_size
    ways = {name: on_batches(step, batches(batch_size, length, vocabulary)) for name, step in steps.items()}
    return Work(ways, [Pair(name, "plain", LIMIT) for name in METHODS])


def batches(batch_size: int, length: int, vocabulary: int) -> Iterator[dict[str, Tensor]]:
    """Yield random batches with a little padding, always the same."""
    generator = torch.Generator().manual_seed(0)
    shape = (batch_size, length)
    while True:
        mask = torch.ones(shape, dtype=torch.long)
        mask[0, length // 2 :] = 0
        yield {
            "input_ids": torch.randint(5, vocabulary, shape, generator=generator),
            "attention_mask": mask,
            "labels": torch.randint(0, 2, shape[:1], generator=generator),
            "ids": torch.arange(batch_size),
        }


def on_batches(step: Step, source: Iterator[dict[str, Tensor]], count: int = 1) -> Callable[[], None]:
    """Return a way: some steps on the next batches, with the settings of a training."""

    def way() -> None:
        with fast_cpu(1):
            for _ in range(count):
                step(next(source))

    return way


def plain_step(model: nn.Module) -> Step:
    """Drive the stock model and one head in a plain loop, as anybody would write it."""
    stock, head = model.backbone.model, model.heads[-1]
    parameters = [*stock.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-5, weight_decay=0.0, fused=True)
    stock.train(), head.train()

    def step(batch: dict[str, Tensor]) -> None:
        mask = batch["attention_mask"]
        hidden = stock(input_ids=batch["input_ids"], attention_mask=mask).last_hidden_state
        loss = F.cross_entropy(head.classifier(head.features(hidden, mask)), batch["labels"])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def trainer_step(model: nn.Module, method: MethodTraining, others: Sequence[dict[str, Tensor]] = ()) -> Step:
    """One step as `Trainer` takes it, and what the objective does after it.

    Parameters
    ----------
    model, method
        What is trained, and how.
    others
        Batches of the other half of the rows, for an objective that learns its weights.
    """
    folder = tempfile.TemporaryDirectory()
    row = {"input_ids": [5], "attention_mask": [1], "label": 0, "id": 0, "length": 1}
    objective = load_objective(method.objective, method)
    progress = Progress(model.exits, lambda row, step: None)
    recipe = Recipe(SCHEMA, Training(learning_rate=1e-5), method, Runtime(device="cpu"), 0)
    trainer = ExitTrainer(model, objective, Rows([row], [row]), recipe, folder.name, progress)
    optimizer = trainer.create_optimizer()
    trainer.current_gradient_accumulation_steps = 1
    trainer._others = lambda step: list(others)

    def step(batch: dict[str, Tensor], folder: object = folder) -> None:  # the folder goes when the step does
        trainer.training_step(model, batch)
        trainer._clip_grad_norm(model)
        optimizer.step()
        trainer.after_step(1e-5)
        trainer.state.global_step += 1
        model.zero_grad()
        progress.end_step()

    return step


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--weights", default="packaged", help="as in params: backbones.NAME.weights")
    options.add_argument("--exits", type=int, nargs="+", default=[2, 4, 6], help="exit layers")
    options.add_argument("--batch-size", type=int, default=16)
    options.add_argument(
        "--length", type=int, default=14, help="tokens per row (SST-2's training mean is 13)"
    )
    args = options.parse_args()
    run_alone(__file__, iter([group(args.weights, args.exits, args.batch_size, args.length)]), args)


if __name__ == "__main__":
    main()
