"""From a method's answers at all exits to its candidates: every rule over its grid, and a cascade's members, each alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from adaptive_inference.calibration.curves import Curve, sweep, sweep_all
from adaptive_inference.cost.yardstick import Yardstick
from adaptive_inference.exit_rules import load_rule
from adaptive_inference.exit_rules.base import ExitRule
from adaptive_inference.exits.outputs import ExitOutputs
from adaptive_inference.selection.candidates import Family


def families_of(
    rules: Mapping[str, ExitRule], outputs: ExitOutputs, yardstick: Yardstick, thresholds: int, cascade: bool
) -> tuple[Family, ...]:
    """Return the families of a method: one per rule that can run, and one of a cascade's members, each alone.

    Parameters
    ----------
    rules
        Of the method, by name; those that look at labels are left out.
    outputs
        Calibrated, see `curves.calibrate`.
    yardstick
        With FLOPs.
    thresholds
        The most of one rule's grid.
    cascade
        The exits are members of a cascade.
    """
    runnable = {name: rule for name, rule in rules.items() if rule.attainable}
    curves = sweep_all(runnable, outputs, yardstick, thresholds)
    found = [_family(name, [curve]) for name, curve in curves.items()]
    return (*found, *_alone(outputs, yardstick)) if cascade else tuple(found)


def timed_families_of(
    rules: Mapping[str, ExitRule],
    outputs: ExitOutputs,
    yardstick: Yardstick,
    thresholds: int,
    time_E: np.ndarray,
) -> tuple[Family, ...]:
    """Return the families of a model in a deployment, one per rule, with what they save in time.

    Parameters
    ----------
    rules, outputs, yardstick, thresholds
        See `families_of`; the outputs are those of the deployment.
    time_E
        Time of a row that leaves at each exit, as a share of the full model's, ``(E,)``.
    """
    runnable = {name: rule for name, rule in rules.items() if rule.attainable}
    curves = sweep_all(runnable, outputs, yardstick, thresholds)
    return tuple(
        replace(_family(name, [curve]), clock_speedup=1.0 / time_E[curve.exits].mean(1))
        for name, curve in curves.items()
    )


def _alone(outputs: ExitOutputs, yardstick: Yardstick) -> Iterator[Family]:
    curves = [
        sweep(load_rule("fixed"), outputs.alone(k), yardstick.alone(k), np.zeros(1))
        for k in range(len(outputs.exits))
    ]
    yield _family("fixed", curves, outputs.exits)


def _family(rule: str, curves: list[Curve], members: tuple[int, ...] | None = None) -> Family:
    """Put curves of one rule together."""

    def joined(name: str) -> np.ndarray:
        return np.concatenate([getattr(curve, name) for curve in curves])

    thresholds, answers = joined("thresholds"), joined("predictions")
    return Family(
        rule,
        thresholds,
        np.asarray(members or np.zeros(len(thresholds)), dtype=np.int64),
        answers.astype(np.int16 if answers.dtype.kind in "iu" else np.float32),
        joined("layers_speedup"),
        joined("flops_speedup"),
    )
