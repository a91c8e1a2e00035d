"""Everything that is fitted on the calibration split, and what it did to reliability."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from adaptive_inference.calibration.calibrator import Calibrator
from adaptive_inference.calibration.min_max import fit_min_max
from adaptive_inference.calibration.reliability import reliability
from adaptive_inference.calibration.temperature import fit_temperature

if TYPE_CHECKING:
    from adaptive_inference.exits.outputs import ExitOutputs


def fit_calibrator(outputs: ExitOutputs, kind: str, temperature: bool) -> Calibrator:
    """Fit one temperature per exit (classification, where asked for) and the range of the certainty heads.

    Parameters
    ----------
    outputs
        Of the calibration split, not calibrated.
    kind
        Of the task; scores have no temperature.
    temperature
        False leaves every temperature at 1.
    """
    exits = range(len(outputs.exits))
    fitted = temperature and kind == "classification"
    temperatures = tuple(
        fit_temperature(outputs.logits[:, k], outputs.labels) if fitted else 1.0 for k in exits
    )
    if outputs.certainty is None:
        return Calibrator(temperatures)
    low, high = fit_min_max(outputs.certainty)
    return Calibrator(temperatures, tuple(low), tuple(high))


def reliability_by_exit(outputs: ExitOutputs, kind: str) -> list[dict[str, Any]]:
    """Return reliability of each exit, with its ``layer``; nothing for a regression task."""
    if kind != "classification":
        return []
    return [
        {"layer": layer} | reliability(outputs.logits[:, k], outputs.labels)
        for k, layer in enumerate(outputs.exits)
    ]
