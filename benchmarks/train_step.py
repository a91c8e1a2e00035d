r"""Time a training step with exits against plain fine-tuning.

One optimiser step (forward, backward, clip, AdamW) of early exit and of SWEET through `ExitTrainer`, against a plain
PyTorch loop over the stock model with one head, on the same batches with the same fused optimiser. The bound of the
project is 1.15. Steps are interleaved in one process; time is CPU time, which other processes disturb less. The last
line is one JSON object.

    python benchmarks/train_step.py
    python benchmarks/train_step.py --weights random:bert --steps 10 --batch-size 32 --length 32
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adaptive_inference.exits.build import build_model, full_exits
from adaptive_inference.objectives import load_objective
from adaptive_inference.settings.inputs import Backbone
from adaptive_inference.settings.protocol import Runtime
from adaptive_inference.settings.training import MethodTraining, Training
from adaptive_inference.tasks.schema import Schema
from adaptive_inference.training.arithmetic import fast_cpu
from adaptive_inference.training.progress import Progress
from adaptive_inference.training.recipe import Recipe
from adaptive_inference.training.rows import Rows
from adaptive_inference.training.trainer import ExitTrainer

SCHEMA = Schema("benchmark", "classification", ("no", "yes"), "accuracy", 128)
METHODS = {
    "full": MethodTraining(),
    "early_exit": MethodTraining(),
    "sweet": MethodTraining(gradient="blockwise"),
    "sweet_block_local": MethodTraining(gradient="blockwise", backward="block_local"),
}

Step = Callable[[dict[str, Tensor]], None]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", default="packaged", help="as in params: backbones.NAME.weights")
    parser.add_argument("--exits", type=int, nargs="+", default=[2, 4, 6], help="exit layers")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--length", type=int, default=14, help="tokens per row (SST-2's training mean is 13)")
    parser.add_argument("--steps", type=int, default=30, help="timed steps of each variant")
    return parser.parse_args()


def batches(args: argparse.Namespace, vocabulary: int) -> Iterator[dict[str, Tensor]]:
    """Yield random batches with a little padding."""
    generator = torch.Generator().manual_seed(0)
    shape = (args.batch_size, args.length)
    while True:
        mask = torch.ones(shape, dtype=torch.long)
        mask[0, args.length // 2 :] = 0
        yield {
            "input_ids": torch.randint(5, vocabulary, shape, generator=generator),
            "attention_mask": mask,
            "labels": torch.randint(0, 2, shape[:1], generator=generator),
            "ids": torch.arange(args.batch_size),
        }


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


def trainer_step(model: nn.Module, method: MethodTraining, folder: Path) -> Step:
    """One step as `Trainer` takes it."""
    row = {"input_ids": [5], "attention_mask": [1], "label": 0, "id": 0, "length": 1}
    objective, progress = load_objective("joint", method), Progress(model.exits, lambda row, step: None)
    recipe = Recipe(SCHEMA, Training(learning_rate=1e-5), method, Runtime(device="cpu"), 0)
    trainer = ExitTrainer(model, objective, Rows([row], [row]), recipe, folder, progress)
    optimizer = trainer.create_optimizer()
    trainer.current_gradient_accumulation_steps = 1

    def step(batch: dict[str, Tensor]) -> None:
        trainer.training_step(model, batch)
        trainer._clip_grad_norm(model)
        optimizer.step()
        model.zero_grad()
        progress.end_step()

    return step


def main() -> None:
    args = parse_args()
    logging.disable(logging.WARNING)
    backbone = Backbone(weights=args.weights, exits=args.exits, read="mean")
    full = build_model(backbone, SCHEMA, 0, exits=full_exits(backbone))
    exits = build_model(backbone, SCHEMA, 0, num_layers=full.backbone.num_layers)
    times: dict[str, list[float]] = {"plain": []}
    with tempfile.TemporaryDirectory() as folder, fast_cpu(1):
        steps = {"plain": plain_step(copy.deepcopy(full))}
        for name, method in METHODS.items():
            model = copy.deepcopy(full if name == "full" else exits)
            steps[name], times[name] = trainer_step(model, method, Path(folder)), []
        source = batches(args, full.backbone.config.vocab_size)
        for number in range(args.steps + 3):
            batch = next(source)
            names = list(steps)
            turn = number % len(names)  # none of them always goes first
            for name in names[turn:] + names[:turn]:
                start = time.process_time()
                steps[name](batch)
                if number >= 3:
                    times[name].append(time.process_time() - start)
    report = {
        "exits": args.exits,
        "weights": args.weights,
        "batch_size": args.batch_size,
        "length": args.length,
    }
    for name, values in times.items():
        ratios = [value / base for value, base in zip(values, times["plain"], strict=True)]
        low, median, high = (statistics.quantiles(ratios, n=20)[k] for k in (0, 9, 18))
        milliseconds = 1000 * statistics.median(values)
        per_second = args.batch_size * 1000 / milliseconds
        report[name] = {
            "ratio": round(median, 3),
            "ratio_p5": round(low, 3),
            "ratio_p95": round(high, 3),
            "median_ms": round(milliseconds, 1),
        }
        print(
            f"{name:18} {milliseconds:7.1f} ms  {per_second:6.1f} rows/s  {median:.3f} x plain ({low:.3f}-{high:.3f})"
        )
    print(json.dumps(report))


if __name__ == "__main__":
    main()
