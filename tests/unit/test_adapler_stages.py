"""Saliencies are made once for all methods that learn from them; those methods, and exits on what they made."""

import numpy as np
import pytest
import yaml
from smoke_params import ROOT, SMOKE, changed, without_removal
from tiny_training import SCHEMA, make_model, make_rows, same_bits, weights_of

import extract_saliencies
import train_adapler
import train_adapler_exits
from adaptive_inference.attribution.extract import KINDS
from adaptive_inference.attribution.store import Scores
from adaptive_inference.errors import UserError
from adaptive_inference.exits import load_model
from adaptive_inference.exits.weights import save_weights
from adaptive_inference.tasks.schema import save_split
from adaptive_inference.training.checkpoints import epoch_file
from adaptive_pipeline.grid import Cell
from adaptive_pipeline.params import parse_params
from adaptive_pipeline.params.preflight import check_encoders
from adaptive_pipeline.runs.digests import digest_path
from adaptive_pipeline.runs.layout import SCORES_FILE
from adaptive_pipeline.runs.records import Record
from adaptive_pipeline.runs.store import Finished, Runs
from adaptive_pipeline.runs.validity import asked_for, chain, why_unusable
from adaptive_pipeline.search.plan import check_method
from adaptive_pipeline.stage import Stage
from adaptive_pipeline.tracking.given import Background, run_params, training_beside
from adaptive_pipeline.training_stage import EPOCHS

STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
BODY = {
    "tasks": {"words": {"source": "local", "train": "x.csv", "metric": "accuracy"}},
    "backbones": {"tiny": {"weights": "random:bert", "exits": [1, 2, 4]}},
    "seeds": [0],
    "training": {"epochs": 1, "batch_size": 8, "learning_rate": 1e-3},
    "trained_by": {
        "train_sweet": [],
        "train_leebert": [],
        "train_multi_model": [],
        "train_adapler": ["adapler", "joint"],
        "train_adapler_exits": ["both"],
    },
    "token_scores": ["saliency"],
    "pruned_body": "adapler",
    "methods": {
        "full": {"train": {}, "rules": ["fixed"]},
        "adapler": {"train": {"objective": "adapler"}, "rules": ["fixed"]},
        "both": {"train": {"objective": "frozen"}, "rules": ["confidence"]},
        "joint": {"train": {"objective": "adapler_joint", "gradient": "blockwise"}, "rules": ["confidence"]},
    },
    "runtime": {"device": "cpu"},
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    root = tmp_path_factory.mktemp("adapler")
    SCHEMA.save(root / "splits")
    for name, count, seed in (("train", 32, 0), ("development", 12, 1)):
        save_split(root / "splits", name, make_rows(count, seed))
    make_model(exits=(4,)).save_pretrained(root / "full")
    return {"data": root / "splits", "full": root / "full"}


def run(script, method, inputs, out, body=None):
    """Run a stage script's main in this process; return its stage."""
    out.mkdir(parents=True, exist_ok=True)
    name, cell = script.__name__, Cell("words", "tiny", 0, method)
    params = parse_params(body or BODY)
    stage = Stage(name, cell, params, dict(inputs), out, out / "scratch", {}, script.__file__)
    script.main(stage)
    return stage


@pytest.fixture(scope="module")
def made(inputs, tmp_path_factory):
    """The stages, one after the other, by name."""
    root = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADAPTIVE_INFERENCE_TRACKING", "off")
        found = {"scores": run(extract_saliencies, "saliency", inputs, root / "saliency")}
        given = inputs | {"saliencies": root / "saliency" / SCORES_FILE}
        found["adapler"] = run(train_adapler, "adapler", given, root / "adapler")
        found["joint"] = run(train_adapler, "joint", given, root / "joint")
        given = {"data": inputs["data"], "pruned": root / "adapler/model"}
        found["both"] = run(train_adapler_exits, "both", given, root / "both")
    return found


def test_the_scores_are_of_every_training_row_and_say_what_they_were_made_from(inputs, made):
    stage = made["scores"]
    scores = Scores.load(stage.out / SCORES_FILE)
    assert scores.kind == "saliency"
    assert sorted(scores.ids) == sorted(example.id for example in make_rows(32, 0))
    assert scores.origin.made_from == {name: digest_path(inputs[name]) for name in ("data", "full")}
    metrics = stage.record.metrics
    assert (metrics["rows"], metrics["tokens"]) == (32, len(scores.values))
    assert metrics["mean_score"] == pytest.approx(scores.values.mean())
    assert metrics["mean_largest_share"] >= metrics["mean_uniform_share"] > 0


def test_the_means_of_scores_are_over_rows_and_leave_rows_of_zeros_out(made):
    origin = Scores.load(made["scores"].out / SCORES_FILE).origin
    rows = [np.array(row, np.float32) for row in ([1, 3], [2, 1, 1], [0, 0])]
    assert Scores.join("saliency", [4, 5, 6], rows, origin).summary() == pytest.approx(
        {
            "rows": 3,
            "tokens": 7,
            "rows_of_zeros": 1,
            "mean_score": 8 / 7,
            "mean_first_token_share": (1 / 4 + 2 / 4) / 2,
            "mean_largest_share": (3 / 4 + 2 / 4) / 2,
            "mean_uniform_share": (1 / 2 + 1 / 3) / 2,
        }
    )
    assert Scores.join("saliency", [], [], origin).summary()["mean_score"] is None


def test_the_model_that_is_trained_on_them_removes_tokens_and_has_one_exit(made):
    stage = made["adapler"]
    model = load_model(stage.out / "model")
    assert model.reduction is not None
    assert list(model.exits) == stage.record.exits == [4]
    assert (stage.record.builds_on_full, stage.record.built_on) == (True, "")
    assert stage.record.inputs["saliencies"] == made["scores"].record.scores


def test_exits_and_removal_are_trained_together_on_the_same_scores(made):
    stage = made["joint"]
    model = load_model(stage.out / "model")
    assert model.reduction is not None
    assert list(model.exits) == stage.record.exits == [1, 2, 4]
    assert stage.record.inputs["saliencies"] == made["scores"].record.scores


def test_saliencies_are_the_mean_over_the_best_epochs_that_full_keeps(inputs, made, tmp_path, monkeypatch):
    monkeypatch.setenv("ADAPTIVE_INFERENCE_TRACKING", "off")
    first = load_model(inputs["full"])
    second = make_model(exits=(4,))
    second.heads[-1].classifier.weight.data *= 3
    first.save_pretrained(tmp_path / "full")
    for epoch, model in enumerate((first, second), start=1):
        save_weights(model, tmp_path / "full" / EPOCHS / epoch_file(epoch))
    stage = run(extract_saliencies, "saliency", inputs | {"full": tmp_path / "full"}, tmp_path / "out")
    one, mean = (Scores.load(item.out / SCORES_FILE).values for item in (made["scores"], stage))
    np.testing.assert_allclose(mean, 2 * one, rtol=1e-5)  # a saliency scales with the classifier


def test_exits_are_trained_on_a_body_that_stays_as_it_is(made):
    stage = made["both"]
    body, model = (weights_of(load_model(made[name].out / "model")) for name in ("adapler", "both"))
    kept = [name for name in body if not name.startswith("heads")]
    assert any(name.startswith("reduction") for name in kept)
    assert same_bits(*({name: found[name] for name in kept} for found in (body, model)))
    assert stage.record.exits == [1, 2, 4]
    assert stage.record.built_on == stage.record.params["pruned_body"] == "adapler"
    assert stage.record.inputs["pruned"] == digest_path(made["adapler"].out / "model")


def test_mlflow_shows_the_body_and_the_settings_of_removal(made):
    trained = [made[name].record for name in ("adapler", "both")]
    adapler, both = (run_params(record, Background(record)) for record in trained)
    assert both["pruned_body"] == "adapler"
    assert "pruned_body" not in adapler
    assert adapler["train.removal.phi"] == "0.0005"


def test_a_stage_beside_the_seeds_finds_the_training_that_it_stands_on(made, tmp_path):
    record = made["adapler"].record
    record.save(tmp_path / "words/tiny/seed0/adapler/train")
    explained = Record(stage="score_rationales", cell=record.cell, params={}, inputs={}, code="")
    found = training_beside(tmp_path / "words/tiny/rationales/seed0/adapler", explained)
    assert found is not None
    assert found.record_id == record.record_id
    scores = made["scores"].record
    assert training_beside(tmp_path / "words/tiny/token_scores/seed0/saliency", scores) is None


def test_scores_of_another_model_are_refused(inputs, made, tmp_path):
    other = make_model(exits=(4,))
    other.heads[0].classifier.bias.data += 0.01
    other.save_pretrained(tmp_path / "other")
    given = inputs | {"full": tmp_path / "other", "saliencies": made["scores"].out / SCORES_FILE}
    with pytest.raises(UserError, match=r"the token scores were made with full .* but this run has full"):
        run(train_adapler, "adapler", given, tmp_path / "out")


def test_scores_of_other_rows_are_refused(inputs, made, tmp_path):
    SCHEMA.save(tmp_path / "splits")
    for name, count, seed in (("train", 40, 0), ("development", 12, 1)):
        save_split(tmp_path / "splits", name, make_rows(count, seed))
    given = inputs | {"data": tmp_path / "splits", "saliencies": made["scores"].out / SCORES_FILE}
    with pytest.raises(UserError, match=r"made with data .* but this run has data"):
        run(train_adapler, "adapler", given, tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda scores: Scores("attention", *scores), "of kind 'attention'.*learn from 'saliency'"),
        (lambda scores: Scores("saliency", scores[0][:-1], scores[1][:-1], scores[2][: scores[1][-2]], scores[3]),
         "1 of 32 examples have no token scores"),
    ],
)  # fmt: skip
def test_scores_of_another_kind_or_of_fewer_rows_are_refused(inputs, made, tmp_path, change, says):
    found = Scores.load(made["scores"].out / SCORES_FILE)
    change((found.ids, found.offsets, found.values, found.origin)).save(tmp_path / SCORES_FILE)
    with pytest.raises(UserError, match=says):
        run(train_adapler, "adapler", inputs | {"saliencies": tmp_path / SCORES_FILE}, tmp_path / "out")


def test_a_training_without_scores_says_what_it_needs(inputs, made, tmp_path):
    with pytest.raises(UserError, match="needs the saliency of every token"):
        run(train_adapler, "adapler", inputs, tmp_path / "out")


def test_nothing_of_a_method_is_asked_by_the_stage_that_makes_saliencies(inputs, made, tmp_path, monkeypatch):
    monkeypatch.setenv("ADAPTIVE_INFERENCE_TRACKING", "off")
    train = BODY["methods"]["adapler"]["train"] | {"removal": {"phi": 0.1, "gamma": 1.0}}
    body = BODY | {"methods": BODY["methods"] | {"adapler": {"train": train, "rules": ["fixed"]}}}
    again = run(extract_saliencies, "saliency", inputs, tmp_path, body)
    before = made["scores"].record
    assert (again.record.params, again.record.inputs) == (before.params, before.inputs)
    assert digest_path(tmp_path / SCORES_FILE) == before.scores
    keys = str(STAGES["extract_saliencies"]["params"])
    assert "methods" not in keys
    assert "token_scores" not in keys


def runs_of(made, **changes):
    """Return the records as a run has them, some of them changed."""
    records = {name: stage.record for name, stage in made.items()} | changes
    params = parse_params(BODY)
    full = made["adapler"].record.model_copy(
        update={
            "stage": "finetune_backbone",
            "cell": Cell("words", "tiny", 0),
            "params": params.echo(["methods.full.train"]),
            "inputs": {"data": made["adapler"].record.inputs["data"]},
        }
    )
    data = full.model_copy(update={"stage": "prepare_data", "params": params.echo(["tasks.words"])})
    found = [Finished(record) for record in (data, full, *records.values())]
    return Runs(ROOT, {item.key: item for item in found}), params


def test_a_training_stands_on_the_saliencies_and_the_body_that_it_was_made_from(made):
    runs, params = runs_of(made)
    cell = Cell("words", "tiny", 0, "both")
    assert [(stage, of.method) for stage, of in chain("train", cell, params)] == [
        ("prepare_data", ""),
        ("train", "full"),
        ("extract_saliencies", "saliency"),
        ("train", "adapler"),
        ("train", "both"),
    ]
    assert why_unusable("train", cell, runs, params) == ""
    other = made["scores"].record.model_copy(update={"scores": "0" * 64})
    runs, params = runs_of(made, scores=other)
    assert "train_adapler read another saliencies" in why_unusable("train", cell, runs, params)
    calibrated = made["both"].record.model_copy(
        update={
            "stage": "calibrate_thresholds",
            "cell": Cell("words", "tiny", 0, "adapler"),
            "inputs": {"model": "0" * 64},
        }
    )
    runs, params = runs_of(made, calibrated=calibrated)
    assert why_unusable("train", cell, runs, params) == (
        "train_adapler_exits built on another model of adapler than was calibrated; run it again"
    )


def test_records_of_scores_belong_to_a_run_that_asks_for_their_kind():
    params = parse_params(SMOKE)
    seed, method = (Cell("tiers", "tiny", 0, name) for name in ("saliency", "adapler"))
    assert asked_for("extract_saliencies", seed, params)
    assert not asked_for("train", seed, params)
    assert asked_for("score_rationales", method, params)
    without = parse_params(without_removal())
    assert not asked_for("extract_saliencies", seed, without)
    assert not asked_for("score_rationales", Cell("tiers", "tiny", 0, "full"), without)


ADAPLER = {"objective": "adapler"}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"token_scores": []}, r"\['adapler'\] learn from saliencies; add saliency to `token_scores`"),
        ({"token_scores": ["attention"]}, r"add saliency to `token_scores` \(given: \['attention'\]\)"),
        ({"token_scores": ["saliency", "saliency"]}, "repeat"),
        ({"token_scores": ["salience"]}, "token_scores.0: .*'saliency', 'integrated_gradients'"),
        ({"pruned_body": ""}, "put exits on a model that removes tokens; name it in `pruned_body`.*: adapler"),
        ({"pruned_body": "adaplr"}, "no method of trained_by.train_adapler; allowed: adapler.*did you mean 'adapler'"),
        ({"pruned_body": "sweet"}, "pruned_body 'sweet' is no method of trained_by.train_adapler"),
        ({"explanations": {"methods": ["sweet"]}}, "'sweet' neither is `full` nor removes tokens; allowed: full, adapler"),
        ({"explanations": {"methods": ["full", "full"]}}, "repeat"),
        ({"explanations": {"rows": 0}}, "explanations.rows.*greater than or equal to 1"),
        ({"methods.adapler.train": {}}, "stage train_adapler trains adapler and adapler_joint, not objective: joint"),
        ({"methods.sweet.train": ADAPLER}, "not objective: adapler; list the method under trained_by.train_adapler"),
        ({"methods.leebert.train": ADAPLER}, "not objective: adapler; list the method under trained_by.train_adapler"),
        ({"methods.adapler_early_exit.train": {}}, "stage train_adapler_exits trains frozen, not objective: joint"),
        ({"methods.adapler_early_exit.train": {"objective": "own_code/mine.py"}},
         "stage train_adapler_exits trains frozen, not objective: own_code/mine.py"),
        ({"trained_by.train_adaplr": []}, "unknown key 'trained_by.train_adaplr'.*did you mean 'train_adapler'"),
    ],
)  # fmt: skip
def test_what_a_method_that_removes_tokens_lacks_is_told_before_any_training(changes, says):
    ((path, value),) = changes.items()
    with pytest.raises(UserError, match=says):
        parse_params(changed(path, value))


def test_an_encoder_whose_rows_cannot_lose_tokens_by_themselves_is_refused_before_any_training():
    with pytest.raises(
        UserError, match=r"methods.adapler on backbones.tiny: .* removes tokens from each row"
    ):
        check_encoders(parse_params(changed("backbones.tiny.weights", "random:deberta-v2")))


def test_what_learns_from_saliencies_cannot_be_searched_by_folds():
    params = parse_params(SMOKE)
    for name in ("adapler", "adapler_early_exit"):
        with pytest.raises(UserError, match="trained on the rows that a fold holds out"):
            check_method(params, name, "classification")


def test_the_kinds_that_params_may_name_are_those_that_there_are():
    assert KINDS == ("saliency", "integrated_gradients", "attention", "attention_rollout")
    assert parse_params(changed("token_scores", list(KINDS))).token_scores == list(KINDS)
