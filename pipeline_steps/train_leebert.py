r"""Train one encoder by any other objective: PABEE, ElasticBERT, BERxiT, DeeBERT, FastBERT, LeeBERT, static baselines.

Which of them is said by the method's section. DeeBERT and FastBERT start from the full model (`--full`) and train the
inner exits alone; most static baselines start from it or learn from it. Reads the splits of a task and writes `model/`
(loadable), `history.jsonl`, `metrics.json` and, where the weights of the losses are learned, `weights.jsonl`. A killed run
resumes when it is started again.

Examples::

    python pipeline_steps/train_leebert.py --task tiers --backbone minilm --seed 0 --method leebert \
        --data runs/tiers/minilm/seed0/data/splits --full runs/tiers/minilm/seed0/full/train/model \
        --out runs/tiers/minilm/seed0/leebert/train --timings runs/tiers/minilm/seed0/leebert/train_timings.json
    python pipeline_steps/train_leebert.py --params presets/smoke.yaml --task tiers --backbone tiny --seed 0 \
        --method pabee --data runs/tiers/tiny/seed0/data/splits --full runs/tiers/tiny/seed0/full/train/model \
        --out /tmp/pabee/train --timings /tmp/pabee/train_timings.json
"""

from __future__ import annotations

from adaptive_pipeline.stage import run_stage
from adaptive_pipeline.training_stage import train_exits as main

if __name__ == "__main__":
    run_stage(main, __doc__, inputs=("data", "full"), per_method=True, timings=True)
