"""What a predictor answers.

Shapes: N texts, C classes, L layers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass
class Prediction:
    """The answer to one text.

    Attributes
    ----------
    label, probabilities
        Class and its calibrated probabilities (C,); a raw score and None for a regression task.
    exit_layer
        Layers before the exit that answered.
    layers_run
        Layers run in all: those of a cascade's earlier members are in.
    cut
        Whether the text was longer than the model reads, so that its end was left out.
    flops
        Of the matrix products, as tables count them, see `cost.flops`.
    survivors
        Tokens that each layer ran on, from the first to the exit; None where the model removes none.
    """

    label: str | float
    probabilities: np.ndarray | None
    exit_layer: int
    layers_run: int
    cut: bool
    flops: int
    survivors: list[int] | None = None


@dataclass
class Predictions:
    """What the model answers.

    Attributes
    ----------
    labels
        Names of the most probable classes; scores (floats) of a regression task, as the head gives them: not clipped
        to the range of the training scores.
    probabilities
        (N, C), calibrated; None for a regression task.
    exit_layers
        (N,), layers run before the exit that answered.
    cut
        (N,), whether a text was longer than the model reads, so that its end was left out.
    flops
        (N,) int64, of the matrix products, as tables count them, see `cost.flops`.
    survivors
        For each text the tokens that each layer ran on, from the first to its exit; None where the model removes none.
    """

    labels: list[str] | list[float]
    probabilities: np.ndarray | None
    exit_layers: np.ndarray
    cut: np.ndarray
    flops: np.ndarray
    survivors: list[list[int]] | None = None
