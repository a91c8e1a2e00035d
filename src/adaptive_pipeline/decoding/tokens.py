"""What an evaluation of decoding tells of single tokens: their confidences, and their depths over the texts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from adaptive_pipeline.decoding.at_hand import Lines, MethodAtHand
from adaptive_pipeline.reporting.generation.depths import Written, write_depth_page
from adaptive_pipeline.runs.text_records import SHOWN_FIRST, ChosenThreshold, Confidences, Mixture

TEXTS = 12  #: texts on the page of depths
FEWEST = 10  #: tokens of a class that a density is fitted to


def shown_threshold(chosen: Sequence[ChosenThreshold]) -> float | None:
    """Return the threshold that stands for a method."""
    return min(chosen, key=lambda item: SHOWN_FIRST.index(item.goal)).threshold


def confidences_of(seen: Lines, shown: Lines, estimated: bool) -> Confidences:
    """Count the confidences of the tokens that all blocks saw.

    Parameters
    ----------
    seen
        What `seen_tokens` answered.
    shown
        What the method answered, at the threshold that stands for it.
    estimated
        Whether that is estimated.
    """
    thresholds = [line["threshold"] for line in sorted(shown, key=lambda line: line["request"])]
    pairs = [
        (confidence, agreed)
        for line in seen
        for confidence, agreed in zip(line["confidence"], line["agreed"], strict=True)
        if confidence is not None and agreed is not None
    ]
    return Confidences.counted(
        pairs,
        threshold=thresholds[-1],
        mixture=_mixture(pairs),
        trajectory=thresholds if estimated else [],
    )


def draw_texts(at_hand: MethodAtHand, lines: Lines, folder: Path) -> None:
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
