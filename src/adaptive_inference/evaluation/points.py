"""One row of the results: a method at one operating point, measured on the reported split from cached outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from adaptive_inference.calibration.curves import Curve, Yardstick, sweep
from adaptive_inference.evaluation.candidate import Candidate
from adaptive_inference.evaluation.statistics import bootstrap
from adaptive_inference.exit_rules import load_rule
from adaptive_inference.exit_rules.base import TOLERANCE, ExitRule, near_tie
from adaptive_inference.exits.outputs import ExitOutputs
from adaptive_inference.tasks.quality import quality

#: What an operating point without a threshold has no value of.
MEASURED = (
    "quality",
    "quality_low",
    "quality_high",
    "layers_speedup",
    "flops_speedup",
    "exit_counts",
    "tiers",
)


def measure_point(
    point: Mapping[str, Any],
    candidate: Candidate,
    full_parameters: int,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """Return the row of an operating point.

    Parameters
    ----------
    point
        As ``calibration.json`` holds it. One that does not qualify (no threshold) gives a row without figures.
    candidate
        Who answers; see `Candidate.answering`.
    full_parameters
        Of the full model; ``added_parameters`` is what the candidate has more (negative: fewer).
    resamples, seed
        Of the quality's bootstrap interval over rows.
    """
    rule = load_rule(point["rule"])
    outputs, yardstick = candidate.outputs, candidate.yardstick(rule)
    row = {
        "method": candidate.method,
        "rule": rule.name,
        "operating_point": point["name"],
        "threshold": point["threshold"],
        "metric": yardstick.metric,
        "added_parameters": candidate.parameters - full_parameters,
        "calibration_quality": point["quality"],
        "calibration_layers_speedup": point["layers_speedup"],
        "qualifies": point["qualifies"],
        "attainable": rule.attainable,
    }
    if point["threshold"] is None:
        return row | dict.fromkeys(MEASURED)
    curve = sweep_point(point, candidate)
    answers = curve.predictions[0]
    low, high = bootstrap(
        lambda rows: quality(yardstick.metric, answers[rows], outputs.labels[rows], yardstick.num_classes),
        len(answers),
        resamples,
        seed,
    )
    exits = np.asarray(outputs.exits)[curve.exits[0]]
    return row | {
        "quality": float(curve.quality[0]),
        "quality_low": low,
        "quality_high": high,
        "layers_speedup": float(curve.layers_speedup[0]),
        "flops_speedup": None if curve.flops_speedup is None else float(curve.flops_speedup[0]),
        "exit_counts": _counts(exits, outputs),
        "tiers": _by_tier(outputs, curve, exits, yardstick),
    }


def sweep_point(point: Mapping[str, Any], candidate: Candidate) -> Curve:
    """Return the curve of an operating point's one threshold on the candidate's rows."""
    rule = load_rule(point["rule"])
    return sweep(rule, candidate.outputs, candidate.yardstick(rule), np.array([point["threshold"]]))


def _counts(exits: np.ndarray, outputs: ExitOutputs) -> dict[str, int]:
    """Return how many rows left at each exit layer."""
    return {str(layer): int((exits == layer).sum()) for layer in outputs.exits}


def _by_tier(
    outputs: ExitOutputs, curve: Curve, exits: np.ndarray, yardstick: Yardstick
) -> dict[str, Any] | None:
    """Return quality, mean exit layer and exit counts of each difficulty tier."""
    if outputs.tiers is None:
        return None
    table = {}
    for tier in np.unique(outputs.tiers):
        rows = outputs.tiers == tier
        answers, labels = curve.predictions[0, rows], outputs.labels[rows]
        table[str(int(tier))] = {
            "quality": float(quality(yardstick.metric, answers, labels, yardstick.num_classes)),
            "mean_exit_layer": float(exits[rows].mean()),
            "count": int(rows.sum()),
            "exit_counts": _counts(exits[rows], outputs),
        }
    return table


def check_agreement(
    rule: ExitRule, threshold: float | None, outputs: ExitOutputs, exits: np.ndarray, predictions: np.ndarray
) -> dict[str, int]:
    """Compare where an engine let rows leave, and its answers, with the offline sweep.

    Rounding may differ between a padded batch and a row alone. Logits agree within 1e-5 of their largest, so a row may
    leave elsewhere only where its score lies that close to the threshold (for a rule that compares classes: where its
    two largest logits lie that close at an exit on its way), and answer otherwise only where its two largest logits do;
    such rows are counted.

    The score of a regression task must be that of the exit at which the row left, up to the same rounding: no row is
    excused from that.

    Parameters
    ----------
    rule, threshold
        What the engine ran.
    outputs
        The same rows, calibrated.
    exits, predictions
        The engine's exit indices, and its classes or scores, ``(N,)``.

    Returns
    -------
    dict
        ``rows``, ``near_threshold`` (rows that may differ) and ``differing`` (rows that did).

    Raises
    ------
    RuntimeError
        A row differs that may not: engine and sweep are not the same rule. Names the rows.
    """
    given = np.array([np.inf if threshold is None else threshold])
    offline = rule.exit_indices(outputs.logits, outputs.certainty, outputs.labels, given)[0]
    logits = outputs.logits[np.arange(len(offline)), offline]
    largest_E = np.abs(outputs.logits).max(
        axis=(0, 2)
    )  # a small temperature enlarges its own exit's rounding only
    tolerance_E = TOLERANCE * np.maximum(1.0, largest_E)
    near = rule.near_threshold(outputs.logits, outputs.certainty, given[0], tolerance_E)
    tolerance = tolerance_E[offline]
    differs = offline != exits
    if logits.shape[-1] > 1:
        near = near | near_tie(logits, tolerance)
        differs = differs | (logits.argmax(-1) != predictions)
    wrong = differs & ~near
    if logits.shape[-1] == 1:
        distance = np.abs(outputs.logits[np.arange(len(exits)), exits, 0] - predictions)
        wrong |= ~(distance <= tolerance_E[exits])
    if wrong.any():
        raise RuntimeError(
            f"rule {rule.name} at {threshold}: the engine left elsewhere or answered otherwise than the offline sweep "
            f"for rows {outputs.ids[wrong].tolist()[:10]}; this is a defect of the engine or of the rule"
        )
    return {"rows": len(offline), "near_threshold": int(near.sum()), "differing": int(differs.sum())}
