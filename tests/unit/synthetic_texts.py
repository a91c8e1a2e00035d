"""TEST FIXTURE: invented records of decoding in the shape that the stages write. No number here was measured by anything."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from synthetic_choices import ENVIRONMENT
from synthetic_records import invented_params

from adaptive_inference.files import write_json
from adaptive_pipeline.grid import Cell
from adaptive_pipeline.params import Params
from adaptive_pipeline.runs.records import FAMILIES
from adaptive_pipeline.runs.text_records import (
    ChosenRow,
    ChosenThreshold,
    Confidences,
    Decoded,
    Mixture,
    TimedRow,
    TokenKind,
)

THRESHOLDS = [0.0, 0.5, 0.9, 1.0]
BLOCKS = 6
GENERATION = {
    "tasks": {"transduce": {"source": "generated", "metric": "exact_match", "evaluation_rows": 60}},
    "models": {
        "t5": {
            "weights": "config",
            "architecture": "t5",
            "config": {"num_layers": 2, "num_decoder_layers": BLOCKS},
            "tokenizer": "train",
            "vocabulary": 200,
        }
    },
    "seeds": [0, 1],
    "trainings": {
        "ce": {"loss": "ce"},
        "weighted": {"loss": "weighted_ce"},
        "shallow_deep": {"loss": "shallowdeep_kd_dyna", "exit_layer": 2},
    },
    "trained_by": {"train_free": ["ce", "weighted", "shallow_deep"]},
    "methods": {
        "full": {"training": "ce", "policy": "full"},
        "static_exit": {"training": "weighted", "policy": "static", "exit_layer": 2},
        "calm": {"training": "weighted", "policy": "calm"},
        "free": {"training": "shallow_deep", "policy": "keep"},
        "free_adaptive": {"training": "shallow_deep", "policy": "keep", "adaptive": "corrected"},
        "free_verify": {"training": "shallow_deep", "policy": "verify"},
    },
    "calibration": {"thresholds": THRESHOLDS},
}
#: Params without a classifier.
NO_CLASSIFIERS: dict[str, Any] = {
    "tasks": {},
    "backbones": {},
    "seeds": [],
    "methods": {},
    "token_scores": [],
    "pruned_body": "",
    "explanations": {},
    "trained_by": {"train_sweet": [], "train_leebert": [], "train_multi_model": []},
}
KINDS = {"copied": -1.0, "look-up": 0.0, "arithmetic": 1.0}


def text_params(alone: bool = True, **changes: Any) -> Params:
    """Return params with the second grid, ``changes`` of it, and the invented classifiers or (``alone``) none."""
    generation = copy.deepcopy(GENERATION) | changes
    return invented_params(**(NO_CLASSIFIERS if alone else {}), generation=generation)


def write_texts(root: Path, params: Params, timed: bool = True, **changes: Any) -> None:
    """Write the records of every cell of the second grid; ``changes`` of the evaluation's record."""
    for cell in params.text_grid.trained():
        data = Cell(cell.task, cell.backbone, cell.seed)
        _save(root, params, "prepare_texts", data, "data")
        _save(root, params, "train_free", cell, f"trainings/{cell.method}/train", blocks=BLOCKS)
    for cell in params.text_grid.cells():
        write_decoding(root, params, cell, timed, **changes)


def write_decoding(root: Path, params: Params, cell: Cell, timed: bool = True, **changes: Any) -> None:
    """Write calibration and evaluation of one cell."""
    method = params.generation.methods[cell.method]
    both = {
        "training": method.training,
        "policy": method.policy,
        "exit_layer": params.generation.exit_layer(cell.method),
        "blocks": BLOCKS,
        "metric": "exact_match",
    }
    adjustable = method.policy in ("calm", "keep", "verify") and not method.adaptive
    thresholds = THRESHOLDS if adjustable else [None]
    grid = [decoded(cell, threshold, rows=100) for threshold in thresholds]
    full = decoded(cell, 1.0, rows=100)
    chosen = [ChosenThreshold(goal="none", value=None, threshold=None, reached=True)]
    if adjustable:
        chosen = [
            ChosenThreshold(goal="certified", value=0.1, threshold=1.0, reached=False),
            ChosenThreshold(goal="min_quality", value=0.95, threshold=0.5, reached=True),
        ]
    calibrated = [one.model_copy(update={"loss": 0.05}) for one in grid]
    _save(
        root, params, "calibrate_decoding", cell, f"{cell.method}/calibration",
        **both, grid=calibrated, full=full, chosen=chosen,
    )  # fmt: skip
    rows = [
        ChosenRow(choice=one, decoded=decoded(cell, one.threshold), full=decoded(cell, 1.0)) for one in chosen
    ]
    folder = root / cell.task / cell.backbone / f"seed{cell.seed}" / cell.method
    given = both | {"grid": grid, "full": full, "chosen": rows} | changes
    _save(root, params, "evaluate_decoding", cell, f"{cell.method}/evaluation", **given)
    clock = [timed_row(one, mode) for one in chosen for mode in ("free", "fixed")] if timed else []
    write_json(
        folder / "timings.json", {"environment": ENVIRONMENT, "rows": [one.model_dump() for one in clock]}
    )
    if method.policy == "keep":
        tokens = [(place / 100, place > 40) for place in range(100)]
        mixture = Mixture(disagree=(2.0, 5.0), agree=(5.0, 2.0))
        trajectory = [0.9, 0.9, 0.5, 0.6] if method.adaptive else []
        counted = Confidences.counted(tokens, threshold=0.5, mixture=mixture, trajectory=trajectory)
        write_json(folder / "evaluation/confidences.json", counted.model_dump())


def decoded(cell: Cell, threshold: float | None, rows: int = 200) -> Decoded:
    """Return a threshold's invented figures: fewer blocks and less quality the lower it is."""
    full = cell.method == "full" or threshold == 1.0
    reach = 1.0 if full else (0.4 if threshold is None else threshold)
    quality = 0.9 + 0.02 * cell.seed - 0.04 * (1 - reach)
    blocks = 2.0 + (BLOCKS - 2.0) * reach
    kinds = {
        kind: TokenKind(tokens=40, blocks=min(BLOCKS, blocks + 0.5 * more), agreement=0.9)
        for kind, more in KINDS.items()
    }
    return Decoded(
        threshold=threshold,
        rows=rows,
        tokens=10 * rows,
        quality=quality,
        quality_low=quality - 0.03,
        quality_high=quality + 0.03,
        agreement=0.9 + 0.1 * reach,
        same_texts=reach,
        blocks=blocks,
        paper_blocks=blocks - 0.1,
        block_calls=blocks,
        calls_speedup=BLOCKS / blocks,
        shallow_share=1 - reach,
        flops=1000.0 * blocks,
        flops_speedup=BLOCKS / blocks,
        kinds=kinds,
    )


def timed_row(choice: ChosenThreshold, mode: Any) -> TimedRow:
    """Return invented figures of the clock."""
    speed = 1.5 if choice.threshold in (None, 0.5) else 0.98
    return TimedRow(
        goal=choice.goal,
        threshold=choice.threshold,
        mode=mode,
        requests=40,
        repeats=2,
        seconds=0.1 / speed,
        full_seconds=0.1,
        tokens_per_second=100 * speed,
        full_tokens_per_second=100,
        speedup=speed,
        speedup_low=speed - 0.1,
        speedup_high=speed + 0.1,
    )


#: Stage -> the params that its record has.
_KEYS = {
    "prepare_texts": ("generation.tasks.transduce",),
    "train_free": ("generation.training",),
    "calibrate_decoding": ("generation.calibration",),
    "evaluate_decoding": ("generation.evaluation", "generation.calibration"),
}


def _save(root: Path, params: Params, stage: str, cell: Cell, folder: str, **fields: Any) -> None:
    keys = _KEYS[stage]
    given = {"stage": stage, "cell": cell, "params": params.echo(keys), "inputs": {}, "code": "0" * 64}
    record = FAMILIES[stage](**given, **fields)
    record.save(root / cell.task / cell.backbone / f"seed{cell.seed}" / folder)
