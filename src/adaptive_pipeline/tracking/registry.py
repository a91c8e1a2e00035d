"""The recommended models in MLflow's registry: ``models:/adaptive-inference-TASK@recommended``."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from adaptive_inference.exits.layout import CONFIG_FILE
from adaptive_inference.serving.metadata import LIBRARY
from adaptive_inference.tasks.schema import SCHEMA_FILE, Schema
from adaptive_pipeline.runs.digests import digest_path
from adaptive_pipeline.serving.packaging import CODE, save_mlflow_model
from adaptive_pipeline.tracking.store import MODELS, Store

ALIAS = "recommended"


def recommended_models(results: Path) -> dict[str, Path]:
    """Return the models that a results folder hands out: name in the registry -> folder; see `Choice.model`."""
    home = results / "model"
    found = sorted(
        file.parent for pattern in ("", "*/", "*/*/") for file in home.glob(f"{pattern}{CONFIG_FILE}")
    )
    tops = [folder for folder in found if not any(other in folder.parents for other in found)]
    names = {}
    for folder in tops:
        if (folder / SCHEMA_FILE).is_file():
            backbone = folder.relative_to(home).parts[1:]
            names["-".join([LIBRARY, Schema.load(folder).task, *backbone])] = folder
    return names


def publish_model(store: Store, name: str, folder: Path) -> bool:
    """Make a model folder the version that the alias means; return whether it was another one.

    The version is an artifact of a run of its own, so that it comes with the store wherever that is.
    """
    from mlflow.exceptions import MlflowException

    given, client = f"{digest_path(folder)[:16]}-{digest_path(CODE)[:16]}", store.client
    with store.speaks():
        try:
            if client.get_model_version_by_alias(name, ALIAS).tags.get("given") == given:
                return False
        except MlflowException:  # neither the name nor the alias is there yet
            pass
        run = client.create_run(store.experiment(MODELS), tags={"model": name}, run_name=name)
        with TemporaryDirectory() as temporary:
            saved = Path(temporary) / "model"
            save_mlflow_model(folder, saved)
            client.log_artifacts(run.info.run_id, str(saved), "model")
        client.set_terminated(run.info.run_id, "FINISHED")
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name)
        source = f"{run.info.artifact_uri}/model"
        version = client.create_model_version(name, source, run.info.run_id, tags={"given": given})
        client.set_registered_model_alias(name, ALIAS, version.version)
    return True
