"""What a deployment gives on the reported split, and how fast it is there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from adaptive_inference.calibration.curves import Curve, sweep
from adaptive_inference.calibration.operating_point import Setting
from adaptive_inference.evaluation.latency import Timing, summarise
from adaptive_inference.evaluation.statistics import loss_in_points
from adaptive_inference.exit_rules import load_rule
from adaptive_inference.settings.protocol import Evaluation
from adaptive_inference.tasks.quality import predict, quality
from adaptive_pipeline.deployments.at_hand import Deployed

#: Against what a deployment is timed -> method and deployment of the baseline's row; None: that of the row itself.
BASELINES: Mapping[str, tuple[str, str | None]] = {
    "wallclock": ("full", "torch"),
    "same_deployment": ("full", None),
    "static_int8": ("full", "onnx_int8"),
}
_OWN = ("median_ms", "p5_ms", "p95_ms", "examples", "repeats")


def curve_of(item: Deployed, setting: Setting, split: str) -> Curve:
    """Return the curve of one threshold on a split."""
    threshold = np.array([setting.threshold])
    return sweep(load_rule(setting.rule), item.outputs(split), item.answers[split].yardstick, threshold)


def measured(
    item: Deployed, curve: Curve, full: Deployed, protocol: Evaluation, seed: int
) -> dict[str, float | None]:
    """Return quality, loss with its interval, and what is saved, of a curve of one threshold on the reported split."""
    seen = curve.seen(0)
    found = lost(curve.predictions[0], full, protocol, seed)
    return found | {"layers_speedup": seen.layers_speedup, "flops_speedup": seen.flops_speedup}


def lost(
    predictions_N: np.ndarray, full: Deployed, protocol: Evaluation, seed: int
) -> dict[str, float | None]:
    """Return the quality of answers to the reported split, and the points that they lose, with their interval."""
    reference, yardstick = full.answers["evaluation"].outputs, full.answers["evaluation"].yardstick
    whole = predict(reference.logits[:, -1], yardstick.kind)
    given = predictions_N, reference.labels, yardstick.num_classes
    loss, low, high = loss_in_points(yardstick.metric, whole, *given, protocol.bootstrap, seed)
    return {"quality": quality(yardstick.metric, *given), "loss": loss, "low": low, "high": high}


def clock_rows(
    keys: Sequence[tuple[str, str]], spent_KRN: np.ndarray, protocol: Evaluation, seed: int
) -> list[dict[str, Any]]:
    """Return what the clock says of each row: milliseconds, and ratios to each of `BASELINES` that was timed.

    Parameters
    ----------
    keys
        Method and deployment of each row; the first row of a pair is its baseline.
    spent_KRN
        Nanoseconds of each row's engine, in each round, on each example.
    protocol
        Resamples.
    seed
        Of the resamples.
    """
    found = []
    for (_, deployment), own in zip(keys, spent_KRN, strict=True):
        row: dict[str, Any] = {}
        for name, (method, where) in BASELINES.items():
            against = method, where or deployment
            if against not in keys:
                continue
            said = summarise(Timing(spent_KRN[keys.index(against)], own), protocol.bootstrap, seed)
            row |= {key: said[key] for key in _OWN}
            row |= {
                f"{name}_speedup": said["wallclock_speedup"],
                f"{name}_low": said["wallclock_low"],
                f"{name}_high": said["wallclock_high"],
            }
        found.append(row)
    return found
