"""Layers and FLOPs: formulas of the note, closed forms, and what forward hooks see."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModel

from adaptive_inference.backbones._tiny import tiny_config
from adaptive_inference.backbones.load import adapter
from adaptive_inference.cost import flops as cost
from adaptive_inference.cost.flops import flops_by_exit, flops_speedup, layers_speedup
from adaptive_inference.exits import MultiModel, build_model
from adaptive_inference.exits.build import add_exits
from adaptive_inference.settings.inputs import Backbone
from adaptive_inference.tasks.schema import Schema

SCHEMA = Schema("toy", "classification", ("a", "b", "c"), "accuracy", 64)
FAMILIES = ("bert", "roberta", "albert", "distilbert", "deberta", "deberta-v2", "mpnet")
LENGTHS = np.array([3, 9, 17, 9, 40, 25, 64])
WIDTH, INNER, CLASSES = 32, 64, 3


def tiny(
    family: str = "bert",
    exits: tuple[int, ...] = (1, 2, 4),
    certainty: bool = False,
    pooler: str = "per_exit",
):
    params = Backbone(weights=f"random:{family}", exits=list(exits), pooler=pooler)
    return build_model(params, SCHEMA, 0, certainty=certainty).eval()


def one_by_one(model, lengths):
    """Return the counts of each length by itself: nothing is interpolated."""
    return [flops_by_exit(model, np.array([n]))[0] for n in lengths]


def layer_flops(n: np.ndarray) -> np.ndarray:
    """Four projections, scores and mix, two feed-forward products; two FLOPs per multiply-add."""
    return 2 * (4 * n * WIDTH**2 + 2 * n**2 * WIDTH + 2 * n * WIDTH * INNER)


HEAD = 2 * (WIDTH**2 + WIDTH * CLASSES)


def test_layers_speedup_is_the_ratio_of_the_note():
    exits = np.array([1, 4, 6, 12])  # the README's 0, 3, 5, 11
    assert layers_speedup(12, exits) == pytest.approx(48 / 23)
    cascade = exits.cumsum()
    assert cascade.tolist() == [1, 5, 11, 23]
    assert layers_speedup(12, cascade) == pytest.approx(48 / 40)
    assert layers_speedup(12, np.full(7, 23)) == pytest.approx(12 / 23)
    np.testing.assert_allclose(layers_speedup(12, np.array([[12, 12], [6, 12]])), [1.0, 24 / 18])


def test_flops_speedup_is_the_ratio_of_the_sums_and_not_the_mean_of_ratios():
    assert flops_speedup(np.array([10, 1000]), np.array([1, 1000])) == pytest.approx(1010 / 1001)


def test_bert_flops_equal_the_closed_form_at_every_exit_and_length():
    expected = np.stack(
        [k * layer_flops(LENGTHS) + heads * HEAD for k, heads in ((1, 1), (2, 2), (4, 3))], axis=1
    )
    np.testing.assert_array_equal(flops_by_exit(tiny(), LENGTHS), expected)


@pytest.mark.parametrize(("pooler", "head"), [("none", 2 * WIDTH * CLASSES), ("shared", HEAD)])
def test_every_head_passed_is_counted(pooler, head):
    flops = flops_by_exit(tiny(pooler=pooler), np.array([10]))[0]
    layer = layer_flops(np.array(10))
    assert flops.tolist() == [layer + head, 2 * layer + 2 * head, 4 * layer + 3 * head]


def test_certainty_heads_cost_only_those_who_read_them():
    model = tiny(certainty=True)
    without = flops_by_exit(model, LENGTHS)
    assert cost.certainty_flops(model).tolist() == [2 * WIDTH, 4 * WIDTH, 6 * WIDTH]
    assert cost.certainty_flops(tiny()).tolist() == [0, 0, 0]
    with_them = cost.FlopCount(model, certainty=True).by_exit(LENGTHS)
    np.testing.assert_array_equal(
        with_them - without, np.tile([2 * WIDTH, 4 * WIDTH, 6 * WIDTH], (len(LENGTHS), 1))
    )
    np.testing.assert_array_equal(without, flops_by_exit(tiny(), LENGTHS))


@pytest.mark.parametrize("family", FAMILIES)
def test_interpolated_counts_equal_direct_ones(family):
    model = tiny(family)
    lengths = np.array([3, 8, 17, 23, 31, 40, 52, 64])
    np.testing.assert_array_equal(flops_by_exit(model, lengths), one_by_one(model, lengths))


@pytest.mark.parametrize("family", FAMILIES)
def test_counting_alike_layers_once_equals_counting_every_layer(family):
    changes = (
        {"conv_kernel_size": 3} if family == "deberta-v2" else {}
    )  # a first layer that is unlike the others
    backbone = adapter(family)(AutoModel.from_config(tiny_config(family, **changes)))
    twin = cost.meta_twin(add_exits(backbone, (1, 2, 4), SCHEMA, 0))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        forward = twin.start({"input_ids": torch.zeros(1, 13, dtype=torch.long, device="meta")})
        every = [(forward.reach(k), counter.get_total_flops())[1] for k in range(3)]
    assert flops_by_exit(twin, np.array([13]))[0].tolist() == every


def test_counts_that_are_no_parabola_are_taken_one_by_one():
    asked, lengths = [], [1, 2, 3, 5, 8, 13, 21, 34]

    def count(length: int) -> list[int]:
        asked.append(length)
        return [length**3, 5]

    assert cost.by_length(count, lengths) == {n: [n**3, 5] for n in lengths}
    assert sorted(asked) == lengths


@given(
    lengths=st.sets(st.integers(2, 60), min_size=1).map(sorted),
    kink=st.integers(2, 60),
    before=st.tuples(*[st.integers(0, 9)] * 3),
    after=st.tuples(*[st.integers(0, 9)] * 3),
)
@example(
    lengths=list(range(4, 29)), kink=15, before=(0, 0, 480), after=(1, 17, 0)
)  # one check length misses it
def test_counts_with_one_kink_anywhere_are_exact_at_every_length(lengths, kink, before, after):
    def count(length: int) -> list[int]:
        two, one, none = before if length <= kink else after
        return [two * length**2 + one * length + none]

    assert cost.by_length(count, lengths) == {n: count(n) for n in lengths}


def test_deberta_with_fewer_relative_positions_than_tokens_is_counted_exactly():
    config = tiny_config("deberta", max_relative_positions=15)
    model = add_exits(adapter("deberta")(AutoModel.from_config(config)), (1, 2, 4), SCHEMA, 0)
    lengths = np.arange(4, 29)
    np.testing.assert_array_equal(flops_by_exit(model, lengths), one_by_one(model, lengths))


@pytest.mark.parametrize("family", FAMILIES)
def test_flops_are_the_linear_layers_that_hooks_see_plus_the_attention_products(family):
    model, n, seen = tiny(family), 11, []

    def hook(module: nn.Linear, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        seen.append(2 * output.numel() * module.in_features)

    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(hook)
    with torch.inference_mode():
        model.start({"input_ids": torch.ones(1, n, dtype=torch.long)}).answers()
    total = flops_by_exit(tiny(family), np.array([n]))[0, -1]
    products = 4 * 2 * 2 * n**2 * WIDTH  # four layers, scores and mix
    if family.startswith("deberta"):  # and content-to-position, position-to-content
        assert total > sum(seen) + products
    else:
        assert total == sum(seen) + products


def test_a_cascade_pays_for_every_member_started_and_a_member_alone_for_itself():
    members = [tiny(exits=(k,)) for k in (1, 2, 4)]
    alone = np.stack([flops_by_exit(member, LENGTHS)[:, 0] for member in members], axis=1)
    np.testing.assert_array_equal(flops_by_exit(MultiModel(members), LENGTHS), alone.cumsum(1))


def test_the_count_copies_no_weight_and_changes_nothing_of_the_model():
    model = tiny()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    attention = model.backbone.config._attn_implementation
    twin = cost.meta_twin(model)
    assert all(p.device.type == "meta" for p in twin.parameters())
    assert all(p.device.type == "cpu" and p.requires_grad for p in model.parameters())
    assert model.backbone.config._attn_implementation == attention
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert twin.tokenizer is model.tokenizer


def test_shared_parameters_count_once():
    model = tiny("albert")
    assert model.parameter_count == len(nn.utils.parameters_to_vector(model.parameters()))
