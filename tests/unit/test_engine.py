import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptive_inference.backbones.base import Backbone as EncoderBackbone
from adaptive_inference.engine import Engine
from adaptive_inference.errors import UserError
from adaptive_inference.exit_rules import load_rule
from adaptive_inference.exits import MultiModel, build_model
from adaptive_inference.settings.inputs import Backbone
from adaptive_inference.tasks.schema import Schema

SCHEMA = Schema("tiny", "classification", ("a", "b", "c"), "accuracy", 32)
EXITS = (1, 2, 4)
CALIBRATION = {
    "temperatures": [1.3, 0.8, 2.0],
    "certainty_min": [0.45, 0.4, 0.3],
    "certainty_max": [0.55, 0.6, 0.7],
}


def build(exits=EXITS, certainty=False, weights="random:bert"):
    section = Backbone(weights=weights, exits=list(exits))
    model = build_model(section, SCHEMA, 0, certainty=certainty).eval()
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():  # untrained heads are all but undecided: make scores differ from row to row
        for head, layer in zip(model.heads, exits, strict=True):
            head.classifier.weight.normal_(0, 0.4 + 0.1 * layer, generator=generator)
        for head in model.certainty_heads or []:
            head.weight.normal_(0, 0.1, generator=generator)
    return model


def cascade():
    return MultiModel([build([layer]) for layer in EXITS])


def rows(count=24, seed=3):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 14, (count,), generator=generator).tolist()
    return [{"input_ids": torch.randint(5, 60, (1, length), generator=generator)} for length in lengths]


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def model():
    return build(certainty=True)


def all_exits(model, data):
    with torch.inference_mode():
        outs = [model(**row) for row in data]
    logits = (
        torch.cat([out.logits for out in outs]).numpy() / np.asarray(CALIBRATION["temperatures"])[:, None]
    )
    if outs[0].certainty is None:
        return logits, None
    low, high = np.asarray(CALIBRATION["certainty_min"]), np.asarray(CALIBRATION["certainty_max"])
    certainty = torch.cat([out.certainty for out in outs]).numpy()
    return logits, np.clip((certainty - low) / (high - low), 0, 1)


def count_layers(model):
    """Count every run of a layer in a list of one number."""
    calls = [0]

    def counted(run_layer):
        def run(*given):
            calls[0] += 1
            return run_layer(*given)

        return run

    for module in model.modules():
        if isinstance(module, EncoderBackbone):
            module.run_layer = counted(module.run_layer)
    return calls


@pytest.mark.parametrize("make", [build, cascade], ids=["multi_exit", "multi_model"])
@pytest.mark.parametrize("rule", ["confidence", "entropy", "margin", "uncertainty", "fixed"])
def test_the_engine_leaves_where_the_offline_sweep_says_for_every_threshold(make, rule):
    """Property 13 of sweet.md at model level."""
    model, data = make(), rows()
    logits, certainty = all_exits(model, data)
    definition = load_rule(rule)
    thresholds = definition.grid(3, 9, len(EXITS))
    offline = definition.exit_indices(logits, certainty, None, thresholds)
    assert len(np.unique(offline)) == 3, "every exit must be taken somewhere"
    for threshold, expected in zip(thresholds, offline, strict=True):
        engine = Engine(model, rule, float(threshold), CALIBRATION)
        near = definition.near_threshold(logits, certainty, float(threshold))
        assert near.sum() <= 1, "a row within rounding of the threshold may differ, and is rare"
        for row, features in enumerate(data):
            decision = engine.run(features)
            if near[row]:
                continue
            assert decision.exit_indices.tolist() == [expected[row]]
            assert decision.exit_layers.tolist() == [EXITS[expected[row]]]
            answer = logits[row, expected[row]] * CALIBRATION["temperatures"][expected[row]]
            np.testing.assert_allclose(decision.logits[0], answer, atol=1e-5 * np.abs(answer).max())


def test_certainty_heads_decide_for_learning_to_exit(model):
    data = rows()
    logits, certainty = all_exits(model, data)
    rule = load_rule("learning_to_exit")
    expected = rule.exit_indices(logits, certainty, None, np.array([0.5]))[0]
    engine = Engine(model, rule, 0.5, CALIBRATION)
    assert [engine.run(row).exit_indices.item() for row in data] == expected.tolist()
    assert len(set(expected)) > 1


@pytest.mark.parametrize("weights", ["random:bert", "random:deberta-v2", "random:albert", "random:mpnet"])
@settings(max_examples=8, deadline=None)
@given(threshold=st.floats(0.3, 1.05), seed=st.integers(0, 1000))
def test_layers_run_are_exactly_those_below_the_exit(weights, threshold, seed):
    """Property 15 of sweet.md."""
    model = _cached(weights)
    calls = model.calls
    calls[0] = 0
    engine = Engine(model, "confidence", threshold)
    layers = [engine.run(row).exit_layers.item() for row in rows(6, seed)]
    assert calls[0] == sum(layers)


_MODELS: dict = {}


def _cached(weights):
    if weights not in _MODELS:
        model = build(weights=weights)
        model.calls = count_layers(model)
        _MODELS[weights] = model
    return _MODELS[weights]


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.7, 0.9, 1.01])
def test_a_multi_model_runs_the_members_up_to_the_one_that_answers(threshold):
    """Property 15 of sweet.md, and the cost of property 16."""
    model = cascade()
    calls = count_layers(model)
    engine = Engine(model, "confidence", threshold)
    decisions = [engine.run(row) for row in rows()]
    assert calls[0] == sum(model.layers_cost[decision.exit_indices.item()] for decision in decisions)


def test_a_threshold_of_one_over_the_classes_leaves_at_the_first_exit_and_above_one_at_the_last():
    """Property 12 of sweet.md at model level."""
    model = build()
    assert {Engine(model, "confidence", 1 / 3).run(row).exit_layers.item() for row in rows()} == {1}
    assert {Engine(model, "confidence", 1.01).run(row).exit_layers.item() for row in rows()} == {4}
    means = [
        np.mean([Engine(model, "confidence", t).run(r).exit_layers.item() for r in rows()])
        for t in (0.4, 0.6, 0.8, 0.9)
    ]
    assert means == sorted(means)


def test_a_tie_at_the_threshold_leaves():
    model = build()
    with torch.no_grad():
        for head in model.heads:
            head.classifier.weight.zero_()
            head.classifier.bias.zero_()
    assert Engine(model, "confidence", 1 / 3).run(rows(1)[0]).exit_indices == [0]


def test_padding_changes_neither_exit_nor_answer():
    engine = Engine(build(), "confidence", 0.7)
    for row in rows(12):
        ids = row["input_ids"]
        padded = {
            "input_ids": torch.cat([ids, torch.zeros(1, 4, dtype=torch.long)], dim=1),
            "attention_mask": torch.cat([torch.ones_like(ids), torch.zeros(1, 4, dtype=torch.long)], dim=1),
        }
        bare, masked = engine.run(row), engine.run(padded)
        assert bare.exit_indices == masked.exit_indices
        np.testing.assert_allclose(bare.logits, masked.logits, rtol=0, atol=1e-5 * np.abs(bare.logits).max())


def test_an_unpadded_row_makes_no_mask(monkeypatch):
    import adaptive_inference.backbones.base as base

    monkeypatch.setattr(base, "create_bidirectional_mask", lambda **_: pytest.fail("mask work"))
    ids = rows(1)[0]["input_ids"]
    Engine(build(), "fixed").run({"input_ids": ids, "attention_mask": torch.ones_like(ids)})


def test_labels_and_other_keys_are_not_needed_and_not_read():
    row = rows(1)[0]
    Engine(build(), "fixed", 0).run(row | {"labels": "anything", "length": 3})


def test_certainty_heads_are_left_out_when_the_rule_does_not_read_them(model):
    called = []
    handle = model.certainty_heads[0].register_forward_hook(lambda *_: called.append(1))
    Engine(model, "confidence", 1.01).run(rows(1)[0])
    assert not called
    Engine(model, "learning_to_exit", 0.5).run(rows(1)[0])
    handle.remove()
    assert called


def test_the_engine_puts_the_model_into_eval_mode_and_keeps_no_graph():
    model = build().train()
    decision = Engine(model, "fixed").run(rows(1)[0])
    assert not model.training
    assert isinstance(decision.logits, np.ndarray)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nonsense",), "no exit rule 'nonsense'"),
        (("confidance", 0.5), "did you mean 'confidence'"),
        (("oracle",), "needs the true labels"),
        (("confidence",), "needs a threshold"),
        (("learning_to_exit", 0.5), "certainty heads"),
        (("confidence", float("nan")), "not a number"),
        (("confidence", 0.5, {"temperatures": [1.0]}), "calibration is of 1 exits, the model has 3"),
    ],
)
def test_a_rule_that_cannot_work_is_refused_before_any_row(arguments, message):
    with pytest.raises(UserError, match=message):
        Engine(build(), *arguments)
