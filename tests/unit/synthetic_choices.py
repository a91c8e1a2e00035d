"""TEST FIXTURE: invented records of what was recommended. No number here was measured by anything."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptive_inference.calibration.operating_point import Seen, Setting, static_name
from adaptive_inference.files import write_json
from adaptive_pipeline.grid import Cell
from adaptive_pipeline.params import Params
from adaptive_pipeline.runs.layout import out_path, timings_path
from adaptive_pipeline.runs.records import FAMILIES, Drift, Offer, Share

ENVIRONMENT = {"cpu": "Test CPU", "cores": 2, "threads": 1, "device": "cpu", "versions": {"torch": "2.13.0"}}
CALIBRATION_ROWS = 400
EVALUATION_ROWS = 1000
ALIKE = Drift(auc=0.51, p_value=0.3, features=["length"])
DIFFERENT = Drift(auc=0.71, p_value=1e-20, features=["length"])


@dataclass(frozen=True)
class Chosen:
    """What a test says was recommended and measured; of the full model: ``method=None``, and only what applies to it.

    Attributes
    ----------
    method
        Its key under ``methods``; None: the full model.
    member
        Layers of a cascade's member that answers alone.
    loss
        Points lost on the evaluation split.
    speedup
        In layers; FLOPs get 0.98 of it, the clock 0.93.
    half, twice
        Method and speed-up under half and twice the goal; None: the full model.
    tied
        What else the resamples chose, with its share.
    """

    method: str | None = "sweet"
    rule: str = "confidence"
    threshold: float = 0.7125
    member: int | None = None
    loss: float = 0.6
    expected: float = 0.4
    probability: float = 0.83
    kept_full: float = 0.0
    speedup: float = 1.8
    half: tuple[str, float] | None = None
    twice: tuple[str, float] | None = ("multi_model", 2.25)
    tied: tuple[tuple[str, str, float], ...] = (("early_exit", "margin", 0.25),)
    with_more_rows: float | None = None
    drifts: bool = False
    metric: str = "accuracy"

    @property
    def key(self) -> str | None:
        """Of its rows in the main table."""
        return self.method if self.member is None else static_name(self.member)

    @property
    def setting(self) -> Setting | None:
        """How it answers."""
        return None if self.method is None else Setting(self.rule, self.threshold, self.member)


FULL = Chosen(method=None, loss=0.0, speedup=1.0, tied=())


def write_choice(root: Path, params: Params, cell: Cell, chosen: Chosen, full_quality: float) -> None:
    """Write what `recommend` and `evaluate_recommended` leave for a task, backbone and seed below ``root``."""
    goal = params.goal.max_loss
    record = _record(
        "recommend",
        cell,
        params,
        ("goal", "trained_by"),
        candidates=120,
        rows=CALIBRATION_ROWS,
        offer=_offer(chosen, goal),
        others=[_other(item, factor * goal) for factor, item in ((0.5, chosen.half), (2.0, chosen.twice))],
        shares=_shares(chosen),
        with_more_rows=chosen.with_more_rows,
    )
    record.save(_below(root, out_path("recommend", cell)))
    quality = full_quality - chosen.loss / 100
    measured: dict[str, Any] = {
        "metric": chosen.metric,
        "rows": EVALUATION_ROWS,
        "quality": quality,
        "full_quality": full_quality,
        "loss": chosen.loss,
        "layers_speedup": chosen.speedup,
        "flops_speedup": chosen.speedup * 0.98 if chosen.method else 1.0,
        "drift": DIFFERENT if chosen.drifts else ALIKE,
    }
    if chosen.method:
        measured |= {"method": chosen.key, "setting": chosen.setting}
        measured |= {"low": chosen.loss - 0.7, "high": chosen.loss + 0.9}
    measured_record = _record(
        "evaluate_recommended", cell, params, ("evaluation", "runtime", "goal"), **measured
    )
    measured_record.save(_below(root, out_path("evaluate_recommended", cell)))
    write_json(
        _below(root, timings_path("evaluate_recommended", cell)), _timings(chosen, cell, params, quality)
    )


def _below(root: Path, path: Path) -> Path:
    return root / path.relative_to("runs")


def _timings(chosen: Chosen, cell: Cell, params: Params, quality: float) -> dict[str, Any]:
    if not chosen.method or cell.seed not in params.evaluation.timed_seeds:
        return {"environment": ENVIRONMENT}
    fast = chosen.speedup * 0.93
    row = {"method": chosen.key, "rule": chosen.rule, "threshold": chosen.threshold, "quality": quality}
    row |= {"wallclock_speedup": fast, "wallclock_low": fast - 0.04, "wallclock_high": fast + 0.05}
    row |= {"median_ms": 20.0 / fast, "full_median_ms": 20.0}
    return {"environment": ENVIRONMENT, "rows": [row], "goals": {"wallclock_speedup": fast}}


def _offer(chosen: Chosen, goal: float) -> Offer:
    seen = Seen(0.895, chosen.speedup, chosen.speedup * 0.98) if chosen.method else None
    expected = chosen.expected if chosen.method else 0.0
    return Offer(
        max_loss=goal,
        method=chosen.method,
        setting=chosen.setting,
        seen=seen,
        difference=-0.0025 if chosen.method else None,
        margin=0.45,
        probability=chosen.probability,
        kept_full=chosen.kept_full,
        loss=expected,
        low=expected - 0.5 if chosen.method else 0.0,
        high=expected + 0.5 if chosen.method else 0.0,
    )


def _other(item: tuple[str, float] | None, goal: float) -> Offer:
    if item is None:
        return _offer(FULL, goal)
    return _offer(Chosen(method=item[0], speedup=item[1]), goal)


def _shares(chosen: Chosen) -> list[Share]:
    rest = [Share(method=method, rule=rule, share=share) for method, rule, share in chosen.tied]
    own = Share(
        method=chosen.method or "full",
        rule=chosen.rule if chosen.method else "",
        share=round(1.0 - sum(item.share for item in rest), 6),
    )
    return sorted([own, *rest], key=lambda item: -item.share)


def _record(stage: str, cell: Cell, params: Params, keys: tuple[str, ...], **fields: Any) -> Any:
    given = {"stage": stage, "cell": cell, "params": params.echo(keys), "inputs": {}, "code": "0" * 64}
    return FAMILIES[stage](**given, **fields)
