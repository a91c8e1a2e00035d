# What sits on top of the stages: MLflow's view of the records.


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
