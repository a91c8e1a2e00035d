# Schedules what dvc.yaml defines. `snakemake --cores N` (or `make run`) brings all stages up to date, side by side
# where the graph allows; `dvc repro` alone builds the same, one stage after the other.

from snakemake.logging import logger
from snakemake.utils import min_version

min_version("9.20")

from adaptive_pipeline import dvc_graph, one_run, prefork, progress, settings, summary

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
PRIORITIES = {}  # of a run, not of its jobs
if WHOLE_RUN:
    FIRST = settings.with_upstream(MISSING, STAGES)
    PRIORITIES = settings.priorities(STAGES, FIRST, progress.longest_chains(STAGES, PARAMS))


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


# What is said here goes through Snakemake's logger, and so comes in order with what adaptive_pipeline/console.py says of jobs.
onstart:
    one_run.only_run_here()
    settings.note_checked()
    asked = {job.rule.name for job in workflow.dag.jobs}
    stages = [stage for stage in STAGES if stage.name in asked]
    plan = progress.plan_run(stages, PARAMS, CORES, dvc_graph.built_by_another_version())
    logger.info(plan.announcement, extra={"plan": plan})
    if len(stages) > 1:
        prefork.start(PARAMS.runtime.threads)


onsuccess:
    if "make_tables" in {job.rule.name for job in workflow.dag.jobs}:
        logger.info(summary.summary())


onerror:
    logger.info("What has finished is kept: mend the cause, and the same command goes on from there.")
