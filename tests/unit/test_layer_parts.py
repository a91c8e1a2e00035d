"""A layer run by its parts, where nothing is trained, gives the bits of the stock layer."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adaptive_inference.attribution.attention import _eager
from adaptive_inference.backbones._heads import keep_heads
from adaptive_inference.backbones.load import load_backbone

FAMILIES = ("bert", "roberta", "albert", "distilbert")
BACKBONES = {family: load_backbone(f"random:{family}").eval() for family in FAMILIES}


def states(backbone, lengths, seed):
    columns = max(lengths)
    mask = (torch.arange(columns) < torch.tensor(lengths)[:, None]).long()
    ids = torch.randint(5, 60, mask.shape, generator=torch.Generator().manual_seed(seed)) * mask
    return backbone.embed({"input_ids": ids, "attention_mask": mask})


def stock(backbone, index, hidden, context):
    return backbone.layers[index](hidden, context.rows.get("attention"))


def calls(backbone, index, run):
    """Return how often the stock layer itself was called."""
    found = []
    hook = backbone.layers[index].register_forward_hook(lambda *_: found.append(1))
    try:
        run()
    finally:
        hook.remove()
    return len(found)


@pytest.mark.parametrize("family", FAMILIES)
@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=5), seed=st.integers(0, 99))
def test_the_bits_are_those_of_the_stock_layer(family, lengths, seed):
    backbone = BACKBONES[family]
    with torch.inference_mode():
        hidden, context = states(backbone, lengths, seed)
        for index in range(backbone.num_layers):
            expected = stock(backbone, index, hidden, context)
            hidden = backbone.run_layer(index, hidden, context)
            assert torch.equal(hidden, expected)


def test_so_are_those_of_a_layer_that_lost_attention_heads():
    backbone = load_backbone("random:bert").eval()
    keep_heads(backbone.layers[1], [0, 3])
    with torch.inference_mode():
        hidden, context = states(backbone, [7, 3], 0)
        assert torch.equal(backbone.run_layer(1, hidden, context), stock(backbone, 1, hidden, context))


def test_the_stock_layer_itself_runs_where_anything_is_trained_or_looked_into():
    backbone = BACKBONES["bert"]

    def run():
        backbone.run_layer(0, *states(backbone, [5], 0))

    assert calls(backbone, 0, run) == 1  # gradients may be wanted
    with torch.inference_mode():
        assert calls(backbone, 0, run) == 0
        with _eager(backbone.config):  # probabilities of attention are wanted
            assert calls(backbone, 0, run) == 1
        try:
            backbone.layers[0].train()  # with dropout
            assert calls(backbone, 0, run) == 1
        finally:
            backbone.eval()
