"""A task of words that a tiny random encoder can learn, and what training it takes."""

import random
from pathlib import Path

import torch

from adaptive_inference.exits.build import build_model
from adaptive_inference.objectives import load_objective
from adaptive_inference.settings.inputs import Backbone
from adaptive_inference.settings.protocol import Runtime
from adaptive_inference.settings.training import MethodTraining, Training
from adaptive_inference.tasks.encode import collate, encode
from adaptive_inference.tasks.schema import Example, Schema, Split
from adaptive_inference.training.fit import fit
from adaptive_inference.training.progress import Progress
from adaptive_inference.training.recipe import Recipe
from adaptive_inference.training.rows import Rows
from adaptive_inference.training.trainer import ExitTrainer

torch.set_num_threads(1)  # more are slower on tensors this small, and compete with other workers

SCHEMA = Schema("words", "classification", ("bad", "good"), "accuracy", 32)
SCORES = Schema("scores", "regression", None, "pearson", 32)
WORDS = ("the", "a", "film", "plot", "scene", "of", "with", "and")
EE = MethodTraining()
SWEET = MethodTraining(gradient="blockwise")
SWEET_LOCAL = MethodTraining(gradient="blockwise", backward="block_local")
LTE = MethodTraining(objective="learning_to_exit")


def make_rows(count, seed=0, kind="classification"):
    """Short texts of random words; one of them gives the label."""
    draw, rows = random.Random(seed), []
    for index in range(count):
        label = draw.randrange(2)
        words = draw.choices(WORDS, k=draw.randint(1, 7))
        words.insert(draw.randint(0, len(words)), "good" if label else "bad")
        rows.append(
            Example(1000 * seed + index, (" ".join(words),), label if kind == "classification" else label / 2)
        )
    return Split(rows)


def make_model(
    family="bert", exits=(1, 2, 4), pooler="per_exit", certainty=False, schema=SCHEMA, dropout=0.0
):
    model = build_model(
        Backbone(weights=f"random:{family}", exits=list(exits), pooler=pooler), schema, 0, certainty
    )
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = dropout
    model.backbone.model.eval()  # as an encoder comes that was loaded and not made
    return model


def make_features(model, count=32, seed=0, kind="classification"):
    return encode(make_rows(count, seed, kind), model.tokenizer, 32)


def make_batch(model, count=6, seed=0, kind="classification"):
    return collate(make_features(model, count, seed, kind), model.tokenizer.pad_token_id)


def make_split_rows(model, count=32, kind="classification", development=12):
    return Rows(make_features(model, count, 0, kind), make_features(model, development, 1, kind))


def recipe_of(method=EE, schema=SCHEMA, seed=0, runtime=None, **training):
    return Recipe(schema, Training(**training), method, runtime or Runtime(device="cpu"), seed)


def objective_of(method, full=None):
    """The method's objective; ``full`` is the model of all layers, where it needs one."""
    return load_objective(method.objective, method, None if full is None else lambda kind: full)


def run_fit(
    model,
    method,
    scratch,
    rows=32,
    schema=SCHEMA,
    seed=0,
    on_log=lambda row, step: None,
    full=None,
    **training,
):
    settings = {"epochs": 1, "batch_size": 8, "learning_rate": 1e-3} | training
    return fit(
        model,
        objective_of(method, full),
        make_split_rows(model, rows, schema.kind),
        recipe_of(method, schema, seed, **settings),
        Path(scratch),
        on_log,
    )


def ready_trainer(model, method, scratch, schema=SCHEMA, full=None, **training):
    """A trainer about to take its first step."""
    trainer = ExitTrainer(
        model,
        objective_of(method, full),
        make_split_rows(model, 16, schema.kind, development=8),
        recipe_of(method, schema, **({"batch_size": 8} | training)),
        Path(scratch),
        Progress(model.exits, lambda row, step: None),
    )
    trainer.create_optimizer()
    trainer.current_gradient_accumulation_steps = 1
    return trainer


def weights_of(module):
    return {name: item.detach().clone() for name, item in module.state_dict().items()}


def same_bits(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


def kill_at(monkeypatch, batch_number):
    """Let the batches before this one pass, then die (before the step's update)."""
    original, seen = ExitTrainer.training_step, []

    def dying(self, *args, **kwargs):
        seen.append(1)
        if len(seen) == batch_number:
            raise Killed
        return original(self, *args, **kwargs)

    monkeypatch.setattr(ExitTrainer, "training_step", dying)
