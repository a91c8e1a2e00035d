"""Who is told what a row kept on its way: outputs, their files, yardsticks, engines and predictions."""

import csv
import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_reduction import SCHEMA, model_of

from adaptive_inference.calibration.answers import Answers
from adaptive_inference.calibration.calibrator import Calibrator
from adaptive_inference.cli.answers import writer
from adaptive_inference.cost.flops import certainty_flops, flops_by_exit
from adaptive_inference.cost.yardstick import Yardstick
from adaptive_inference.engine import Engine
from adaptive_inference.evaluation.candidate import Candidate
from adaptive_inference.evaluation.points import check_agreement
from adaptive_inference.evaluation.wallclock import WallClock
from adaptive_inference.exit_rules import load_rule
from adaptive_inference.exits import MultiModel, build_model
from adaptive_inference.exits.outputs import collect_outputs
from adaptive_inference.serving.predictor import Predictor
from adaptive_inference.serving.recalibrate import _yardstick
from adaptive_inference.settings.inputs import Backbone
from adaptive_inference.settings.protocol import Evaluation
from adaptive_inference.tasks.encode import collate

EXITS = (1, 2, 4)


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    torch.set_num_threads(1)


def features_of(count=24, longest=20):
    draw = np.random.default_rng(0)
    lengths = draw.integers(2, longest, count)
    return [
        {
            "id": place,
            "label": place % 3,
            "length": int(n),
            "input_ids": draw.integers(5, 60, n).tolist(),
            "attention_mask": [1] * int(n),
        }
        for place, n in enumerate(lengths)
    ]


def alone(model, feature):
    """Return what each layer of a row by itself ran on."""
    with torch.inference_mode():
        return model(torch.tensor([feature["input_ids"]])).survivors[0].tolist()


@pytest.mark.parametrize("family", ["bert", "albert", "mpnet"])
def test_outputs_hold_what_each_row_keeps_by_itself(family):
    model, features = model_of(family), features_of()
    outputs = collect_outputs(model, features, 7)
    assert outputs.survivors.dtype == np.int64
    assert outputs.survivors.tolist() == [alone(model, feature) for feature in features]
    assert (outputs.survivors[:, -1] < outputs.lengths).sum() > 12
    assert outputs.take(np.array([3, 1])).survivors.tolist() == outputs.survivors[[3, 1]].tolist()


def test_a_model_that_removes_nothing_has_no_survivors():
    assert collect_outputs(model_of(reduces=False), features_of(3), 2).survivors is None


def test_files_of_answers_keep_the_survivors_and_those_without_are_as_they_were(tmp_path):
    full, model = model_of(exits=(4,), reduces=False), model_of()
    outputs = collect_outputs(model, features_of(), 8)
    made = Answers(outputs, Yardstick.of(SCHEMA, full, model, outputs))
    made.save(tmp_path / "reduced")
    back = Answers.load(tmp_path / "reduced")
    np.testing.assert_array_equal(back.outputs.survivors, outputs.survivors)
    np.testing.assert_array_equal(back.yardstick.flops, made.yardstick.flops)
    replace(made, outputs=replace(outputs, survivors=None)).save(tmp_path / "plain")
    assert Answers.load(tmp_path / "plain").outputs.survivors is None
    assert b"survivors" not in (tmp_path / "plain").read_bytes()


def test_the_yardstick_is_the_full_model_without_removal_and_each_rows_own_cost_with_it():
    full, model = model_of(exits=(4,), reduces=False), model_of()
    outputs = collect_outputs(model, features_of(), 8)
    yardstick = Yardstick.of(SCHEMA, full, model, outputs)
    np.testing.assert_array_equal(yardstick.full_flops, flops_by_exit(full, outputs.lengths)[:, 0])
    np.testing.assert_array_equal(yardstick.flops, flops_by_exit(model, outputs.lengths, outputs.survivors))


def test_calibrated_again_a_model_is_measured_against_itself_without_removal():
    outputs = collect_outputs(model_of(), features_of(), 8)
    yardstick = _yardstick(model_of(), outputs)
    plain = flops_by_exit(model_of(reduces=False), outputs.lengths)[:, -1]
    np.testing.assert_array_equal(yardstick.full_flops, plain)
    assert yardstick.flops[:, -1].sum() < plain.sum()


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("rule", ["confidence", "entropy", "patience", "voting", "fixed"])
@pytest.mark.parametrize("family", ["bert", "mpnet"])
def test_decisions_of_a_batch_hold_what_each_row_keeps_by_itself_up_to_its_exit(family, rule, lazy):
    model, features, left = model_of(family), features_of(), set()
    whole = np.array([alone(model, feature) for feature in features])
    costs = flops_by_exit(model, np.array([feature["length"] for feature in features]), whole)
    for threshold in load_rule(rule).grid(3, 4, len(EXITS)):
        engine = Engine(model, rule, float(threshold), lazy=lazy)
        batch, single = (
            [engine.run(collate(features[start : start + size], 0)) for start in range(0, 24, size)]
            for size in (24, 1)
        )
        for decisions in (batch, single):
            layers, survivors = (
                np.concatenate([getattr(item, name) for item in decisions])
                for name in ("exit_layers", "survivors")
            )
            run = np.arange(1, EXITS[-1] + 1) <= layers[:, None]
            np.testing.assert_array_equal(survivors, np.where(run, whole, 0))
            exits = np.concatenate([item.exit_indices for item in decisions])
            lengths, rows = np.array([feature["length"] for feature in features]), np.arange(24)
            np.testing.assert_array_equal(
                flops_by_exit(model, lengths, survivors)[rows, exits], costs[rows, exits]
            )
        left |= set(batch[0].exit_layers.tolist())
    assert len(left) > 1


@pytest.mark.parametrize("cascade", [False, True])
def test_decisions_of_a_model_that_removes_nothing_have_no_survivors(cascade):
    model = model_of(reduces=False)
    if cascade:
        model = MultiModel([model_of(exits=(layer,), reduces=False) for layer in EXITS])
    assert Engine(model, "confidence", 0.5).run(collate(features_of(), 0)).survivors is None


def test_a_row_that_rounding_moved_may_leave_elsewhere_and_more_than_a_few_are_a_defect():
    model, rule = model_of(), load_rule("confidence")
    outputs = collect_outputs(model, features_of(), 8)
    exits = rule.exit_indices(outputs.logits, None, None, np.array([0.5]))[0]
    answers = outputs.logits[np.arange(24), exits].argmax(-1)

    def differing(exits, survivors):
        return check_agreement(rule, 0.5, outputs, exits, answers, survivors=survivors)["differing"]

    assert differing(exits, outputs.survivors) == 0
    survivors, moved = outputs.survivors.copy(), exits.copy()
    moved[5] = (exits[5] + 1) % 3
    with pytest.raises(RuntimeError, match=r"left elsewhere .* \[5\]"):
        differing(moved, survivors)
    survivors[5, 0] += 1
    assert differing(moved, survivors) == 1
    survivors[7, 0] += 1
    with pytest.raises(RuntimeError, match=r"other tokens .* 2 of 24 rows.*\[5, 7\]"):
        differing(exits, survivors)
    left = np.where(np.arange(1, 5) <= np.array(EXITS)[exits][:, None], outputs.survivors, 0)
    assert differing(exits, left) == 0  # layers that were not run tell nothing


def test_timed_engines_of_a_model_that_removes_tokens_agree_with_its_outputs():
    model, full, features = model_of(), model_of(exits=(4,), reduces=False), features_of()
    outputs, calibrator = collect_outputs(model, features, 8), Calibrator.identity(3)
    yardstick = Yardstick.of(SCHEMA, full, model, outputs)
    protocol = Evaluation(timed_examples=24, repeats=1, warmup=0, bootstrap=1)
    clock = WallClock(Engine(full, "fixed"), features, protocol, 0)
    candidate = Candidate("adapler", model, outputs, calibrator, yardstick)
    ((_, agreement),) = clock.measure([(Engine(model, "confidence", 0.5), candidate)])
    assert agreement["differing"] == 0
    changed = replace(candidate, outputs=replace(outputs, survivors=outputs.survivors + 1))
    with pytest.raises(RuntimeError, match="kept other tokens"):
        clock.measure([(Engine(model, "confidence", 0.5), changed)])


TEXTS = ["a good film", "the plot was awful , but the music is lovely", "no", "very slow and very dull music"]


def encoded(model, text):
    return np.array(model.tokenizer(text)["input_ids"])


@pytest.mark.parametrize("rule", ["fixed", "confidence"])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_predictions_say_what_each_text_kept_and_cost(rule, batch_size):
    model = model_of()
    found = Predictor(model, rule, None if rule == "fixed" else 0.8).predict(TEXTS, batch_size)
    for text, layer, survivors, flops in zip(
        TEXTS, found.exit_layers, found.survivors, found.flops, strict=True
    ):
        ids = encoded(model, text)
        kept = np.array(alone(model, {"input_ids": ids.tolist()}))
        costs = flops_by_exit(model, np.array([len(ids)]), kept[None])[0]
        assert survivors == kept[:layer].tolist()
        assert flops == costs[EXITS.index(layer)]
    assert len(set(found.exit_layers.tolist())) > (rule == "confidence")


def test_predictions_without_removal_cost_their_length_and_what_their_rule_reads():
    model = model_of(reduces=False)
    found = Predictor(model, "fixed", 1.0).predict(TEXTS)
    lengths = np.array([len(encoded(model, text)) for text in TEXTS])
    assert found.survivors is None
    np.testing.assert_array_equal(found.flops, flops_by_exit(model, lengths)[:, 1])
    section = Backbone(weights="random:bert", exits=list(EXITS))
    sure = build_model(section, SCHEMA, 0, certainty=True).eval()
    found = Predictor(sure, "learning_to_exit", 0.0).predict(TEXTS)
    layers = [EXITS.index(layer) for layer in found.exit_layers]
    costs = flops_by_exit(sure, lengths) + certainty_flops(sure)
    np.testing.assert_array_equal(found.flops, costs[np.arange(len(TEXTS)), layers])


def test_no_texts_have_no_survivors_and_no_cost():
    found = Predictor(model_of()).predict([])
    assert (found.survivors, found.flops.tolist()) == ([], [])


@pytest.mark.parametrize("form", ["jsonl", "csv", "tsv"])
def test_written_answers_hold_survivors_and_flops(form):
    answer, out = Predictor(model_of()).answer(TEXTS[1]), io.StringIO()
    writer(form, SCHEMA, out)(1, answer)
    text = out.getvalue()
    if form == "jsonl":
        told = json.loads(text)
        assert (told["flops"], told["survivors"]) == (answer.flops, answer.survivors)
        return
    (told,) = csv.DictReader(io.StringIO(text), delimiter="," if form == "csv" else "\t")
    assert told["flops"] == str(answer.flops)
    assert told["survivors"] == " ".join(map(str, answer.survivors))
    assert len(answer.survivors) == 4
