# Schedules what dvc.yaml defines. `snakemake --cores N` (or `make run`) brings all stages up to date, side by side
# where the graph allows; `dvc repro` alone builds the same, one stage after the other.

import os
import sys
from pathlib import Path

from snakemake.utils import min_version

min_version("9.20")

sys.path[:0] = [str(Path(workflow.basedir) / folder) for folder in ("workflow", "src")]

import dag
import progress
import stage_settings

stage_settings.use_this_environment(workflow.basedir)
CORES = stage_settings.cores(workflow)
stage_settings.limit_memory(workflow)
WHOLE_RUN = stage_settings.first_parse()
PARAMS = stage_settings.checked_params(WHOLE_RUN)
STAGES = dag.read_graph(judge=WHOLE_RUN)
dag.drop_false_receipts(STAGES)
MISSING = stage_settings.unkept(STAGES, PARAMS)
FIRST = stage_settings.with_upstream(MISSING, STAGES)


report: "workflow/report/workflow.rst"


include: "workflow/rules/stages.smk"
include: "workflow/rules/report.smk"


rule all:
    default_target: True
    input:
        [stage.receipt for stage in STAGES],
        rules.collect_report.output,
        rules.publish_records.output,


# One slice of a preset that takes hours: only the cells of which docs/results keeps no record.
rule missing_cells:
    input:
        [dag.receipt_path(name) for name in sorted(MISSING)],


onstart:
    stage_settings.only_run_here()
    asked = {job.rule.name for job in workflow.dag.jobs}
    progress.announce([stage for stage in STAGES if stage.name in asked], PARAMS, CORES)


onsuccess:
    # `make run` prints it at its own end, also where nothing had to be done.
    if "MAKELEVEL" not in os.environ:
        progress.summary()
