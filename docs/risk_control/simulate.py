r"""Simulate what `goal.risk` promises, on synthetic losses whose true risk is known.

Each scenario calibrates 500 times on fresh rows and counts violations: the true risk of the threshold that `certify`
returns exceeds delta. The promise holds if there are no more than the 99 % quantile of Bin(500, epsilon) allows. Beside it
the obvious choice without a test: the fastest threshold whose *observed* risk is at most delta. Power is the share of
calibrations in which a threshold of true risk delta / 4 (or another share of delta) is certified.

Thresholds come in two ladders of true risks: `steps`, twenty from delta / 10 to 2 delta, and `cliff`, a riskless one and
one just above delta, where a violation is likeliest. Losses come in three shapes: `nested` (0 or 1, a row lost at one
threshold is lost at every faster one, as with exits), `independent` (0 or 1) and `fractional` (between 0 and 1).

    python docs/risk_control/simulate.py --out docs/risk_control
    python docs/risk_control/simulate.py --out /tmp/simulation --repeats 2000 --seed 1
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binom

from adaptive_inference.calibration.risk_control import certify
from adaptive_pipeline.reporting.figures.style import COLOURS, canvas, save

LADDERS = ("steps", "cliff")
SHAPES = ("nested", "independent", "fractional")
SETTINGS = ((100, 0.2, 0.1), (200, 0.1, 0.1), (500, 0.05, 0.05), (1000, 0.02, 0.05))  #: rows, delta, epsilon
POWER_SHARES = (0.25, 0.5, 0.75)  #: true risk / delta
POWER_ROWS = (60, 100, 200, 300, 500, 700, 1000, 1500, 2000)
POWER_DELTAS = (0.2, 0.1, 0.05, 0.02, 0.01)
PROMISED_DELTA, ENOUGH_POWER = (
    0.05,
    0.99,
)  #: from this delta on, 1,000 rows of true risk delta / 4 nearly always certify


def ladder(name: str, delta: float) -> np.ndarray:
    """Return the true risks of the thresholds, from the safest to the fastest."""
    if name == "cliff":
        return np.array([0.0, delta * (1 + 1e-9)])
    return delta * np.linspace(0.1, 2.0, 20)


def draw(risks: np.ndarray, n: int, shape: str, generator: np.random.Generator) -> np.ndarray:
    """Return losses ``(T, n)`` in [0, 1] whose expectation is ``risks``, ``(T,)``."""
    if shape == "independent":
        return (generator.uniform(size=(len(risks), n)) < risks[:, None]).astype(float)
    level = generator.uniform(size=n)
    if shape == "nested":
        return (level < risks[:, None]).astype(float)
    return (level < 2 * risks[:, None]) * generator.uniform(size=n)  # a half on average, twice as often


def violations(
    n: int, delta: float, epsilon: float, steps: str, shape: str, repeats: int, seed: int
) -> dict[str, Any]:
    """Calibrate ``repeats`` times and count violations, with the test and without it."""
    generator, risks = np.random.default_rng(seed), ladder(steps, delta)
    broken = naive = certified = 0
    for _ in range(repeats):
        losses = draw(risks, n, shape, generator)
        found = certify(losses, delta, epsilon)
        certified += found is not None
        broken += found is not None and risks[found] > delta
        observed = np.flatnonzero(losses.mean(1) <= delta)
        naive += len(observed) > 0 and risks[observed[-1]] > delta
    return {
        "rows": n,
        "delta": delta,
        "epsilon": epsilon,
        "ladder": steps,
        "losses": shape,
        "repeats": repeats,
        "certified": int(certified),
        "violations": int(broken),
        "allowed": int(binom.ppf(0.99, repeats, epsilon)),
        "violations_without_test": int(naive),
    }


def power(n: int, delta: float, epsilon: float, share: float, repeats: int, seed: int) -> dict[str, Any]:
    """Return the share of calibrations that certify one threshold of true risk ``share * delta``."""
    generator, risk = np.random.default_rng(seed), np.array([share * delta])
    found = [certify(draw(risk, n, "nested", generator), delta, epsilon) is not None for _ in range(repeats)]
    return {
        "rows": n,
        "delta": delta,
        "epsilon": epsilon,
        "risk_over_delta": share,
        "certified": float(np.mean(found)),
    }


def simulate(repeats: int = 500, seed: int = 0) -> dict[str, Any]:
    """Return every scenario's counts, and whether both promises hold."""
    cases = [(*setting, steps, shape) for setting in SETTINGS for steps in LADDERS for shape in SHAPES]
    counted = [violations(*case, repeats, seed + k) for k, case in enumerate(cases)]
    curves = [
        power(n, 0.05, 0.05, share, repeats, seed + k)
        for k, (share, n) in enumerate((share, n) for share in POWER_SHARES for n in POWER_ROWS)
    ]
    quarter = [power(1000, delta, 0.05, 0.25, repeats, seed + k) for k, delta in enumerate(POWER_DELTAS)]
    return {
        "seed": seed,
        "repeats": repeats,
        "violations": counted,
        "power": curves,
        "power_at_a_quarter_of_delta_and_1000_rows": quarter,
        "violations_within_quantile": all(case["violations"] <= case["allowed"] for case in counted),
        "certifies": all(
            case["certified"] >= ENOUGH_POWER for case in quarter if case["delta"] >= PROMISED_DELTA
        ),
    }


def draw_figure(found: dict[str, Any], folder: Path) -> None:
    """Write ``simulation.png`` and ``.svg``: violations against what is allowed, and power against rows."""
    shades = (COLOURS["early_exit"], COLOURS["sweet"], COLOURS["multi_model"])
    with canvas(9.6, 3.9, columns=2, width_ratios=(1.5, 1.0)) as (figure, (left, right)):
        cases = found["violations"]
        place = np.arange(len(cases))
        for key, colour, label, marker in (
            ("violations_without_test", "#9a9a9a", "no test: observed risk ≤ δ", "x"),
            ("violations", shades[0], "certified (Learn-then-Test)", "o"),
        ):
            left.plot(
                place,
                [case[key] / case["repeats"] for case in cases],
                marker,
                color=colour,
                label=label,
                ms=5,
            )
        left.step(
            place, [case["allowed"] / case["repeats"] for case in cases],
            where="mid", color=shades[1], lw=1.2, label=f"99 % quantile of Bin({found['repeats']}, ε)",
        )  # fmt: skip
        left.step(
            place, [case["epsilon"] for case in cases], where="mid", color="k", lw=0.9, ls=":", label="ε"
        )
        width = len(LADDERS) * len(SHAPES)
        names = [f"n = {n}\nδ = {delta:g}\nε = {epsilon:g}" for n, delta, epsilon in SETTINGS]
        left.set_xticks(np.arange(len(SETTINGS)) * width + (width - 1) / 2, names)
        for edge in range(1, len(SETTINGS)):
            left.axvline(edge * width - 0.5, color="#cccccc", lw=0.8)
        left.grid(axis="x", visible=False)
        left.set_ylim(-0.02, 0.7)
        left.set_ylabel("share of calibrations with true risk > δ")
        left.set_title(
            f"Violations in {found['repeats']} calibrations each "
            f"({len(LADDERS)} ladders of risk x {len(SHAPES)} shapes of loss)"
        )
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower left", ncols=4)
        for share, colour in zip(POWER_SHARES, shades, strict=True):
            curve = [case for case in found["power"] if case["risk_over_delta"] == share]
            right.plot(
                [case["rows"] for case in curve],
                [case["certified"] for case in curve],
                "o-", ms=3.5, color=colour, label=f"true risk {share:g} δ",
            )  # fmt: skip
        right.set_xlabel("rows that certify")
        right.set_ylabel("share of calibrations that certify")
        right.set_title("Power (δ = 0.05, ε = 0.05)")
        right.legend(loc="lower right")
        save(figure, folder, "simulation")


def main() -> None:
    """Simulate, write the counts and the figure, and fail if a promise does not hold."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="folder for simulation.json, simulation.png and simulation.svg",
    )
    parser.add_argument("--repeats", type=int, default=500, help="calibrations per scenario")
    parser.add_argument("--seed", type=int, default=0, help="of the random draws")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    found = simulate(args.repeats, args.seed)
    (args.out / "simulation.json").write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    draw_figure(found, args.out)
    worst = max(found["violations"], key=lambda case: case["violations"] / case["allowed"])
    print(f"most violations against what is allowed: {worst['violations']} of {worst['allowed']} ({worst})")
    sys.exit(0 if found["violations_within_quantile"] and found["certifies"] else 1)


if __name__ == "__main__":
    main()
