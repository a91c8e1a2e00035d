"""The models as a user of the library meets them: those of `exits`, which also answer texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

from adaptive_inference.exits import cascade, load, model
from adaptive_inference.serving.hub import model_folder
from adaptive_inference.serving.prediction import Predictions
from adaptive_inference.serving.predictor import Predictor, Text


class _Answers(model.ExitModule):
    @classmethod
    def from_pretrained(cls, folder: str | Path, revision: str | None = None) -> Self:
        """Load what `save_pretrained` wrote, from a folder or by a hub's id; see `hub.model_folder`."""
        return super().from_pretrained(model_folder(folder, revision))

    def predict(
        self,
        texts: Sequence[Text],
        rule: str | None = None,
        threshold: float | None = None,
        batch_size: int = 1,
    ) -> Predictions:
        """Answer texts, each leaving at the exit where the rule fires; see `Predictor`."""
        return Predictor(self, rule, threshold).predict(texts, batch_size)


class MultiExitModel(_Answers, model.MultiExitModel):
    """An encoder with a head after each exit layer; see `exits.model.MultiExitModel`."""


class MultiModel(_Answers, cascade.MultiModel):
    """Models of growing depth, tried one after the other; see `exits.cascade.MultiModel`."""


def load_model(folder: str | Path, revision: str | None = None) -> MultiExitModel | MultiModel:
    """Load a model of either kind, from a folder or by a hub's id; see `exits.load` and `hub.model_folder`."""
    return load.load_model(model_folder(folder, revision), (MultiExitModel, MultiModel))
