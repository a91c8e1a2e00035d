import json
import os
import stat

import pytest
import safetensors.torch
import torch

from adaptive_inference import MultiExitModel, MultiModel, load_model, load_predictor
from adaptive_inference.backbones.load import families
from adaptive_inference.errors import UserError
from adaptive_inference.exits import build_model
from adaptive_inference.settings.inputs import Backbone
from adaptive_inference.tasks.schema import Schema

SCHEMA = Schema("tiny", "classification", ("bad", "good"), "accuracy", 32)
TEXTS = ["a good film", "the plot was awful , but the music is lovely", "no"]


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def build(exits=(1, 2, 4), certainty=False, schema=SCHEMA, **changes):
    section = Backbone(**({"weights": "random:bert", "exits": list(exits)} | changes))
    return build_model(section, schema, 0, certainty=certainty).eval()


def logits(model):
    given = model.tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        return model(**given).logits


def calibration(exits=3):
    return {"temperatures": [1.0] * exits, "full_quality": 0.9, "operating_points": [], "recommended": None}


def contents(folder):
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


@pytest.mark.parametrize("family", families())
@pytest.mark.parametrize(("pooler", "certainty"), [("per_exit", False), ("shared", True), ("none", False)])
def test_a_saved_model_comes_back_bit_by_bit(family, pooler, certainty, tmp_path):
    model = build(weights=f"random:{family}", pooler=pooler, certainty=certainty, read="mean")
    before = logits(model)
    model.save_pretrained(tmp_path)
    again = MultiExitModel.from_pretrained(tmp_path)
    assert torch.equal(before, logits(again))
    assert again.schema == SCHEMA
    assert again.has_certainty == certainty
    assert not again.training
    assert again.tokenizer(TEXTS)["input_ids"] == model.tokenizer(TEXTS)["input_ids"]


def test_an_albert_cut_short_keeps_which_group_serves_a_layer(tmp_path):
    from transformers import AutoModel

    from adaptive_inference.backbones._tiny import tiny_config
    from adaptive_inference.backbones.load import load_backbone
    from adaptive_inference.exits.build import add_exits

    torch.manual_seed(0)
    AutoModel.from_config(tiny_config("albert", num_hidden_groups=4)).save_pretrained(tmp_path / "stock")
    model = add_exits(load_backbone(str(tmp_path / "stock"), num_layers=3), (3,), SCHEMA, 0).eval()
    model.save_pretrained(tmp_path / "saved")
    given = {"input_ids": torch.arange(5, 12)[None]}
    assert torch.equal(model(**given).logits, load_model(tmp_path / "saved")(**given).logits)


def test_a_multi_model_comes_back_and_each_member_loads_by_itself(tmp_path):
    cascade = MultiModel([build(exits=[layer]) for layer in (1, 2, 4)])
    cascade.save_pretrained(tmp_path)
    again = load_model(tmp_path)
    assert isinstance(again, MultiModel)
    assert torch.equal(logits(cascade), logits(again))
    member = MultiExitModel.from_pretrained(tmp_path / "2")
    assert torch.equal(logits(member)[:, 0], logits(cascade)[:, 1])
    with pytest.raises(UserError, match="holds a model of kind multi_model, not multi_exit; load_model"):
        MultiExitModel.from_pretrained(tmp_path)


def test_equal_models_give_equal_bytes_and_name_no_path(tmp_path):
    for name in ("one", "two"):
        model = build(weights="packaged", exits=[1])
        if name == "two":  # what a call leaves in the tokenizer must not reach the file
            model.tokenizer(TEXTS, padding="max_length", truncation=True, max_length=9)
        model.save_pretrained(tmp_path / name)
    first, second = contents(tmp_path / "one"), contents(tmp_path / "two")
    assert first == second
    texts = b"".join(
        body for name, body in first.items() if not name.endswith((".safetensors", "tokenizer.json"))
    )
    assert b"site-packages" not in texts
    assert str(tmp_path).encode() not in texts


def test_the_form_of_a_saved_model_is_the_one_that_format_1_promises(tmp_path):
    """Raise `FORMAT` with whatever changes this: folders in the field have this form (docs/compatibility.md)."""
    members = [
        build(exits=[1], certainty=True, pooler="shared"),
        build(exits=[2], certainty=True, pooler="per_exit"),
    ]
    model = MultiModel(members)
    model.calibration = calibration(2)
    model.save_pretrained(tmp_path)
    companions = {"schema.json", "tokenizer.json", "tokenizer_config.json"}
    member_files = {
        f"{layer}/{name}" for layer in "12" for name in companions | {"config.json", "model.safetensors"}
    }
    assert set(contents(tmp_path)) == companions | {"config.json", "calibration.json"} | member_files
    whole = json.loads((tmp_path / "config.json").read_text())
    assert whole == {"format": 1, "kind": "multi_model", "exits": [1, 2]}
    one = json.loads((tmp_path / "1" / "config.json").read_text())
    assert one.pop("backbone")["model_type"] == "bert"
    assert one == {
        "format": 1,
        "kind": "multi_exit",
        "exits": [1],
        "num_layers": 1,
        "outputs": 2,
        "pooler": "shared",
        "read": "first",
        "inner_head": "as_backbone",
        "certainty": True,
    }
    names = {
        name for layer in "12" for name in safetensors.torch.load_file(tmp_path / layer / "model.safetensors")
    }
    inner = {
        name
        for name in names
        if name.startswith(("backbone.model.embeddings.", "backbone.model.encoder.layer."))
    }
    parts = ("heads.0.classifier", "heads.0.dense", "pooler", "certainty_heads.0")
    assert names - inner == {f"{part}.{kind}" for part in parts for kind in ("weight", "bias")}


def test_only_safe_files_are_written(tmp_path):
    build().save_pretrained(tmp_path)
    assert {file.suffix for file in tmp_path.iterdir()} == {".json", ".safetensors"}
    assert not [file for file in tmp_path.iterdir() if file.name.startswith(".")]


def test_every_file_of_a_model_has_the_mode_that_the_umask_gives(tmp_path):
    earlier = os.umask(0o027)
    try:
        model = MultiModel([build(exits=[layer]) for layer in (1, 2)])
        model.calibration = calibration(2)
        model.save_pretrained(tmp_path / "model")
    finally:
        os.umask(earlier)
    modes = {file.relative_to(tmp_path): stat.S_IMODE(file.stat().st_mode) for file in tmp_path.rglob("*")}
    assert set(modes.values()) == {0o640, 0o750}, modes


def test_a_run_folder_loads_with_its_calibration(tmp_path):
    build().save_pretrained(tmp_path / "train" / "model")
    assert load_model(tmp_path).calibration is None
    (tmp_path / "calibration").mkdir()
    (tmp_path / "calibration" / "calibration.json").write_text(json.dumps(calibration()))
    assert load_model(tmp_path).calibration["full_quality"] == 0.9


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "holds no saved model"),
        (lambda f: (f / "config.json").write_text('{"kind": "other"}'), "of kind 'other'"),
        (lambda f: (f / "config.json").write_text('{"kind": "multi_exit"}'), r"of format 0.*reads format 1"),
        (lambda f: (f / "config.json").write_text('{"kind": "multi_exit", "format": 2}'), "of format 2"),
        (
            lambda f: (f / "config.json").write_text('{"kind": "multi_exit", "format": 1}'),
            "'exits' is missing",
        ),
        (lambda f: (f / "model.safetensors").unlink(), "missing or damaged"),
        (lambda f: (f / "model.safetensors").write_bytes(b"x" * 50), "missing or damaged"),
    ],
)
def test_a_damaged_folder_is_told(damage, message, tmp_path):
    build().save_pretrained(tmp_path)
    damage(tmp_path)
    with pytest.raises(UserError, match=message):
        load_model(tmp_path)


def test_weights_of_another_shape_are_told(tmp_path):
    build(exits=[1]).save_pretrained(tmp_path / "one")
    build(exits=[2]).save_pretrained(tmp_path / "two")
    (tmp_path / "one" / "model.safetensors").replace(tmp_path / "two" / "model.safetensors")
    with pytest.raises(UserError, match=r"does not fit config\.json"):
        load_model(tmp_path / "two")


def test_both_ways_to_load_give_models_that_answer_alike(tmp_path):
    build().save_pretrained(tmp_path / "one")
    MultiModel([build(exits=[layer]) for layer in (1, 4)]).save_pretrained(tmp_path / "several")
    for folder, kind in (("one", MultiExitModel), ("several", MultiModel)):
        answers = [kind.from_pretrained(tmp_path / folder).predict(TEXTS)]
        answers += [
            load_model(tmp_path / folder).predict(TEXTS),
            load_predictor(tmp_path / folder).predict(TEXTS),
        ]
        assert (
            len({json.dumps([a.labels, a.probabilities.tolist(), a.exit_layers.tolist()]) for a in answers})
            == 1
        )


def test_what_a_model_lacks_is_not_left_over_from_an_earlier_one(tmp_path):
    first = build()
    first.calibration = calibration()
    first.save_pretrained(tmp_path)
    build().save_pretrained(tmp_path)
    assert MultiExitModel.from_pretrained(tmp_path).calibration is None


def test_a_model_without_tokenizer_does_not_take_that_of_an_earlier_one(tmp_path):
    build().save_pretrained(tmp_path)
    bare = build()
    bare.tokenizer = None
    bare.save_pretrained(tmp_path)
    assert MultiExitModel.from_pretrained(tmp_path).tokenizer is None


def test_the_tokenizer_of_a_checkpoint_stays_where_a_model_without_one_is_saved_over_it(tmp_path):
    bare = build()
    bare.tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    before = contents(tmp_path)
    bare.tokenizer = None
    bare.save_pretrained(tmp_path)
    assert {name: contents(tmp_path).get(name) for name in before if name != "config.json"} == {
        name: body for name, body in before.items() if name != "config.json"
    }


def test_an_earlier_model_is_removed_and_files_of_another_origin_stay(tmp_path):
    three, two = (MultiModel([build(exits=[layer]) for layer in layers]) for layers in ((1, 2, 4), (1, 2)))
    two.save_pretrained(tmp_path / "fresh")
    build().save_pretrained(tmp_path / "fresh_single")
    kept = {"notes/2.txt": b"kept", "9/mine.txt": b"kept", "README.md": b"kept"}
    home = tmp_path / "again"
    for name, body in kept.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_bytes(body)
    three.save_pretrained(home)
    two.save_pretrained(home)
    assert contents(home) == contents(tmp_path / "fresh") | kept
    build().save_pretrained(home)
    assert contents(home) == contents(tmp_path / "fresh_single") | kept
    two.save_pretrained(home)
    assert contents(home) == contents(tmp_path / "fresh") | kept


def test_a_folder_whose_tokenizer_is_code_is_refused_without_a_question(tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *given: pytest.fail("asked on standard input"))
    build().save_pretrained(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(
        json.dumps(json.loads(path.read_text()) | {
            "tokenizer_class": "Foreign", "auto_map": {"AutoTokenizer": [None, "foreign.Foreign"]},
        })
    )  # fmt: skip
    (tmp_path / "foreign.py").write_text("raise SystemExit('ran')")
    try:
        MultiExitModel.from_pretrained(tmp_path)
    except UserError:
        return  # refused; transformers may also take the plain tokenizer file, which runs nothing
