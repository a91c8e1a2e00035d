"""Tiny random models as graphs, for tests."""

import dataclasses
from pathlib import Path

import torch

from adaptive_inference.engine.onnx_runner import OnnxRunner
from adaptive_inference.exit_rules import load_rule
from adaptive_inference.exits import build_model
from adaptive_inference.exits.deployment import Deployment, Quantisation, Tokens
from adaptive_inference.serving.onnx_export import cut_layers, write_segments
from adaptive_inference.settings.inputs import Backbone
from adaptive_inference.tasks.schema import Schema

SCHEMA = Schema("tiny", "classification", ("a", "b", "c"), "accuracy", 512)
EXITS = (1, 2, 3, 4)
INT8 = Quantisation(reduce_range=False)


def build(family="bert", read="first", inner="as_backbone", certainty=False, exits=EXITS, schema=SCHEMA):
    """A model whose exits differ from row to row: untrained heads are all but undecided."""
    section = Backbone(weights=f"random:{family}", exits=list(exits), read=read)
    allowed = dataclasses.replace(schema, max_length=32)
    model = build_model(section, allowed, 0, certainty=certainty, inner_head=inner).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for head in model.heads:
            head.classifier.weight.normal_(0, 0.5, generator=generator)
        for head in model.certainty_heads or []:
            head.weight.normal_(0, 0.2, generator=generator)
    return model


def deployed(model, folder: Path, quantisation=None, rule="confidence", threshold=0.5, types=None):
    """Write a model's graphs, cut for a rule, and return their runner."""
    cuts, exits = cut_layers(model.exits, load_rule(rule).decides(threshold, len(model.exits)))
    names = ["input_ids", "attention_mask", "token_type_ids"]
    types = "token_type_ids" in model.tokenizer.model_input_names if types is None else types
    deployment = Deployment(
        deployment="onnx_fp32" if quantisation is None else "onnx_int8",
        weights="0" * 64,
        rule=rule,
        threshold=threshold,
        cuts=cuts,
        exits=exits,
        certainty=model.has_certainty,
        tokens=Tokens(names=names if types else names[:2], pad=0, cut="right"),
        quantisation=quantisation,
    )
    write_segments(model, deployment, folder)
    return OnnxRunner(folder, deployment, 1)
