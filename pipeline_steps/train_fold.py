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
    from adaptive_inference.training.arithmetic import fast_cpu
    from adaptive_inference.training.fit import DEVELOPMENT_BATCH
    from adaptive_inference.training.folds import Fold
    from adaptive_inference.training.trainer import development_qualities
    from adaptive_pipeline.search import Plan, check_method, patched, read_section

    cell, plan = stage.cell, read_section(Plan, Path(stage.options["search"]))
    stage.params = patched(stage.params, plan.point(stage.options["point"]), "the point")
    check_method(stage.params, cell.method, stage.params.task(cell.task).kind)

    model, schema, rows = fit_exits(stage, Fold(int(stage.options["fold"]), len(plan.folds), cell.seed))
    with fast_cpu(stage.params.runtime.threads):
        qualities = development_qualities(model, rows.held_out, schema, DEVELOPMENT_BATCH)
    stage.record.metrics |= {
        f"held_out{layer}_quality": value for layer, value in zip(model.exits, qualities, strict=True)
    }
    stage.record.metrics["held_out_quality"] = sum(qualities) / len(qualities)


if __name__ == "__main__":
    run_stage(
        main,
        __doc__,
        inputs=("data",),
        options=("search", "point", "fold"),
        per_method=True,
        timings=True,
    )
