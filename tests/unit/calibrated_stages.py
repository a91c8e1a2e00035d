"""Runs `collect_answers`, `calibrate_thresholds` and `evaluate_batch1` on small untrained models, in this process."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

import calibrate_thresholds
import collect_answers
import evaluate_batch1
from adaptive_inference.calibration.operating_point import OperatingPoint
from adaptive_inference.exits import MultiModel, build_model
from adaptive_inference.settings.inputs import Backbone
from adaptive_inference.tasks.schema import Example, Schema, save_split
from adaptive_pipeline.grid import Cell
from adaptive_pipeline.params import parse_params
from adaptive_pipeline.stage import Stage

BACKBONE = {"weights": "random:bert", "exits": [1, 2, 4]}
WORDS = ["good", "bad", "film", "plot", "not", "very", "the", "a", "movie", "dull", "great"]


EXITS = {"static_2": [2], "pkd": [2], "adapler": [4]}  # of methods that make a model of one exit


def params_of(method: str, rules: list[str], kind: str, **sections: dict):
    task = {
        "source": "local",
        "train": "x.csv",
        "kind": kind,
        "metric": "accuracy" if kind == "classification" else "pearson",
    }
    methods = {"full": {"train": {}, "rules": ["fixed"]}}
    if method != "full":
        methods[method] = {"train": {"exits": EXITS[method]} if method in EXITS else {}, "rules": rules}
    body = {
        "tasks": {"toy": task},
        "backbones": {"tiny": BACKBONE},
        "seeds": [0, 1],
        "trained_by": {
            "train_sweet": [m for m in methods if m != "full"],
            "train_leebert": [],
            "train_multi_model": [],
        },
        "methods": methods,
        "calibration": {"thresholds": 8},
        "goal": {"max_loss": 5.0, "min_speedup": [1.5]},
        "evaluation": {"timed_seeds": [0], "timed_examples": 4, "repeats": 1, "warmup": 1, "bootstrap": 20},
    }
    for name, changes in sections.items():
        body[name] = body[name] | changes
    return parse_params(body)


def make_folder(root: Path) -> Path:
    """Write splits and models of a two-class and of a regression task."""
    generator, others = np.random.default_rng(0), np.random.default_rng(1)
    for kind, labels in (("classification", ("no", "yes")), ("regression", None)):
        schema = Schema("toy", kind, labels, "accuracy" if labels else "pearson", 32)
        home = root / kind
        schema.save(home)
        for name, rows in (("calibration", 30), ("evaluation", 24)):
            examples = []
            for i in range(rows):
                text = " ".join(generator.choice(WORDS, generator.integers(2, 12)))
                label = int(generator.integers(0, 2)) if labels else float(generator.normal())
                examples.append(Example(i, (text,), label, tier=1 + i % 5))
            save_split(home, name, examples)
        for name in ("train", "development"):  # of what needs no layers
            texts = [" ".join(others.choice(WORDS, others.integers(2, 12))) for _ in range(20)]
            values = others.integers(0, 2, 20).tolist() if labels else others.normal(size=20).tolist()
            save_split(home, name, [Example(i, (text,), values[i]) for i, text in enumerate(texts)])
        made = (
            ("full", [4], False),
            ("sweet", [1, 2, 4], True),
            ("static_2", [2], False),
            ("pkd", [2], False),
            ("adapler", [4], False),
            ("adapler_early_exit", [1, 2, 4], False),
        )
        for name, exits, certainty in made:
            reduces = name.startswith("adapler")
            model = build_model(
                Backbone(**BACKBONE), schema, 0, certainty=certainty, exits=exits, reduces=reduces
            )
            for head in model.heads:
                torch.nn.init.normal_(head.classifier.weight, generator=torch.Generator().manual_seed(1))
            for predictor in model.reduction.predictors if reduces else ():  # scores far from uniform
                predictor.outer.weight.data *= 200
            model.save_pretrained(home / name)
        members = [build_model(Backbone(**BACKBONE), schema, 0, exits=[k]) for k in (1, 2, 4)]
        MultiModel(members).save_pretrained(home / "multi_model")
    return root


def run(
    folder,
    tmp_path,
    monkeypatch,
    method="sweet",
    rules=("confidence",),
    kind="classification",
    seed=0,
    **sections,
):
    """Run the three stages; return calibration.json, the evaluation's record, its curves and its timings."""
    monkeypatch.setenv("ADAPTIVE_INFERENCE_TRACKING", "off")
    params, home = params_of(method, list(rules), kind, **sections), folder / kind
    inputs = {"data": home, "full": home / "full", "model": home / method}

    def stage(module, names, method=method, place="", **others):
        out = tmp_path / (place or module.__name__)
        out.mkdir(parents=True)
        cell, given = Cell("toy", "tiny", seed, method), {name: inputs[name] for name in names} | others
        files = {"candidates": tmp_path / "candidates" / f"{method}.safetensors"}
        stage = Stage(module.__name__, cell, params, given, out, out, {}, module.__file__, files=files)
        module.main(stage)
        stage.record.save(out)
        return stage

    models = ("data", "full", "model")
    inputs["answers"] = stage(collect_answers, models).out
    inputs["full_answers"] = stage(collect_answers, models, "full", "full_answers", model=inputs["full"]).out
    stage(calibrate_thresholds, ("answers", "full_answers"))
    with_full = {"answers": inputs["full_answers"]}
    if method != "full":
        stage(calibrate_thresholds, ("full_answers",), "full", "full_calibration", **with_full)
    inputs["calibration"] = tmp_path / "calibrate_thresholds" / "calibration.json"
    evaluated = stage(evaluate_batch1, (*models, "answers", "calibration"))
    calibration = json.loads(inputs["calibration"].read_text())
    curves = json.loads((tmp_path / "evaluate_batch1" / "curves.json").read_text())
    return calibration, evaluated.record, curves, evaluated.timings


def points_of(body):
    """The operating points of calibration.json."""
    return [OperatingPoint.from_json(item) for item in body["operating_points"]]


def names(points):
    return [(point.setting.rule, point.goal.name) for point in points]
