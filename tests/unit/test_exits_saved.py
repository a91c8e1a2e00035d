import json
import math

import pytest
import torch

from adaptive_inference import MultiExitModel, MultiModel, load_model
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


def points(*rows):
    names = ("name", "rule", "threshold", "quality", "layers_speedup", "qualifies")
    return [dict(zip(names, row, strict=True)) for row in rows]


def calibration(exits=3):
    return {
        "temperatures": [1.0] * exits,
        "certainty_min": None,
        "certainty_max": None,
        "full_quality": 0.9,
        "num_layers": 4,
        "operating_points": points(
            ("max_loss_1", "confidence", 0.0, 0.9, 4.0, True),
            ("max_loss_1", "entropy", 0.01, 0.9, 2.0, True),
            ("min_speedup_2", "margin", 0.3, 0.8, 2.5, True),
            ("max_loss_1", "margin", None, None, None, False),
        ),
    }


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
    member = load_model(tmp_path / "2", MultiExitModel)
    assert torch.equal(logits(member)[:, 0], logits(cascade)[:, 1])
    with pytest.raises(UserError, match="holds a MultiModel, not a MultiExitModel"):
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


def test_only_safe_files_are_written(tmp_path):
    build().save_pretrained(tmp_path)
    assert {file.suffix for file in tmp_path.iterdir()} == {".json", ".safetensors", ".md"}
    assert not [file for file in tmp_path.iterdir() if file.name.startswith(".")]


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
        (lambda f: (f / "config.json").write_text('{"kind": "multi_exit"}'), "lacks or mistypes"),
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


def test_an_entropy_threshold_above_ln_c_is_refused_from_a_user_and_taken_from_a_calibration():
    model, leaves_all = build(), 1.01 * math.log(2)  # the first of the rule's own grid
    model.calibration = calibration() | {
        "operating_points": points(("max_loss_1", "entropy", leaves_all, 0.9, 4.0, True))
    }
    assert model.predict(TEXTS).exit_layers.tolist() == [1, 1, 1]
    assert model.predict(TEXTS, rule="entropy").exit_layers.tolist() == [1, 1, 1]
    for rule in ("entropy", None):
        with pytest.raises(UserError, match=r"entropy threshold 0\.7.* is above ln 2 = 0\.6931"):
            model.predict(TEXTS, rule=rule, threshold=leaves_all)


def test_predict_without_calibration_runs_the_whole_model():
    answer = build().predict(TEXTS)
    assert answer.exit_layers.tolist() == [4, 4, 4]
    assert answer.probabilities.shape == (3, 2)
    assert abs(answer.probabilities.sum(1) - 1).max() < 1e-12
    assert answer.labels == [SCHEMA.labels[row.argmax()] for row in answer.probabilities]


def test_predict_takes_the_recommended_operating_point_unless_told_otherwise():
    model = build()
    model.calibration = calibration()
    assert model.predict(TEXTS).exit_layers.tolist() == [1, 1, 1]
    assert model.predict(TEXTS, threshold=1.01).exit_layers.tolist() == [4, 4, 4]
    assert model.predict(TEXTS, rule="fixed").exit_layers.tolist() == [4, 4, 4]
    assert model.predict(TEXTS, rule="fixed", threshold=1).exit_layers.tolist() == [2, 2, 2]
    from adaptive_inference.serving.predictor import operating_point

    assert operating_point(model, "entropy") == ("entropy", 0.01)
    with pytest.raises(
        UserError, match=r"'margin' keeps the quality.*name one yourself: 0\.3 \(min_speedup_2\)"
    ):
        operating_point(model, "margin")
    assert operating_point(model, "patience( tolerance=.2 )", 2.0) == ("patience(tolerance=0.2)", 2.0)
    with pytest.raises(
        UserError, match=r"no calibrated threshold for rule 'uncertainty'.*confidence, entropy, margin"
    ):
        model.predict(TEXTS, rule="uncertainty")


def test_when_no_operating_point_qualifies_predict_runs_the_whole_model():
    model = build()
    model.calibration = calibration() | {
        "operating_points": points(("max_loss_1", "confidence", None, None, None, False))
    }
    assert model.predict(TEXTS).exit_layers.tolist() == [4, 4, 4]


def test_the_recommendation_that_calibration_wrote_is_taken_and_a_bound_never_is():
    model = build()
    model.calibration = calibration() | {
        "recommended": {"rule": "fixed", "threshold": 1.0, "operating_point": None}
    }
    assert model.predict(TEXTS).exit_layers.tolist() == [2, 2, 2]
    model.calibration = calibration() | {
        "operating_points": points(("max_loss_1", "oracle", 0.0, 1.0, 4.0, True))
    }
    assert model.predict(TEXTS).exit_layers.tolist() == [4, 4, 4]


def test_a_threshold_without_a_rule_is_refused_where_no_rule_is_recommended():
    """It would be read as an exit index, and 0.95 would send every text out at the second exit."""
    with pytest.raises(UserError, match="needs a rule"):
        build().predict(TEXTS, threshold=0.95)


def test_temperatures_change_probabilities_and_no_label():
    model = build()
    model.calibration = calibration() | {"temperatures": [4.0, 4.0, 4.0]}
    warm, cold = model.predict(TEXTS, "fixed"), build().predict(TEXTS, "fixed")
    assert warm.labels == cold.labels
    assert (warm.probabilities.max(1) < cold.probabilities.max(1)).all()


def test_a_pair_task_reads_two_texts_and_a_regression_answers_scores():
    pair = build(schema=Schema("pair", "regression", None, "pearson", 32, ("premise", "hypothesis")))
    answer = pair.predict([("a film", "a movie"), ["a film", "food"]])
    assert answer.probabilities is None
    assert all(isinstance(label, float) for label in answer.labels)
    with pytest.raises(UserError, match=r"text 1: 'alone' does not fit task pair, which reads 2 strings"):
        pair.predict([("a", "b"), "alone"])


@pytest.mark.parametrize("texts", ["one string", [None], [3], [("a", "b")], [["a", None]]])
def test_texts_of_the_wrong_shape_are_told(texts):
    with pytest.raises(UserError, match=r"one string|does not fit"):
        build().predict(texts)


def test_no_texts_give_no_answers():
    answer = build().predict([])
    assert (answer.labels, answer.probabilities.shape, answer.exit_layers.shape) == ([], (0, 2), (0,))


def test_a_batch_is_refused_for_the_time_being():
    with pytest.raises(UserError, match="batch size 8"):
        build().predict(TEXTS, batch_size=8)


def test_what_a_model_lacks_is_not_left_over_from_an_earlier_one(tmp_path):
    first = build()
    first.calibration = calibration()
    first.save_pretrained(tmp_path)
    build().save_pretrained(tmp_path)
    assert MultiExitModel.from_pretrained(tmp_path).calibration is None


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
    except (ValueError, OSError, UserError):
        return  # refused; transformers may also take the plain tokenizer file, which runs nothing
