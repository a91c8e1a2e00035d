"""The content of ``calibration.json``: what was fitted and chosen on the calibration split."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from adaptive_inference.calibration.calibrator import Calibrator
from adaptive_inference.calibration.choose import full_quality
from adaptive_inference.calibration.curves import calibrate
from adaptive_inference.calibration.fit import reliability_by_exit
from adaptive_inference.calibration.operating_points import recommend
from adaptive_inference.cost.yardstick import Yardstick

if TYPE_CHECKING:
    from adaptive_inference.calibration.operating_point import OperatingPoint
    from adaptive_inference.exits.outputs import ExitOutputs


def calibration_body(
    raw: ExitOutputs,
    calibrator: Calibrator,
    points: Sequence[OperatingPoint],
    yardstick: Yardstick,
    full: ExitOutputs,
    *,
    cost: str,
    calibrated_on: str,
) -> dict[str, Any]:
    """Return it.

    Parameters
    ----------
    raw
        Of the model on the calibration rows, not calibrated.
    calibrator, points
        What was fitted and chosen on them.
    yardstick
        Of these rows.
    full
        The full model's outputs on the same rows.
    cost
        The currency of the goals.
    calibrated_on
        Name of the split.
    """
    best = recommend(list(points))
    before, after = (reliability_by_exit(item, yardstick.kind) for item in (raw, calibrate(raw, calibrator)))
    return {
        "temperatures": calibrator.temperatures,
        "certainty_min": calibrator.certainty_min,
        "certainty_max": calibrator.certainty_max,
        "reliability": {"before": before, "after": after},
        "full_quality": full_quality(full, yardstick),
        "num_layers": yardstick.num_layers,
        "exits": raw.exits,
        "calibrated_on": calibrated_on,
        "rows": len(raw.labels),
        "cost": cost,
        "operating_points": [point.to_json() for point in points],
        "recommended": best and best.to_json(),
    }
