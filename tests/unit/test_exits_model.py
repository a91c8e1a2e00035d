import pytest
import torch

from adaptive_inference.backbones.load import load_backbone
from adaptive_inference.errors import UserError
from adaptive_inference.exits import MultiModel, build_model
from adaptive_inference.exits.build import add_exits, full_exits, start_from_full
from adaptive_inference.exits.outputs import pick_device
from adaptive_inference.settings.inputs import Backbone
from adaptive_inference.tasks.schema import Schema

SCHEMA = Schema("tiny", "classification", ("a", "b", "c"), "accuracy", 32)
EXITS = [1, 2, 4]


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def params(**changes):
    return Backbone(**({"weights": "random:bert", "exits": EXITS} | changes))


def build(certainty=False, seed=0, **changes):
    return build_model(params(**changes), SCHEMA, seed, certainty=certainty).eval()


def batch(rows=4, longest=9):
    ids = torch.randint(5, 60, (rows, longest), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[0, 5:] = 0
    return {"input_ids": ids, "attention_mask": mask, "labels": torch.tensor([0, 1, 2, 1])[:rows]}


def gradient_sizes(model):
    """Largest gradient of each block's layers, by exit; head weights apart."""
    sizes, start = [], 0
    for stop in model.exits:
        found = [p.grad for p in model.backbone.layer_parameters(start, stop)]
        sizes.append(max((g.abs().max().item() for g in found if g is not None), default=0.0))
        start = stop
    return sizes


def loss_of(model, index, gradient):
    answer = model.start(batch(), gradient).reach(index)
    return torch.nn.functional.cross_entropy(answer.logits, batch()["labels"])


@pytest.mark.parametrize("index", range(len(EXITS)))
@pytest.mark.parametrize("family", ["bert", "deberta", "deberta-v2", "roberta", "distilbert", "mpnet"])
def test_with_detach_a_loss_trains_every_layer_of_its_own_block_and_no_other(family, index):
    """Properties 1 and 2 of sweet.md."""
    model = build(weights=f"random:{family}")
    loss_of(model, index, gradient="blockwise").backward()
    sizes, start = gradient_sizes(model), 0 if index == 0 else EXITS[index - 1]
    assert all((size > 0) == (block == index) for block, size in enumerate(sizes))
    for layer in range(start, EXITS[index]):
        assert any(
            p.grad is not None and p.grad.any() for p in model.backbone.layer_parameters(layer, layer + 1)
        )
    inputs = [p.grad for p in model.backbone.input_parameters() if p.grad is not None]
    assert any(grad.any() for grad in inputs) == (index == 0)
    for j, head in enumerate(model.heads):
        assert all((p.grad is not None) == (j == index) for p in head.parameters())


@pytest.mark.parametrize("index", range(len(EXITS)))
def test_without_detach_a_loss_trains_all_blocks_below_it_and_none_above(index):
    """Property 3 of sweet.md."""
    model = build()
    loss_of(model, index, gradient="shared").backward()
    assert [size > 0 for size in gradient_sizes(model)] == [block <= index for block in range(len(EXITS))]


@pytest.mark.parametrize("family", ["bert", "deberta-v2"])
def test_detach_changes_no_bit_of_the_logits(family):
    """Property 4 of sweet.md."""
    model = build(weights=f"random:{family}")
    for cut, whole in zip(
        *(model.start(batch(), way).answers() for way in ("blockwise", "shared")), strict=True
    ):
        assert torch.equal(cut.logits, whole.logits)


def test_a_block_back_propagated_at_its_exit_has_the_gradient_of_the_summed_loss():
    """Property 9 of sweet.md, shared pooler included."""
    local, whole = build(pooler="shared"), build(pooler="shared")
    labels = batch()["labels"]
    forward = local.start(batch(), "blockwise")
    for index in range(len(EXITS)):
        torch.nn.functional.cross_entropy(forward.reach(index).logits, labels).backward()
    sum(
        torch.nn.functional.cross_entropy(s.logits, labels)
        for s in whole.start(batch(), "blockwise").answers()
    ).backward()
    for (name, mine), theirs in zip(local.named_parameters(), whole.parameters(), strict=True):
        if mine.grad is None:
            assert theirs.grad is None or not theirs.grad.any(), name
        else:
            torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-5, atol=1e-8)


def test_a_shared_poolers_gradient_is_the_sum_over_the_per_exit_poolers():
    """Property 7 of sweet.md."""
    shared, own = build(pooler="shared"), build(pooler="per_exit")
    own.load_state_dict(shared.state_dict(), strict=False)
    for model in (shared, own):
        labels = batch()["labels"]
        sum(
            torch.nn.functional.cross_entropy(s.logits, labels)
            for s in model.start(batch(), "blockwise").answers()
        ).backward()
    total = sum(head.dense.weight.grad for head in own.heads)
    torch.testing.assert_close(shared.pooler.weight.grad, total, rtol=1e-5, atol=1e-8)
    assert all(head.dense.weight.grad.any() for head in own.heads)


def test_a_forward_runs_no_layer_beyond_the_exit_asked_for():
    model, calls = build(), []
    for index, layer in enumerate(model.backbone.model.encoder.layer):
        layer.register_forward_hook(lambda *_, index=index: calls.append(index))
    forward = model.start(batch())
    assert calls == []
    for index, expected in ((0, [0]), (1, [0, 1]), (1, [0, 1]), (2, [0, 1, 2, 3])):
        forward.advance(index)
        assert calls == expected
        assert forward.layers_run == len(calls)


def test_calling_the_model_stacks_all_answers():
    model = build(certainty=True)
    out = model(**batch())
    assert out.logits.shape == (4, 3, 3)
    assert out.certainty.shape == (4, 3)
    assert ((out.certainty > 0) & (out.certainty < 1)).all()
    for index, answer in enumerate(model.start(batch()).answers()):
        assert torch.equal(out.logits[:, index], answer.logits)
    assert [answer.certainty for answer in model.start(batch()).answers(certainty=False)] == [None] * 3


@pytest.mark.parametrize("pooler", ["none", "shared", "per_exit"])
@pytest.mark.parametrize("family", ["bert", "deberta-v2", "albert"])
def test_blocks_hold_every_parameter_once(family, pooler):
    model = build(weights=f"random:{family}", pooler=pooler, certainty=True)
    ids = [id(p) for block in model.blocks() for p in block]
    assert sorted(ids) == sorted(id(p) for p in model.parameters())
    assert all(
        id(p) in map(id, block)
        for block, head in zip(model.blocks(), model.heads, strict=True)
        for p in head.parameters()
    )


def test_a_convolution_counts_with_the_first_block():
    from transformers import AutoModel

    from adaptive_inference.backbones._tiny import tiny_config
    from adaptive_inference.backbones.deberta_v2 import DebertaV2Backbone

    config = tiny_config("deberta-v2", conv_kernel_size=3)
    model = add_exits(DebertaV2Backbone(AutoModel.from_config(config)), (2, 4), SCHEMA, 0)
    ids = [id(p) for block in model.blocks() for p in block]
    assert sorted(ids) == sorted(id(p) for p in model.parameters())
    model.eval().start(batch(), "blockwise").answers()[1].logits.square().sum().backward()
    assert all(p.grad is None for p in model.blocks()[0])


def test_a_convolution_is_copied_with_whatever_becomes_the_first_layer():
    from transformers import AutoModel

    from adaptive_inference.backbones._tiny import tiny_config
    from adaptive_inference.backbones.deberta_v2 import DebertaV2Backbone

    config = tiny_config("deberta-v2", conv_kernel_size=3)
    full, model = (
        add_exits(DebertaV2Backbone(AutoModel.from_config(config)), (4,), SCHEMA, seed).eval()
        for seed in (0, 1)
    )
    assert not torch.equal(model(**batch()).logits, full(**batch()).logits)
    start_from_full(model, full)
    assert torch.equal(model(**batch()).logits, full(**batch()).logits)


def test_heads_start_equal_in_every_method_and_differ_by_seed_and_layer():
    whole, member = build(pooler="none"), build_model(params(pooler="none"), SCHEMA, 0, exits=[2])
    assert torch.equal(whole.heads[1].classifier.weight, member.heads[0].classifier.weight)
    assert not torch.equal(whole.heads[0].classifier.weight, whole.heads[1].classifier.weight)
    assert not torch.equal(build(seed=1).heads[0].classifier.weight, build(seed=0).heads[0].classifier.weight)
    certain = build(certainty=True, pooler="none")
    assert torch.equal(certain.heads[2].classifier.weight, whole.heads[2].classifier.weight)
    assert 0.01 < whole.heads[0].classifier.weight.std() < 0.03
    assert not whole.heads[0].classifier.bias.any()


def test_building_neither_reads_nor_moves_the_global_random_state():
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    state = build().state_dict()
    assert torch.equal(before, torch.random.get_rng_state())
    torch.manual_seed(8)
    assert all(torch.equal(item, state[name]) for name, item in build().state_dict().items())


def test_a_per_exit_pooler_starts_as_the_pretrained_one():
    pretrained = load_backbone("random:bert").pool_dense()
    model = build()
    assert all(torch.equal(head.dense.weight, pretrained.weight) for head in model.heads)
    assert len({id(head.dense.weight) for head in model.heads}) == 3


def test_a_mean_reading_head_ignores_padding():
    model, given = build(read="mean"), batch(rows=1)
    short = {"input_ids": given["input_ids"][:, :5]}
    torch.testing.assert_close(model(**given).logits, model(**short).logits, rtol=0, atol=1e-5)
    assert not torch.allclose(build(read="first")(**given).logits, model(**given).logits)


def test_dropout_is_fresh_at_each_exit_and_absent_in_eval():
    model = build(pooler="none")
    head = model.heads[0]
    hidden = torch.ones(2, 3, 32)
    assert torch.equal(head.features(hidden, None), hidden[:, 0])
    head.train()
    assert not torch.equal(head.features(hidden, None), head.features(hidden, None))


@pytest.mark.parametrize("exits", [[0], [5], [1, 9], [-1]])
def test_exits_outside_the_layers_are_refused_and_the_depth_is_named(exits):
    with pytest.raises(UserError, match=r"1\.\.4.*L = 4"):
        build_model(params(), SCHEMA, 0, exits=exits)


@pytest.mark.parametrize("exits", [[], [2, 2], [3, 1]])
def test_unsorted_repeated_or_no_exits_are_refused(exits):
    with pytest.raises(UserError, match="ascending"):
        build_model(params(), SCHEMA, 0, exits=exits)


def test_inputs_longer_than_the_positions_are_refused():
    schema = Schema("long", "classification", ("a", "b"), "accuracy", 4000)
    with pytest.raises(UserError, match="max_length 4000 is beyond the 514 positions"):
        build_model(params(), schema, 0)


def test_layers_above_the_last_exit_are_not_kept():
    model = build(exits=[1, 2])
    assert model.backbone.num_layers == 2
    assert full_exits(params()) == (4,)


def test_a_multi_model_runs_each_member_from_the_tokens_and_sums_its_layers():
    members = [build_model(params(), SCHEMA, 0, exits=[layer]).eval() for layer in EXITS]
    cascade = MultiModel(members)
    assert cascade.exits == (1, 2, 4)
    assert cascade.layers_cost == (1, 3, 7)
    out = cascade(**batch())
    for index, member in enumerate(members):
        assert torch.equal(out.logits[:, index], member(**batch()).logits[:, 0])
    assert [answer.layer for answer in cascade.start(batch()).answers()] == [1, 2, 4]
    with pytest.raises(UserError, match="grow in depth"):
        MultiModel(members[::-1])


def test_cuda_where_there_is_none_is_refused():
    assert pick_device("cpu").type == "cpu"
    if not torch.cuda.is_available():
        assert pick_device("auto").type == "cpu"
        with pytest.raises(UserError, match="cuda"):
            pick_device("cuda")
