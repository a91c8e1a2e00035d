# What sits on top of the stages: the files that `snakemake --report` shows, and MLflow's view of the records.


rule collect_report:
    input:
        dvc_graph.receipt_path("make_tables"),
    output:
        tables=report(
            directory("report/tables"),
            patterns=["{name}.csv"],
            category="Tables",
            labels={"table": "{name}"},
            caption="../report/tables.rst",
        ),
        figures=report(
            directory("report/figures"),
            patterns=["{name}.svg"],
            category="Figures",
            labels={"figure": "{name}"},
            caption="../report/figures.rst",
        ),
        recommendation=report(
            "report/recommendation.md",
            category="Recommendation",
            caption="../report/recommendation.rst",
        ),
    log:
        "logs/collect_report.log",
    conda:
        "../../environment.yml"
    message:
        "Collecting tables and figures for the report"
    shell:
        "(cp -R results/tables {output.tables} && cp -R results/figures {output.figures}"
        " && cp results/recommendation.md {output.recommendation}) > {log} 2>&1"


rule publish_records:
    input:
        [stage.receipt for stage in STAGES],
    output:
        touch("receipts/publish_records.done"),
    log:
        "logs/publish_records.log",
    conda:
        "../../environment.yml"
    message:
        "Giving MLflow the runs that it lacks"
    shell:
        "python -m adaptive_pipeline.tracking.publish > {log} 2>&1"
