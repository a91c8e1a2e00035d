# One rule per stage of dvc.yaml, generated. Receipts are the only edges: DVC deletes and restores its outputs as it
# likes, with any time stamp, so they can be no rule's files. DVC decides whether a scheduled stage is executed.

for stage in STAGES:

    rule:
        name:
            stage.name
        input:
            [dvc_graph.receipt_path(upstream) for upstream in stage.upstream],
        output:
            stage.receipt,
        log:
            f"logs/{stage.name}.log",
        priority: PRIORITIES.get(stage.name, 0)
        conda:
            "../../environment.yml"
        threads: settings.threads(stage, PARAMS, CORES)
        resources:
            **settings.resources(stage, PARAMS),
        params:
            stage=stage.name,
            signature=stage.signature,
        message:
            f"{stage.name}"
        shell:
            "python workflow/run_stage.py {params.stage} {output} {log} {params.signature}"
