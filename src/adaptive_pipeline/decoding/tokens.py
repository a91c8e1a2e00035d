"""What an evaluation of decoding tells of single tokens: their confidences, and their depths over the texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptive_pipeline.decoding.at_hand import MethodAtHand
from adaptive_pipeline.reporting.generation.depths import Written, write_depth_page
from adaptive_pipeline.runs.text_records import SHOWN_FIRST, ChosenThreshold, Confidences, Mixture

if TYPE_CHECKING:
    from adaptive_inference.generation.answers import Answering

TEXTS = 12  #: texts on the page of depths
FEWEST = 10  #: tokens of a class that a density is fitted to


def observed_way(at_hand: MethodAtHand, chosen: Sequence[ChosenThreshold]) -> Answering:
    """Return the method at the threshold that stands for it; where tokens wait, each is compared with that of all blocks."""
    from adaptive_inference.decoding.policy import SHALLOW_DEEP

    threshold = min(chosen, key=lambda item: SHOWN_FIRST.index(item.goal)).threshold
    return at_hand.way(threshold, observe=at_hand.method.policy in SHALLOW_DEEP)


def confidences_of(lines: Sequence[Mapping[str, Any]], estimated: bool) -> Confidences | None:
    """Count the confidences of tokens that all blocks saw too; None where they saw none.

    Parameters
    ----------
    lines
        Of one way.
    estimated
        Whether its threshold is.
    """
    lines = sorted(lines, key=lambda line: line["request"])
    pairs = [
        (confidence, agreed)
        for line in lines
        for confidence, agreed in zip(line["confidence"], line["agreed"], strict=True)
        if confidence is not None and agreed is not None
    ]
    if not pairs:
        return None
    return Confidences.counted(
        pairs,
        threshold=lines[-1]["threshold"],
        mixture=_mixture(pairs),
        trajectory=[line["threshold"] for line in lines] if estimated else [],
    )


def draw_texts(at_hand: MethodAtHand, lines: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Write the page of the first texts with the depth of each token."""
    cell = f"{at_hand.schema.task}, {at_hand.name}"
    texts = []
    for line in sorted(lines, key=lambda line: line["request"])[:TEXTS]:
        example = at_hand.examples[line["request"]]
        given = (tuple(line[name]) for name in ("depth", "confidence", "agreed"))
        pieces = _pieces(at_hand, line["tokens"])
        texts.append(Written(example.id, example.source, example.target, pieces, *given))
    write_depth_page(cell, at_hand.trained_for.blocks, texts, folder / "depths.html")


def _pieces(at_hand: MethodAtHand, tokens: Sequence[int]) -> tuple[str, ...]:
    """Return what each token adds to the text, special tokens as they are spelled."""
    whole = [at_hand.tokenizer.decode(tokens[:count]) for count in range(len(tokens) + 1)]
    return tuple(longer.removeprefix(shorter) for shorter, longer in pairwise(whole))


def _mixture(pairs: Sequence[tuple[float, bool]]) -> Mixture | None:
    """Fit a Beta density to each class; None where a class has too few tokens, or all of one confidence."""
    import numpy as np

    from adaptive_inference.decoding.adaptive import EDGE, beta_moments

    confidence_N = np.clip([confidence for confidence, _ in pairs], EDGE, 1.0 - EDGE)
    agreed_N = np.array([agreed for _, agreed in pairs], dtype=np.float64)
    weights = (1.0 - agreed_N, agreed_N)
    fitted = [beta_moments(confidence_N, weight_N) for weight_N in weights if weight_N.sum() >= FEWEST]
    if len(fitted) < len(weights) or not np.isfinite(fitted).all() or np.min(fitted) <= 0:
        return None
    return Mixture(disagree=fitted[0], agree=fitted[1])
