r"""Fine-tune the full model: the whole encoder with one exit after its last layer.

Every speed-up is measured against this model. Reads the splits of a task and writes `model/` (loadable),
`history.jsonl` and `metrics.json`. A killed run resumes when it is started again.

Examples::

    python pipeline_steps/finetune_backbone.py --task tiers --backbone minilm --seed 0 \
        --data runs/tiers/minilm/seed0/data/splits --out runs/tiers/minilm/seed0/full/train \
        --timings runs/tiers/minilm/seed0/full/train_timings.json
    python pipeline_steps/finetune_backbone.py --params presets/smoke.yaml --task tiers --backbone tiny --seed 0 \
        --data runs/tiers/tiny/seed0/data/splits --out /tmp/full/train --timings /tmp/full/train_timings.json
"""

from __future__ import annotations

from dataclasses import replace

from adaptive_pipeline.stage import Stage, run_stage
from adaptive_pipeline.training_stage import train_exits


def main(stage: Stage) -> None:
    """Train and save."""
    stage.cell = replace(stage.cell, method="full")
    train_exits(stage)


if __name__ == "__main__":
    run_stage(main, __doc__, inputs=("data",), timings=True)
