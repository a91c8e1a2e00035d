"""The stage families of `dvc.yaml`, one line each: what a machine must know of them, never science."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """What Snakemake and the estimate of a run's time know of a stage beyond the graph."""

    mem_mb: int  #: memory
    runtime: int  #: time limit in minutes; a laptop's profile ignores it
    seconds: float  #: of one stage of the default task, two at a time on two slow cores; of trainings, see `progress`
    gpu: bool = False  #: uses one, where there is one
    timed: bool = False  #: measures wall-clock
    every_seed: bool = False  #: does so of all seeds, not of `evaluation.timed_seeds` alone
    end: bool = False  #: a slice of a preset is run for its records


FAMILIES = {
    "prepare_data": Family(2000, 60, 15.0),
    "finetune_backbone": Family(6000, 720, 90.0, gpu=True),
    "train_sweet": Family(6000, 720, 95.0, gpu=True),
    "train_leebert": Family(6000, 720, 95.0, gpu=True),
    "train_multi_model": Family(6000, 1440, 110.0, gpu=True),
    "extract_saliencies": Family(4000, 240, 30.0, gpu=True),
    "train_adapler": Family(6000, 720, 150.0, gpu=True),
    "train_adapler_exits": Family(6000, 720, 60.0, gpu=True),
    "collect_answers": Family(4000, 240, 15.0, gpu=True),
    "calibrate_thresholds": Family(2000, 60, 5.0),
    "evaluate_batch1": Family(4000, 240, 40.0, gpu=True, timed=True, end=True),
    "score_rationales": Family(4000, 240, 60.0, gpu=True, end=True),
    "recommend": Family(2000, 60, 8.0),
    "evaluate_recommended": Family(4000, 60, 15.0, gpu=True, timed=True),
    "export_model": Family(4000, 60, 60.0),
    "choose_deployment": Family(4000, 60, 90.0, gpu=True, timed=True, every_seed=True),
    "prepare_texts": Family(2000, 60, 10.0),
    "train_free": Family(6000, 1440, 16.0, gpu=True),
    "continue_free": Family(6000, 1440, 16.0, gpu=True),
    "assign_model": Family(2000, 30, 4.0),
    "calibrate_decoding": Family(4000, 720, 60.0, gpu=True),
    "answer_texts": Family(4000, 720, 90.0, gpu=True),
    "evaluate_decoding": Family(4000, 720, 40.0, gpu=True, timed=True, end=True),
    "make_tables": Family(2000, 30, 10.0),
}
