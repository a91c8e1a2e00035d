"""Tiny models that remove tokens: predictors far from uniform, and heads that decide."""

import functools

import torch

from adaptive_inference.exits import build_model
from adaptive_inference.settings.inputs import Backbone
from adaptive_inference.tasks.schema import Schema

SCHEMA = Schema("tiny", "classification", ("a", "b", "c"), "accuracy", 32)


@functools.cache
def model_of(family="bert", exits=(1, 2, 4), reduces=True):
    section = Backbone(weights=f"random:{family}", exits=list(exits))
    model = build_model(section, SCHEMA, 0, reduces=reduces).eval()
    with torch.no_grad():
        generator = torch.Generator().manual_seed(1)
        for head in model.heads:  # untrained heads are all but undecided
            head.classifier.weight.normal_(0, 0.5, generator=generator)
        for predictor in model.reduction.predictors if reduces else []:  # scores far from uniform
            predictor.outer.weight.mul_(200)
    return model
