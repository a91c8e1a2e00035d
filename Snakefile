# Schedules what dvc.yaml defines. `snakemake --cores N` (or `make run`) brings all stages up to date, side by side
# where the graph allows; `dvc repro` alone builds the same, one stage after the other.

import os

from snakemake.utils import min_version

min_version("9.20")

from adaptive_pipeline import dvc_graph, one_run, progress, settings

one_run.use_this_environment(workflow.basedir)
CORES = settings.cores(workflow)
settings.limit_memory(workflow)
WHOLE_RUN = one_run.first_parse()
PARAMS = settings.checked_params(WHOLE_RUN)
STAGES = dvc_graph.read_graph(judge=WHOLE_RUN)
dvc_graph.drop_false_receipts(STAGES)
if WHOLE_RUN:
    progress.tell_of_other_versions(STAGES)
MISSING = settings.unkept(STAGES, PARAMS)
FIRST = settings.with_upstream(MISSING, STAGES)


include: "workflow/rules/stages.smk"
include: "workflow/rules/publish.smk"


rule all:
    default_target: True
    input:
        [stage.receipt for stage in STAGES],
        rules.publish_records.output,


# One slice of a preset that takes hours: only the cells of which docs/results keeps no record.
rule missing_cells:
    input:
        [dvc_graph.receipt_path(name) for name in sorted(MISSING)],


onstart:
    one_run.only_run_here()
    settings.note_checked()
    asked = {job.rule.name for job in workflow.dag.jobs}
    stages = [stage for stage in STAGES if stage.name in asked]
    progress.announce(stages, PARAMS, CORES, dvc_graph.built_by_another_version())


onsuccess:
    # `make run` prints it at its own end, also where nothing had to be done.
    if "MAKELEVEL" not in os.environ:
        progress.summary()
