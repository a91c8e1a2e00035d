import pytest
import yaml

from adaptive_inference.exits import MultiModel, build_model
from adaptive_inference.serving.card import model_card
from adaptive_inference.settings.inputs import Backbone
from adaptive_inference.tasks.schema import Schema

SCHEMA = Schema("movies", "classification", ("bad", "good"), "accuracy", 48)


def build(exits, schema=SCHEMA):
    return build_model(Backbone(weights="random:bert", exits=exits), schema, 0)


def calibrated(model, qualifies=True):
    point = {"name": "max_loss_1", "rule": "margin", "qualifies": qualifies}
    point |= dict.fromkeys(("threshold", "quality", "layers_speedup"), 0.375 if qualifies else None)
    model.calibration = {"temperatures": [1.0] * len(model.exits), "operating_points": [point]}
    return model


def test_a_card_names_task_labels_exits_thresholds_and_use_under_a_yaml_header():
    card = model_card(calibrated(build([2, 4])))
    header = yaml.safe_load(card.split("---")[1])
    assert header["library_name"] == "adaptive-inference"
    assert header["pipeline_tag"] == "text-classification"
    for piece in (
        "movies",
        "`bad`, `good`",
        "layers 2, 4 of 4",
        "`margin` at threshold 0.375",
        "48 tokens",
        "accuracy",
    ):
        assert piece in card
    assert "adaptive-inference predict" in card


def test_the_python_in_a_card_runs(tmp_path, monkeypatch, capsys):
    calibrated(build([2, 4])).save_pretrained(tmp_path)
    monkeypatch.chdir(tmp_path)
    exec((tmp_path / "README.md").read_text().split("```python\n")[1].split("```")[0], {})
    printed = capsys.readouterr().out
    assert any(label in printed for label in SCHEMA.labels)


def test_a_card_of_one_exit_has_no_threshold():
    assert "the model has one exit" in model_card(calibrated(build([4])))


def test_a_card_without_calibration_says_so():
    assert "Not calibrated" in model_card(build([4]))


def test_a_card_says_when_no_threshold_keeps_the_quality():
    card = model_card(calibrated(build([2, 4]), qualifies=False))
    assert "no threshold kept the quality" in card
    assert "No operating point met its goal" in card


@pytest.mark.parametrize("text", [("text",), ("premise", "hypothesis")])
def test_a_regression_card_speaks_of_a_score(text):
    schema = Schema("sts", "regression", None, "pearson_spearman", 48, text)
    card = model_card(build([4], schema))
    assert "answers a score" in card
    assert ("premise" in card) == (len(text) == 2)


def test_a_cascade_card_lists_its_members():
    card = model_card(calibrated(MultiModel([build([1]), build([4])])))
    assert "Members of 1, 4 layers" in card
    assert "MultiModel.from_pretrained" in card
