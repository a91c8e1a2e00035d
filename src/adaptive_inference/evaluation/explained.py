"""What is said of scores of tokens: figures of a kind and a layer, and what a picture of an example shows; loads no torch.

Shape suffix: N tokens of a row.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

#: Kind of what the contribution predictors say; the others are `attribution.extract.KINDS`.
CONTRIBUTIONS = "contributions"
#: Kinds that kept tokens are compared with: integrated gradients are of fewer rows.
BASELINES = ("saliency", "attention", "attention_rollout")
#: Stands for all layers in place of one; chosen before any result was seen (docs/attribution.md).
ALL_LAYERS = "all"


@dataclass(frozen=True)
class Measured:
    """One kind of scores, of one layer or without; None: not measured, or of no meaning.

    Attributes
    ----------
    kind, layer
        Kind of scores; ``"1"`` to ``"L"``, `ALL_LAYERS`, or empty for a kind that has no layers.
    rows, rationales
        Rows that were explained, and how many of them have a rationale token: those are compared with it.
    average_precision
        Of the scores.
    precision, recall, token_f1, false_positive_rate, iou_f1
        Of the tokens that the layer keeps, or of as many by another kind: means over rows (`rationale_scores`); of
        `ALL_LAYERS`, means over the layers.
    comprehensiveness, sufficiency
        Of the scores, for the model that they explain.
    fpr_difference, fpr_low, fpr_high
        False-positive rate of the tokens that the layer keeps less that of this kind's, and its 95 % interval over rows:
        below 0, fewer false tokens are kept.
    """

    kind: str
    layer: str = ""
    rows: int = 0
    rationales: int = 0
    average_precision: float | None = None
    precision: float | None = None
    recall: float | None = None
    token_f1: float | None = None
    false_positive_rate: float | None = None
    iou_f1: float | None = None
    comprehensiveness: float | None = None
    sufficiency: float | None = None
    fpr_difference: float | None = None
    fpr_low: float | None = None
    fpr_high: float | None = None

    @property
    def name(self) -> str:
        """What names it among others: ``saliency``, ``contributions_layer3``, ``attention_all_layers``."""
        layer = {"": "", ALL_LAYERS: "_all_layers"}.get(self.layer, f"_layer{self.layer}")
        return f"{self.kind}{layer}"


#: The figures of a `Measured`.
MEASURES = tuple(Measured.__dataclass_fields__)[4:]


@dataclass(frozen=True)
class Line:
    """One line of a picture: scores of the tokens, ``(N,)`` float, and which of them are there, ``(N,)`` bool."""

    name: str
    scores_N: np.ndarray
    kept_N: np.ndarray


@dataclass(frozen=True)
class Picture:
    """What a picture of one example shows.

    Attributes
    ----------
    id
        Of the example.
    tokens
        N tokens as readers see them.
    words_N
        ``(N,)`` bool: no special tokens.
    rationale_N
        ``(N,)`` bool; None: not known.
    label, prediction
        In words.
    lines
        From the top.
    """

    id: int
    tokens: tuple[str, ...]
    words_N: np.ndarray
    rationale_N: np.ndarray | None
    label: str
    prediction: str
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Explained:
    """All that was found of one model."""

    measured: list[Measured]
    pictures: list[Picture]

    @property
    def metrics(self) -> dict[str, float | None]:
        """The figures by flat names, those not measured left out."""
        return {
            f"{item.name}_{figure}": value
            for item in self.measured
            for figure in MEASURES
            if (value := asdict(item)[figure]) is not None
        }
