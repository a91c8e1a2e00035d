"""Which tokens of a row a model with token reduction keeps, layer by layer, and what its predictors say of them.

Shape suffixes: L layers, N tokens of the row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from adaptive_inference.errors import UserError
from adaptive_inference.exits.model import MultiExitModel
from adaptive_inference.exits.outputs import batches_of_like_length
from adaptive_inference.tasks.encode import Feature


@dataclass(frozen=True)
class Survival:
    """One row's way through the layers.

    Attributes
    ----------
    scores_LN
        Contributions on entry to each layer, float32; those that are there sum to 1, what went before has 0.
    kept_LN
        Tokens that each layer runs on, bool; each layer's are among those of the layer before.
    """

    scores_LN: np.ndarray
    kept_LN: np.ndarray

    @property
    def ranked_LN(self) -> np.ndarray:
        """The contributions, with -inf for what went before: it ranks below all that is there."""
        entered_LN = np.vstack([np.ones_like(self.kept_LN[:1]), self.kept_LN[:-1]])
        return np.where(entered_LN, self.scores_LN, -np.inf)

    @property
    def mean_N(self) -> np.ndarray:
        """The mean of the layers' contributions: one score for all layers, which favours what stays long."""
        return self.scores_LN.mean(0)


@torch.inference_mode()
def survivals(model: MultiExitModel, features: Sequence[Feature], batch_size: int) -> list[Survival]:
    """Run rows to the last exit with their tokens really removed, in eval mode, and return what became of each row.

    Parameters
    ----------
    model
        With a reduction.
    features
        Rows of `tasks.encode.encode`.
    batch_size
        Rows per forward; a row of a batch is that row alone.

    Raises
    ------
    UserError
        The model removes no tokens.
    """
    if model.reduction is None:
        raise UserError(
            "this model removes no tokens, so that there is no way of them to be told; give one that was trained with "
            "token reduction (AdapLeR)"
        )
    model.eval()
    found: dict[int, Survival] = {}
    for places, batch in batches_of_like_length(model, features, batch_size):
        removal = model.reduction.recorded()
        model.start(batch, removal=removal).advance(len(model.exits) - 1)
        scores, kept = (torch.stack(item, 1).cpu().numpy() for item in (removal.scores, removal.kept))
        for row, place in enumerate(places):
            length = features[place]["length"]
            found[int(place)] = Survival(scores[row, :, :length], kept[row, :, :length])
    return [found[place] for place in range(len(features))]
