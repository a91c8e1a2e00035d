"""Runs `recommend` and `evaluate_recommended`, after the stages before them, on small untrained models in this process."""

from __future__ import annotations

from calibrated_stages import params_of, run

import evaluate_recommended
import recommend
from adaptive_pipeline.grid import Cell
from adaptive_pipeline.stage import Stage

CELL = Cell("toy", "tiny", 0)
GENEROUS = {"max_loss": 60.0}


def recommended(
    folder,
    tmp_path,
    monkeypatch,
    goal=GENEROUS,
    method="sweet",
    rules=("confidence", "patience"),
    kind="classification",
):
    """Run all stages; return the records of both, and the timings of the second."""
    run(folder, tmp_path, monkeypatch, method, rules, kind, goal=goal)
    params = params_of(method, list(rules), kind, goal=goal)
    home = folder / kind
    seed = tmp_path / "seed0"
    places = {
        "full/train/model": home / "full", f"{method}/train/model": home / method,
        "full/answers": tmp_path / "full_answers", f"{method}/answers": tmp_path / "collect_answers",
        "full/calibration": tmp_path / "full_calibration",
        f"{method}/calibration": tmp_path / "calibrate_thresholds",
        "data/splits": home, "candidates": tmp_path / "candidates",
    }  # fmt: skip
    for name, place in places.items():
        (seed / name).parent.mkdir(parents=True, exist_ok=True)
        (seed / name).symlink_to(place)

    chosen = stage(recommend, params, tmp_path, candidates=seed / "candidates")
    measured = stage(evaluate_recommended, params, tmp_path, methods=seed, choice=chosen.out)
    return chosen.record, measured.record, measured.timings


def stage(module, params, tmp_path, place="", **inputs):
    """Run a stage of a whole seed into a folder of its name, or another ``place``; return it."""
    out = tmp_path / (place or module.__name__)
    out.mkdir()
    scratch = tmp_path / f"{out.name}_scratch"
    found = Stage(module.__name__, CELL, params, inputs, out, scratch, {}, module.__file__)
    module.main(found)
    found.record.save(out)
    return found
