r"""Train exits on a model that removes tokens, which stays as it is: a row then loses tokens, and may leave early too.

The model is that of the method `pruned_body`. Its weights, predictors and thresholds are frozen and it removes tokens for
real, so the exits see the states that they will see when predicting. Reads the splits of a task and that model; writes
`model/` (loadable), `history.jsonl` and `metrics.json`. A killed run resumes when it is started again.

Examples::

    python pipeline_steps/train_adapler_exits.py --task tiers --backbone minilm --seed 0 --method adapler_early_exit
    python pipeline_steps/train_adapler_exits.py --params presets/smoke.yaml --task tiers --backbone tiny --seed 0 \
        --method adapler_early_exit --data splits --pruned adapler/model \
        --out /tmp/adapler_early_exit/train --timings /tmp/adapler_early_exit/train_timings.json
"""

from __future__ import annotations

from adaptive_pipeline.stage import run_stage
from adaptive_pipeline.training_stage import train_exits as main

if __name__ == "__main__":
    run_stage(main, __doc__, inputs=("data", "pruned"), per_method=True, timings=True)
