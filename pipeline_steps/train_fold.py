r"""Train a method at one point of a grid on all folds of the train split but one, and score it on that one.

The training is that of the pipeline: the best epoch is chosen on the development split. The held-out fold is only scored,
and no weights are kept. Writes `history.jsonl` and `metrics.json` (`held_out_quality`: mean over exits). A killed run
resumes when it is started again. `--point` and `--fold` are names in the file that `--search` names.

    python pipeline_steps/train_fold.py --task tiers --backbone minilm --seed 0 --method leebert \
        --search search/params.yaml --point p1234567 --fold 0 --data runs/tiers/minilm/seed0/data/splits \
        --out /tmp/fold0/train --timings /tmp/fold0/train_timings.json
"""

from __future__ import annotations

from pathlib import Path

from adaptive_pipeline.stage import Stage, run_stage
from adaptive_pipeline.training_stage import fit_exits


def main(stage: Stage) -> None:
    """Train and score."""
    from adaptive_inference.training.folds import Fold
    from adaptive_inference.training.score import held_out_metrics
    from adaptive_pipeline.search.plan import Plan, check_method, patched, read_section

    cell, plan = stage.cell, read_section(Plan, Path(stage.options["search"]))
    stage.params = patched(stage.params, plan.point(stage.options["point"]), "the point")
    check_method(stage.params, cell.method, stage.params.task(cell.task).kind)

    fold = Fold(int(stage.options["fold"]), len(plan.folds), cell.seed)
    model, rows, recipe = fit_exits(stage, fold)
    stage.record.metrics |= held_out_metrics(model, rows.held_out, recipe)


if __name__ == "__main__":
    run_stage(
        main,
        __doc__,
        inputs=("data",),
        options=("search", "point", "fold"),
        per_method=True,
        timings=True,
    )
