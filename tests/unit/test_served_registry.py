"""The recommended model in MLflow's registry: which version the alias means, and that it answers as the library does."""

import shutil

import numpy as np
import pytest
from serving_http import SAVED

from adaptive_inference import load_predictor
from adaptive_inference.files import read_json, write_text
from adaptive_pipeline.tracking.registry import ALIAS, publish_model, recommended_models
from adaptive_pipeline.tracking.store import Store

NAME = "adaptive-inference-movies"
TEXTS = ["a good film", "the plot was awful , but the music is lovely", "no"]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A fresh store of a project whose model was published."""
    root = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        found = Store()
        shutil.copytree(SAVED, root / "results/model")
        assert publish_model(found, NAME, root / "results/model")
    return found


def versions(store):
    return sorted(int(item.version) for item in store.client.search_model_versions(f"name = '{NAME}'"))


def load(store):
    from mlflow.artifacts import download_artifacts
    from mlflow.pyfunc import load_model

    uri = store.client.get_model_version_by_alias(NAME, ALIAS).source
    return load_model(download_artifacts(uri, tracking_uri=store.uri))


def test_a_published_model_answers_as_the_library_does_under_every_option(store):
    import pandas as pd
    from mlflow.exceptions import MlflowException

    model, predictor = load(store), load_predictor(SAVED)
    for params in ({}, {"rule": "fixed"}, {"threshold": 0.95}, {"rule": "entropy", "threshold": 0.1}):
        found, wanted = (
            model.predict(pd.DataFrame({"text": TEXTS}), params),
            predictor.under(**params).predict(TEXTS),
        )
        assert [item["label"] for item in found] == wanted.labels
        assert [item["exit_layer"] for item in found] == wanted.exit_layers.tolist()
        rows = np.array([list(item["probabilities"].values()) for item in found])
        assert np.abs(rows - wanted.probabilities).max() < 1e-9
    with pytest.raises(MlflowException, match="nerve"):
        model.predict(pd.DataFrame({"text": TEXTS}), {"rule": "nerve"})
    with pytest.raises(MlflowException, match="ask for no less than that"):
        model.predict(pd.DataFrame({"text": TEXTS}), {"max_latency_ms": 1e-6})


def test_a_published_model_is_code_data_and_an_example_and_no_pickle(store):
    from mlflow.artifacts import download_artifacts
    from mlflow.models import Model

    home = download_artifacts(
        store.client.get_model_version_by_alias(NAME, ALIAS).source, tracking_uri=store.uri
    )
    model = Model.load(home)
    assert model.signature.inputs.input_names() == ["text"]
    assert [item.name for item in model.signature.params] == ["rule", "threshold", "max_latency_ms"]
    assert "probabilities" in model.signature.outputs.input_names()
    assert read_json(model_file(home, "input_example.json"))["columns"] == ["text"]
    names = {path.suffix for path in model_file(home, "").rglob("*") if path.is_file()}
    assert names <= {".json", ".py", ".yaml", ".txt", ".safetensors", ".md", ""}


def model_file(home, name):
    from pathlib import Path

    return Path(home) / name


def test_only_another_model_makes_another_version_and_the_alias_follows(store, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(SAVED, folder)
    before = versions(store)
    assert not publish_model(store, NAME, folder)
    assert versions(store) == before
    write_text(folder / "README.md", "Another card.\n")
    assert publish_model(store, NAME, folder)
    assert versions(store) == [*before, before[-1] + 1]
    assert int(store.client.get_model_version_by_alias(NAME, ALIAS).version) == before[-1] + 1


def test_the_alias_follows_a_project_that_was_moved(store, tmp_path, monkeypatch):
    root = store.artifacts.parent
    shutil.copytree(root, tmp_path / "moved")
    (root / "mlartifacts").rename(root / "elsewhere")
    monkeypatch.chdir(tmp_path / "moved")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    try:
        assert load(Store()) is not None
    finally:
        (root / "elsewhere").rename(root / "mlartifacts")


def test_each_recommended_model_has_a_name_and_the_members_of_a_cascade_have_none(tmp_path):
    assert recommended_models(tmp_path) == {}
    cascade = SAVED.with_name("cascade")
    shutil.copytree(cascade, tmp_path / "one/model")
    assert recommended_models(tmp_path / "one") == {NAME: tmp_path / "one/model"}
    for backbone in ("minilm", "mpnet"):
        shutil.copytree(cascade, tmp_path / "two/model/movies" / backbone)
    home = tmp_path / "two/model/movies"
    assert recommended_models(tmp_path / "two") == {
        f"{NAME}-minilm": home / "minilm",
        f"{NAME}-mpnet": home / "mpnet",
    }
