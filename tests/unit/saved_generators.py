"""Tiny random decoders with a tokenizer, as a training leaves them, and a method's run around one."""

from pathlib import Path

import torch

from adaptive_inference.decoders._tiny import tiny_decoder
from adaptive_inference.files import write_json
from adaptive_inference.generation.model_dir import TrainedFor, save_decoder
from adaptive_inference.generation.tokenizer import train_tokenizer
from adaptive_inference.tasks.text_schema import TextExample, TextSchema

BLOCKS, EXIT = 4, 2
WORDS = [f"w{number}" for number in range(50)]
SCHEMA = TextSchema("copying", "exact_match", 12, 8)
METHOD = {"training": "shallow_deep", "policy": "keep"}
FIGURES = {"rows": 20, "quality": 0.9375, "agreement": 0.984, "blocks": 2.75, "flops_speedup": 1.375}


def save_tiny(folder: Path, family="t5", schema=SCHEMA, seed=0):
    """Write a training's model folder."""
    torch.set_num_threads(1)
    tokenizer = train_tokenizer([TextExample(0, " ".join(WORDS), "w0")], 61, words=True)
    trained_for = TrainedFor(family, BLOCKS, "shallowdeep_kd_dyna", EXIT, schema.to_dict())
    save_decoder(folder, tiny_decoder(family, seed), tokenizer, trained_for)
    return folder


def save_run(
    place: Path, family="t5", schema=SCHEMA, method=METHOD, chosen=(0.05, True), seed=0, source=None
):
    """Write what the stages of a method leave: texts, training, assignment, calibration and evaluation."""
    training = place / "trainings/shallow_deep/train"
    save_tiny(training / "model", family, schema, seed)
    task = source or {"source": "generated", "metric": schema.metric}
    model = {"weights": "config", "architecture": family, "tokenizer": "train", "vocabulary": 61}
    record(place / "data", {"generation.tasks.copying": task, "generation.models.tiny": model})
    record(training, {"generation.models.tiny": model})
    run = place / "free"
    write_json(run / "assigned/model.json", {"training": "shallow_deep", "digest": "0"})
    threshold, reached = chosen
    choices = [
        {"goal": "certified", "value": 0.1, "threshold": 0.5, "reached": True},
        {"goal": "min_quality", "value": 0.95, "threshold": threshold, "reached": reached},
    ]
    if threshold is None:
        choices = [{"goal": "none", "value": None, "threshold": None, "reached": True}]
    shallow = method["policy"] in ("static", "keep", "roll_back", "verify")
    body = {"exit_layer": EXIT if shallow else None}
    record(run / "calibration", {"generation.methods.free": method}, chosen=choices, **body)
    rows = [{"choice": item, "decoded": FIGURES, "full": FIGURES | {"quality": 0.96875}} for item in choices]
    record(run / "evaluation", {"generation.methods.free": method}, chosen=rows, **body)
    return run


def record(folder: Path, params, **body):
    write_json(folder / "metrics.json", {"version": 2, "params": params} | body)
