r"""Time a step of the network by PABEE and LeeBERT, 12 exits, against plain fine-tuning of the same encoder.

LeeBERT's weights are learned with forward passes alone: two per update, one update in each group of C = 4 steps under
CLO-v2 and one in each step under CLO-v1. So blocks of 4 steps are timed, interleaved in one process, in CPU time. The
bounds of the project: PABEE 1.15, LeeBERT (all exits teach) with CLO-v2 1.5, with CLO-v1 2.1. The last line is one JSON
object.

    python benchmarks/leebert_step.py
    python benchmarks/leebert_step.py --width 768 --length 64 --blocks 5
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from train_step import SCHEMA, Step, batches, plain_step
from transformers import BertConfig, BertModel

from adaptive_inference.backbones.bert import BertBackbone
from adaptive_inference.exits.build import add_exits
from adaptive_inference.objectives import load_objective
from adaptive_inference.settings.protocol import Runtime
from adaptive_inference.settings.training import MethodTraining, Training, WeightLearning
from adaptive_inference.training.arithmetic import fast_cpu
from adaptive_inference.training.progress import Progress
from adaptive_inference.training.recipe import Recipe
from adaptive_inference.training.rows import Rows
from adaptive_inference.training.trainer import ExitTrainer

LAYERS, BLOCK = 12, 4
METHODS = {
    "pabee": (MethodTraining(weights="depth"), 1.15),
    "leebert_uniform": (MethodTraining(objective="distill"), None),
    "leebert_clo_v2": (
        MethodTraining(
            objective="weight_learning", weight_learning=WeightLearning(scheme="clo_v2", group=BLOCK)
        ),
        1.5,
    ),
    "leebert_clo_v1": (
        MethodTraining(objective="weight_learning", weight_learning=WeightLearning(scheme="clo_v1")),
        2.1,
    ),
}


def method_step(model: nn.Module, method: MethodTraining, other: dict[str, Tensor], folder: Path) -> Step:
    """One step as `Trainer` takes it, and what the objective does after it; the other half is one batch."""
    row = {"input_ids": [5], "attention_mask": [1], "label": 0, "id": 0, "length": 1}
    objective = load_objective(method.objective, method)
    progress = Progress(model.exits, lambda row, step: None)
    recipe = Recipe(SCHEMA, Training(learning_rate=1e-5), method, Runtime(device="cpu"), 0)
    trainer = ExitTrainer(model, objective, Rows([row], [row]), recipe, folder, progress)
    optimizer = trainer.create_optimizer()
    trainer.current_gradient_accumulation_steps = 1
    trainer._others = lambda step: [other]

    def step(batch: dict[str, Tensor]) -> None:
        trainer.training_step(model, batch)
        trainer._clip_grad_norm(model)
        optimizer.step()
        trainer.after_step(1e-5)
        trainer.state.global_step += 1
        model.zero_grad()
        progress.end_step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--width", type=int, default=384, help="of the 12-layer random encoder")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--length", type=int, default=32, help="tokens per row")
    parser.add_argument(
        "--blocks", type=int, default=10, help="timed blocks of 4 steps of each variant, 2 or more"
    )
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=args.width,
        num_hidden_layers=LAYERS,
        num_attention_heads=args.width // 32,
        intermediate_size=4 * args.width,
    )
    backbone = BertBackbone(BertModel(config))
    one = add_exits(copy.deepcopy(backbone), (LAYERS,), SCHEMA, 0, "none")
    every = add_exits(backbone, range(1, LAYERS + 1), SCHEMA, 0, "none")
    source = batches(args, config.vocab_size)
    times: dict[str, list[float]] = {"plain": []}
    with tempfile.TemporaryDirectory() as folder, fast_cpu(1):
        steps = {"plain": plain_step(one)}
        for name, (method, _) in METHODS.items():
            steps[name] = method_step(copy.deepcopy(every), method, next(source), Path(folder))
            times[name] = []
        for number in range(args.blocks + 1):
            block = [next(source) for _ in range(BLOCK)]
            names = list(steps)
            turn = number % len(names)  # none of them always goes first
            for name in names[turn:] + names[:turn]:
                start = time.process_time()
                for batch in block:
                    steps[name](batch)
                if number:
                    times[name].append(time.process_time() - start)
    report = {key: getattr(args, key) for key in ("width", "batch_size", "length")} | {"layers": LAYERS}
    for name, values in times.items():
        ratios = [value / base for value, base in zip(values, times["plain"], strict=True)]
        low, median, high = (statistics.quantiles(ratios, n=20)[k] for k in (0, 9, 18))
        bound = METHODS[name][1] if name in METHODS else None
        report[name] = {
            "ratio": round(median, 3),
            "ratio_p5": round(low, 3),
            "ratio_p95": round(high, 3),
            "bound": bound,
        }
        print(f"{name:16} {median:.3f} x plain ({low:.3f}-{high:.3f}), bound {bound or '-'}")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
