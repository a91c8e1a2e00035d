"""What is refused of `generation` before any training."""

import copy
import json

import pytest
from smoke_params import SMOKE

from adaptive_inference.errors import UserError
from adaptive_pipeline.params import parse_params
from adaptive_pipeline.params.text_preflight import check_texts, policy_of


def changed(path, value):
    body = copy.deepcopy(SMOKE)
    *parents, last = path.split(".")
    at = body["generation"]
    for part in parents:
        at = at[part]
    at[last] = value
    return parse_params(body).generation


def test_the_smoke_preset_passes(tmp_path):
    check_texts(parse_params(SMOKE).generation, tmp_path)


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (
            "models.t5_tiny.config.num_decoder_layers",
            2,
            r"trainings.shallow_deep: exit_layer 2 must be below",
        ),
        ("methods.static_exit.exit_layer", 5, r"methods.static_exit: exit_layer 5: the decoder has 4 blocks"),
        ("methods.calm.min_layer", 4, r"methods.calm: min_layer 4"),
        ("methods.calm.confidence", "saturation", r"methods.calm: .*min_layer to 2 or more"),
        ("models.t5_tiny.config.d_modle", 3, r"models.t5_tiny: t5 has no key 'd_modle'.*did you mean"),
        ("models.t5_tiny.tokenizer", "./nowhere", r"models.t5_tiny: no folder './nowhere'"),
        ("calibration.prompts", 20, r"calibration.prompts: 20 prompts cannot certify"),
        ("tasks.transduce.rows", 61, r"transduce"),
    ],
)
def test_what_could_not_run_is_refused_with_its_place(path, value, says, tmp_path):
    if path.endswith("tokenizer"):
        body = copy.deepcopy(SMOKE)
        body["generation"]["models"]["t5_tiny"] |= {"tokenizer": value}
        del body["generation"]["models"]["t5_tiny"]["vocabulary"]
        given = parse_params(body).generation
    else:
        given = changed(path, value)
    with pytest.raises(UserError, match=says):
        check_texts(given, tmp_path)


def test_texts_longer_than_the_positions_of_a_model_are_refused(tmp_path):
    model = {
        "weights": "config",
        "architecture": "gpt2",
        "config": {"n_positions": 20, "n_embd": 16, "n_head": 2, "n_layer": 4},
        "tokenizer": "train",
        "vocabulary": 200,
    }
    with pytest.raises(UserError, match="need 24 positions, but the model has 20"):
        check_texts(changed("models.t5_tiny", model), tmp_path)


def test_a_missing_file_and_a_missing_column_are_refused(tmp_path):
    task = {
        "source": "local", "train": "pairs.jsonl", "source_text": "{de}", "target_text": "{en}", "metric": "bleu",
    }  # fmt: skip
    with pytest.raises(UserError, match=r"pairs\.jsonl"):
        check_texts(changed("tasks.transduce", task), tmp_path)
    rows = [{"de": f"wort {n}", "fr": f"mot {n}"} for n in range(40)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match="no column 'en'"):
        check_texts(changed("tasks.transduce", task), tmp_path)


def test_a_policy_has_the_methods_exit_layer_else_the_trained_models():
    generation = parse_params(SMOKE).generation
    assert policy_of(generation, "free").exit_layer == 2
    assert policy_of(generation, "free", exit_layer=3).exit_layer == 3
    assert policy_of(generation, "static_exit", exit_layer=3).exit_layer == 2
    assert policy_of(generation, "calm", threshold=0.25).threshold == 0.25
    assert policy_of(generation, "calm", exit_layer=3).exit_layer is None
