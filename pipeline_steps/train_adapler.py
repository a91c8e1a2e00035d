r"""Train a model that removes tokens before its layers: AdapLeR, with one exit or with all of them.

Predictors of how much each token contributes imitate saliencies of the full model, which `extract_saliencies` wrote, and
thresholds learn how many tokens may stay. The epoch that is kept is the fastest one near the full model's quality. Reads
the splits of a task and the full model; writes `model/` (loadable), `history.jsonl` and `metrics.json`. A killed run
resumes when it is started again.

Examples::

    python pipeline_steps/train_adapler.py --task tiers --backbone minilm --seed 0 --method adapler
    python pipeline_steps/train_adapler.py --params presets/smoke.yaml --task tiers --backbone tiny --seed 0 \
        --method adapler --data splits --full full/model --saliencies saliency/scores.safetensors \
        --out /tmp/adapler/train --timings /tmp/adapler/train_timings.json
"""

from __future__ import annotations

from adaptive_pipeline.stage import run_stage
from adaptive_pipeline.training_stage import train_exits as main

if __name__ == "__main__":
    run_stage(main, __doc__, inputs=("data", "full", "saliencies"), per_method=True, timings=True)
