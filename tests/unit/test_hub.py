"""Models published on a hub and taken from there: against a hub of our own on loopback, by huggingface_hub itself."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import transformers
from stub_hub import Hub, Model, sha, stub_hub

from adaptive_inference import MultiExitModel, load_predictor, push_to_hub
from adaptive_inference.errors import UserError
from adaptive_inference.exits.layout import open_model
from adaptive_inference.serving.export import export
from adaptive_inference.serving.hub import model_folder, published

SAVED = Path(__file__).parent / "saved_models/format1"
TEXTS = ["a truly lovely film", "no"]
_CODE = """from adaptive_inference import load_predictor, push_to_hub
from adaptive_inference.errors import UserError
try:
    {}
except UserError as error:
    print("refused:", error)
"""


@pytest.fixture
def hub():
    with stub_hub() as running:
        yield running


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    """A calibrated cascade, with weights in folders below it."""
    out = tmp_path_factory.mktemp("hub") / "exported"
    export(SAVED / "cascade", out)
    return out


def asked(hub: Hub, home: Path, code: str, **environment: str) -> str:
    """Run code in a process that knows no other hub (the client reads its variables when it is imported)."""
    code = _CODE.format(code)
    variables = os.environ | hub.environment(str(home / "hf")) | environment
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=home, env=variables, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def put(hub: Hub, folder: Path, name: str = "me/films", **model: bool) -> None:
    """Lay a folder on the hub as the first commit after the empty one."""
    files = {f.relative_to(folder).as_posix(): f.read_bytes() for f in folder.rglob("*") if f.is_file()}
    hub.models[name] = Model(commits=[{}, files], **model)


def test_a_model_that_is_pushed_is_loaded_by_its_id_and_answers_as_its_folder(hub, exported, tmp_path):
    told = asked(hub, tmp_path, f"print(push_to_hub({str(exported)!r}, 'me/films'))")
    assert told == f"{hub.url}/me/films/commit/{sha(1)}"
    here = {f.relative_to(exported).as_posix(): f.read_bytes() for f in exported.rglob("*") if f.is_file()}
    assert hub.models["me/films"].commits[-1] == here
    assert set(hub.large.values()) == {body for name, body in here.items() if name.endswith(".safetensors")}
    code = f"print(load_predictor('me/films', revision={sha(1)!r}).predict({TEXTS!r}).probabilities.tolist())"
    expected = load_predictor(exported).predict(TEXTS).probabilities.tolist()
    assert asked(hub, tmp_path, code) == str(expected)
    code = f"from adaptive_inference.serving.hub import model_folder; print(model_folder('me/films', {sha(1)!r}))"
    assert Path(asked(hub, tmp_path, code, HF_HUB_OFFLINE="1")).is_dir()  # it lies in the cache


def test_neither_code_nor_pickles_of_a_hub_are_fetched(hub, exported, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(exported, folder)
    for name in ("modeling.py", "pytorch_model.bin", "1/weights.pkl"):
        (folder / name).write_bytes(b"boom")
    put(hub, folder)
    code = "from adaptive_inference.serving.hub import model_folder; print(model_folder('me/films'))"
    fetched = Path(asked(hub, tmp_path, code))
    names = {file.relative_to(fetched).as_posix() for file in fetched.rglob("*") if file.is_file()}
    wanted = {f.relative_to(exported).as_posix() for f in exported.rglob("*") if f.is_file()}
    assert names == wanted - {"README.md"}
    assert not [line for line in hub.asked if "boom" in line or line.endswith((".py", ".bin", ".pkl"))]


def test_code_and_pickles_beside_a_model_are_not_pushed(hub, exported, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(exported, folder)
    for name in (".env", "notes.txt", "pytorch_model.bin", "train.py"):
        (folder / name).write_bytes(b"secret")
    asked(hub, tmp_path, f"push_to_hub({str(folder)!r}, 'me/films')")
    assert b"secret" not in hub.models["me/films"].commits[-1].values()


def test_files_of_its_user_are_not_pushed_whatever_their_ending(hub, exported, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(exported, folder)
    names = ("calibration.original.json", "README.original.md", "customers.json", "1/rows.json", "mine/config.json",
             "other.safetensors", "secret.model", "1/README.md")  # fmt: skip
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"secret")
    asked(hub, tmp_path, f"push_to_hub({str(folder)!r}, 'me/films')")
    wanted = {f.relative_to(exported).as_posix() for f in exported.rglob("*") if f.is_file()}
    assert set(hub.models["me/films"].commits[-1]) == wanted


@pytest.mark.parametrize(
    "family", ["Albert", "Bert", "Deberta", "DebertaV2", "DistilBert", "MPNet", "Roberta", "XLMRoberta"]
)
def test_the_vocabulary_of_every_family_is_published(family):
    names = getattr(transformers, f"{family}Tokenizer").vocab_files_names.values()
    assert set(names) <= set(published(open_model(SAVED / "model")))


def test_a_private_push_makes_a_private_model(hub, exported, tmp_path):
    asked(hub, tmp_path, f"push_to_hub({str(exported)!r}, 'me/films', private=True)")
    assert hub.models["me/films"].private
    again = asked(hub, tmp_path, f"print(push_to_hub({str(exported)!r}, 'me/films', private=True))")
    assert "refused" not in again


def test_a_private_push_never_lands_in_a_public_model(hub, exported, tmp_path):
    hub.models["me/films"] = Model()
    told = asked(hub, tmp_path, f"push_to_hub({str(exported)!r}, 'me/films', private=True)")
    assert (
        told
        == "refused: me/films is there and public; make it private on the hub first, or take another name"
    )
    assert hub.models["me/films"].commits == [{}]


@pytest.mark.parametrize(
    ("code", "environment", "message"),
    [
        ("load_predictor('me/nothing')", {}, "'me/nothing' is no folder here, and the hub has no model 'me/nothing'"),
        ("load_predictor('me/films')", {"HF_TOKEN": "wrong"}, "that you may see; check the name, or log in"),
        ("load_predictor('me/films', revision='v2')", {}, "the hub's me/films has no such revision"),
        ("load_predictor('me/films')", {"HF_HUB_OFFLINE": "1"}, "cannot be used for me/films"),
        ("load_predictor('me/films')", {"HF_ENDPOINT": "http://127.0.0.1:9"}, "cannot be used for me/films"),
        ("push_to_hub(EXPORTED, 'me/films')", {"HF_TOKEN": "wrong"}, "the hub refuses me/films (status 401"),
        ("push_to_hub(EXPORTED, 'me/films')", {"HF_HUB_OFFLINE": "1"}, "the hub cannot be used for me/films"),
        ("push_to_hub(EXPORTED, 'me/films')", {"HF_ENDPOINT": "http://127.0.0.1:9"}, "cannot be used for me/films"),
    ],
)  # fmt: skip
def test_what_a_hub_does_not_give_or_take_is_said_in_a_sentence(
    code, environment, message, hub, exported, tmp_path
):
    put(hub, exported, private=True)
    told = asked(hub, tmp_path, code.replace("EXPORTED", repr(str(exported))), **environment)
    assert told.startswith("refused: ")
    assert message in told
    assert "\n" not in told


def test_nothing_but_an_exported_model_with_a_card_is_pushed(exported, tmp_path):
    (tmp_path / "bare").mkdir()
    with pytest.raises(UserError, match="holds no saved model"):
        push_to_hub(tmp_path / "bare", "me/films")
    with pytest.raises(UserError, match="no exported model with weights and a card; make one: adaptive-inf"):
        push_to_hub(SAVED / "cascade", "me/films")
    shutil.copytree(exported, tmp_path / "run/train/model")
    with pytest.raises(UserError, match=f"adaptive-inference export {tmp_path}/run OUT"):
        push_to_hub(tmp_path / "run", "me/films")
    with pytest.raises(UserError, match="'films' is no hub id; give OWNER/NAME"):
        push_to_hub(exported, "films")


def test_a_name_whose_first_part_is_a_folder_here_never_asks_a_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("results").mkdir()
    for name in ("results/model", Path("me/films"), "./me/films", "films", "runs/tiers/sweet", "~/films"):
        assert model_folder(name) == Path(name)
        with pytest.raises(UserError, match="holds no saved model"):
            MultiExitModel.from_pretrained(name)
    with pytest.raises(
        UserError, match="revision 'main' goes with a hub's id, and 'results/model' names a folder"
    ):
        load_predictor("results/model", revision="main")
