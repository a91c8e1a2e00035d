r"""Train one encoder with exits after several layers: early exit (EE), SWEET, or learning to exit (LTE).

Which of them is said by the method's section: `objective` and `gradient`. Reads the splits of a task and writes
`model/` (loadable), `history.jsonl` and `metrics.json`. A killed run resumes when it is started again.

Examples::

    python pipeline_steps/train_sweet.py --task tiers --backbone minilm --seed 0 --method sweet \
        --data runs/tiers/minilm/seed0/data/splits --out runs/tiers/minilm/seed0/sweet/train \
        --timings runs/tiers/minilm/seed0/sweet/train_timings.json
    python pipeline_steps/train_sweet.py --params presets/smoke.yaml --task tiers --backbone tiny --seed 0 \
        --method early_exit --data runs/tiers/tiny/seed0/data/splits \
        --out /tmp/early_exit/train --timings /tmp/early_exit/train_timings.json
"""

from __future__ import annotations

from adaptive_pipeline.stage import run_stage
from adaptive_pipeline.training_stage import train_exits as main

if __name__ == "__main__":
    run_stage(main, __doc__, inputs=("data",), per_method=True, timings=True)
