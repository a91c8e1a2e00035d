"""What rows cost that lose tokens on the way: the note's constants, and what torch counts while they really lose them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModel, BertConfig, BertModel

from adaptive_inference.backbones._tiny import tiny_config
from adaptive_inference.backbones.load import adapter
from adaptive_inference.cost import flops as cost
from adaptive_inference.cost.flops import FlopCount, certainty_flops, flops_by_exit
from adaptive_inference.errors import UserError
from adaptive_inference.exits import MultiExitModel, MultiModel, build_model
from adaptive_inference.exits.build import add_exits
from adaptive_inference.exits.head import ExitHead
from adaptive_inference.settings.inputs import Backbone
from adaptive_inference.tasks.schema import Schema
from adaptive_inference.token_reduction.reduction import TokenReduction

SCHEMA = Schema("tiny", "classification", ("a", "b", "c"), "accuracy", 32)
EXITS = (1, 2, 4)
KINDS = [
    (family, read, inner)
    for family in ("bert", "albert", "distilbert", "roberta", "mpnet")
    for read, inner in (("first", "as_backbone"), ("mean", "attention"))
]


def build(family="bert", read="first", inner="as_backbone", reduces=True, certainty=False):
    section = Backbone(weights=f"random:{family}", exits=list(EXITS), read=read)
    model = build_model(section, SCHEMA, 0, certainty=certainty, inner_head=inner, reduces=reduces).eval()
    if reduces:
        with torch.no_grad():
            for predictor in model.reduction.predictors:  # scores far from uniform
                predictor.outer.weight.mul_(200)
            model.reduction.eta.copy_(torch.tensor([0.5, 0.7, 0.6, 0.8]))
    for module in model.modules():  # fused attention is not counted
        if hasattr(module, "config"):
            module.config._attn_implementation = "eager"
    return model


@pytest.fixture(scope="module")
def base():
    """BERT-base with two classes, one exit and predictors, without weights."""
    with torch.device("meta"):
        backbone = adapter("bert")(BertModel(BertConfig()))
        head = ExitHead(768, 2, "per_exit", "first", backbone.head_recipe)
        return MultiExitModel(backbone, [12], [head], reduction=TokenReduction(12, 768))


@pytest.fixture(scope="module")
def counted(base):
    return FlopCount(base)


def formula(length, survivors):
    """Matrix products of BERT-base by the note's section 3: predictors at the length before, layers at what is left."""
    before = [length, *survivors[:-1]]
    layers = sum(14_155_776 * n + 3_072 * n**2 for n in survivors)
    return layers + sum(49_216 * n for n in before) + 1_179_648 + 1_536 * 2


def test_bert_base_costs_what_the_note_says(base, counted):
    plain = MultiExitModel(base.backbone, [12], list(base.heads))
    assert flops_by_exit(plain, np.array([64, 128])).tolist() == [[11_023_813_632], [22_348_434_432]]
    whole = counted.by_exit(np.array([128]), np.full((1, 12), 128))
    assert whole.tolist() == [[22_348_434_432 + 75_595_776]]
    assert 22_348_434_432 / whole.item() == pytest.approx(0.9966, abs=5e-5)  # nothing dropped is no speed-up


@settings(deadline=None, max_examples=30)
@given(length=st.integers(1, 511), data=st.data())
def test_a_run_costs_the_formula_at_its_own_lengths_and_more_with_each_token(counted, length, data):
    drawn = data.draw(st.lists(st.integers(1, length), min_size=12, max_size=12))
    survivors = sorted(drawn, reverse=True)
    found = counted.by_exit(np.array([length]), np.array([survivors])).item()
    assert found == formula(length, survivors)
    survivors[data.draw(st.integers(0, 11))] += 1
    assert counted.by_exit(np.array([length]), np.array([survivors])).item() > found


@pytest.mark.parametrize("kind", KINDS)
def test_rows_cost_what_torch_counts_while_they_lose_their_tokens(kind):
    model, draw = build(*kind), np.random.default_rng(0)
    lengths, survivors, seen = draw.integers(1, 30, 8), [], []
    for length in lengths:
        ids = torch.from_numpy(draw.integers(5, 60, (1, length)))
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            forward = model.start({"input_ids": ids})
            seen.append([(forward.reach(k), counter.get_total_flops())[1] for k in range(len(EXITS))])
        survivors.append(np.concatenate(forward.survivors))
    survivors = np.stack(survivors)
    assert (survivors[:, -1] < lengths).any()
    assert flops_by_exit(model, lengths, survivors).tolist() == seen
    for row, length in enumerate(lengths):
        alone = flops_by_exit(model, np.array([length]), survivors[[row]])
        assert alone.tolist() == [seen[row]]


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_dropped_costs_the_predictors_on_top(kind):
    lengths = np.array([1, 4, 9, 30])
    more = flops_by_exit(build(*kind), lengths, np.tile(lengths[:, None], 4)) - flops_by_exit(
        build(*kind, reduces=False), lengths
    )
    np.testing.assert_array_equal(more, 2 * 32 * (32 + 1) * lengths[:, None] * np.array(EXITS))


def test_exits_before_a_layer_that_was_not_run_do_not_notice():
    model, lengths = build(), np.array([9, 9])
    whole, left = [7, 5, 3, 2], [7, 5, 0, 0]
    found = flops_by_exit(model, lengths, np.array([whole, left]))
    assert found[0, :2].tolist() == found[1, :2].tolist()


def test_certainty_heads_cost_the_same_with_and_without_removal():
    sure = [certainty_flops(build(certainty=True, reduces=reduces)).tolist() for reduces in (True, False)]
    assert sure == [[64, 128, 192]] * 2


def test_a_length_is_counted_once(monkeypatch):
    asked, count = [], cost._count_steps
    monkeypatch.setattr(
        cost, "_count_steps", lambda member, n, *more: (asked.append(n), count(member, n, *more))[1]
    )
    counter = FlopCount(build())
    first = counter.by_exit(np.array([9]), np.array([[7, 5, 5, 2]]))
    again = counter.by_exit(np.array([9, 5]), np.array([[7, 5, 5, 2], [5, 5, 2, 2]]))
    assert sorted(asked) == [2, 5, 7, 9]
    assert again[0].tolist() == first[0].tolist()


@pytest.mark.parametrize("certainty", [False, True])
def test_up_to_a_longest_length_six_counts_give_all_others(certainty, monkeypatch):
    model, asked, count = build(certainty=True), [], cost._count_steps
    lengths, survivors = np.array([30, 31, 17, 40]), np.array([[29, 9, 9, 4]] * 4)
    direct = FlopCount(model, certainty).by_exit(lengths, survivors)
    monkeypatch.setattr(
        cost, "_count_steps", lambda member, n, *more: (asked.append(n), count(member, n, *more))[1]
    )
    found = FlopCount(model, certainty, longest=32).by_exit(lengths, survivors)
    np.testing.assert_array_equal(found, direct)
    assert sorted(asked) == [1, 2, 3, 30, 31, 32, 40]


def test_up_to_a_longest_length_a_kink_is_counted_exactly():
    config = tiny_config("deberta", max_relative_positions=15)
    model = add_exits(adapter("deberta")(AutoModel.from_config(config)), (1, 2, 4), SCHEMA, 0)
    lengths = np.array([5, 14, 22])
    direct = flops_by_exit(model, lengths)
    np.testing.assert_array_equal(FlopCount(model, longest=28).by_exit(lengths), direct)


@pytest.mark.parametrize(
    ("reduces", "survivors"),
    [(True, None), (False, [[3, 3, 3, 3]]), (True, [[3, 3, 3]]), (True, [[3, 3, 3, 3]] * 2)],
)
def test_survivors_go_with_a_model_that_removes_and_with_all_its_rows_and_layers(reduces, survivors):
    given_survivors = None if survivors is None else np.array(survivors)
    with pytest.raises(ValueError, match="survivors"):
        flops_by_exit(build(reduces=reduces), np.array([4]), given_survivors)


def test_a_cascade_takes_no_member_that_removes_tokens():
    section = Backbone(weights="random:bert", exits=[2])
    with pytest.raises(UserError, match="removes tokens is not supported"):
        MultiModel([build_model(section, SCHEMA, 0, reduces=True)])
