"""Checkable properties of sweet.md section 7: items 1-9 and 20 (19 is in test_trainer.py).

Dropout is 0, weights are tiny and random.
"""

import pytest
import torch
import torch.nn.functional as F
from tiny_training import (
    EE,
    LTE,
    SCHEMA,
    SWEET,
    SWEET_LOCAL,
    make_batch,
    make_model,
    ready_trainer,
    run_fit,
    weights_of,
)

from adaptive_inference.errors import UserError
from adaptive_inference.exits.build import build_model
from adaptive_inference.objectives import load_objective
from adaptive_inference.settings.inputs import Backbone
from adaptive_inference.settings.training import MethodTraining
from adaptive_pipeline.params import parse_params

FAMILIES = ["bert", "deberta", "deberta-v2", "mpnet"]
EXITS = (1, 2, 4)
pytestmark = pytest.mark.parametrize("family", FAMILIES)


def losses_of(model, batch, gradient):
    return [F.cross_entropy(item.logits, batch["labels"]) for item in model.start(batch, gradient).answers()]


def gradients(loss, parameters):
    """Gradients, zeros where the loss does not reach."""
    found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    return [
        torch.zeros_like(item) if grad is None else grad for item, grad in zip(parameters, found, strict=True)
    ]


def block_gradients(model, batch, gradient):
    """[loss j][block i] -> gradients."""
    return [
        [gradients(loss, block) for block in model.blocks()]
        for loss in losses_of(model.train(), batch, gradient)
    ]


def is_zero(grads):
    return all(not grad.any() for grad in grads)


def close(first, second):
    return all(torch.allclose(a, b, atol=1e-7, rtol=1e-4) for a, b in zip(first, second, strict=True))


def layers_of(model, block):
    start = 0 if block == 0 else model.exits[block - 1]
    return range(start, model.exits[block])


def test_1_under_sweet_a_loss_reaches_no_other_block(family):
    model = make_model(family)
    table = block_gradients(model, make_batch(model), gradient="blockwise")
    for j in range(len(EXITS)):
        for i in range(len(EXITS)):
            assert is_zero(table[j][i]) == (i != j)
    embeddings = model.backbone.input_parameters()
    for j, loss in enumerate(losses_of(model, make_batch(model), "blockwise")):
        assert is_zero(gradients(loss, embeddings)) == (j != 0)


def test_2_under_sweet_a_loss_reaches_every_layer_of_its_own_block(family):
    """Cutting before the head would train heads alone."""
    model = make_model(family)
    for j, loss in enumerate(losses_of(model.train(), make_batch(model), gradient="blockwise")):
        for layer in layers_of(model, j):
            assert not is_zero(gradients(loss, model.backbone.layer_parameters(layer, layer + 1)))
        for grad in gradients(loss, list(model.heads[j].parameters())):
            assert grad.any()


def test_3_under_early_exit_a_loss_reaches_all_blocks_below_and_none_above(family):
    model = make_model(family)
    table = block_gradients(model, make_batch(model), gradient="shared")
    for j in range(len(EXITS)):
        for i in range(len(EXITS)):
            head = [id(item) for item in model.heads[i].parameters()]
            body = [g for g, p in zip(table[j][i], model.blocks()[i], strict=True) if id(p) not in head]
            assert is_zero(body) == (i > j)


def test_4_early_exit_and_sweet_differ_in_gradients_alone(family):
    model = make_model(family)
    batch = make_batch(model)
    for plain, cut in zip(
        *(model.start(batch, way).answers() for way in ("shared", "blockwise")), strict=True
    ):
        assert torch.equal(plain.logits, cut.logits)
    assert [loss.item() for loss in losses_of(model, batch, "blockwise")] == [
        loss.item() for loss in losses_of(model, batch, "shared")
    ]


def test_5_block_gradients_are_those_of_the_single_losses(family):
    model = make_model(family)
    batch = make_batch(model)
    single = block_gradients(model, batch, gradient="shared")
    sweet = sum(losses_of(model, batch, "blockwise"))
    early_exit = sum(losses_of(model, batch, "shared"))
    for i, block in enumerate(model.blocks()):
        own = {id(item) for item in model.backbone.layer_parameters(layers_of(model, i)[0], EXITS[i])}
        own |= {id(item) for item in model.heads[i].parameters()}
        kept = [index for index, item in enumerate(block) if id(item) in own]
        whole = gradients(sweet, block)
        assert close([whole[k] for k in kept], [single[i][i][k] for k in kept])
        summed = [sum(parts) for parts in zip(*(single[j][i] for j in range(i, len(EXITS))), strict=True)]
        assert close(gradients(early_exit, block), summed)


@pytest.mark.parametrize("method", [EE, SWEET_LOCAL, LTE], ids=["early_exit", "sweet", "learning_to_exit"])
def test_6_the_total_is_the_sum_over_exits(family, method, tmp_path):
    model = make_model(family, certainty=method is LTE)
    trainer, batch = ready_trainer(model, method, tmp_path), make_batch(model)
    expected = 0.0
    for answer in model.train().start(batch).answers():
        expected += F.cross_entropy(answer.logits, batch["labels"]).item()
        if method is LTE:
            right = (answer.logits.argmax(-1) == batch["labels"]).float()
            expected += ((answer.certainty - right) ** 2).mean().item()
    assert trainer.training_step(model, batch).item() == pytest.approx(expected, rel=1e-6)


def test_7_a_shared_pooler_gets_the_sum_of_the_per_exit_gradients(family, tmp_path):
    own, shared = make_model(family), make_model(family, pooler="shared")
    for mine, common in zip(own.heads, shared.heads, strict=True):
        mine.dense.load_state_dict(shared.pooler.state_dict())
        mine.classifier.load_state_dict(common.classifier.state_dict())
    batch = make_batch(own)
    for j, loss in enumerate(losses_of(own.train(), batch, True)):
        for i, head in enumerate(own.heads):
            assert is_zero(gradients(loss, list(head.dense.parameters()))) == (i != j)
    for model in (own, shared):
        ready_trainer(model, SWEET_LOCAL, tmp_path).training_step(model, batch)
    summed = sum(head.dense.weight.grad for head in own.heads)
    assert close([shared.pooler.weight.grad], [summed])


def _first_block(model):
    layers = model.backbone.layer_parameters(0, EXITS[0])
    return [*model.backbone.input_parameters(), *layers, *model.heads[0].parameters()]


@pytest.mark.parametrize("clip", [0.0, 0.05])
def test_8_sweets_first_block_trains_as_the_smallest_member_does(family, clip, tmp_path):
    """Step for step, unless a global clip lets late exits scale the update."""
    sweet = make_model(family)
    member = make_model(family, exits=EXITS[:1])
    before = [item.detach().clone() for item in _first_block(sweet)]
    for name, model, method in (("sweet", sweet, SWEET_LOCAL), ("member", member, EE)):
        result = run_fit(model, method, tmp_path / name, rows=61, max_grad_norm=clip, group_by_length=True)
        assert result.steps == 8
    pairs = list(zip(_first_block(sweet), _first_block(member), strict=True))
    equal = all(torch.allclose(a, b, atol=1e-6, rtol=1e-4) for a, b in pairs)
    assert equal == (clip == 0.0)
    assert not all(torch.equal(a, b) for a, b in zip(before, _first_block(sweet), strict=True))


def test_8_per_block_clipping_restores_the_independence(family, tmp_path):
    sweet, member = make_model(family), make_model(family, exits=EXITS[:1])
    method = MethodTraining(gradient="blockwise", clip="per_block")
    run_fit(sweet, method, tmp_path / "sweet", max_grad_norm=0.05)
    run_fit(member, EE, tmp_path / "member", max_grad_norm=0.05)
    for a, b in zip(_first_block(sweet), _first_block(member), strict=True):
        assert torch.allclose(a, b, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("pooler", ["per_exit", "shared"])
def test_9_block_local_backward_gives_the_gradients_of_one_backward(family, pooler, tmp_path):
    model = make_model(family, pooler=pooler)
    batch, found = make_batch(model), []
    for method in (SWEET, SWEET_LOCAL):
        model.zero_grad()
        ready_trainer(model, method, tmp_path).training_step(model, batch)
        found.append(
            {name: item.grad.clone() for name, item in model.named_parameters() if item.grad is not None}
        )
    assert found[0].keys() == found[1].keys()
    for name, grad in found[0].items():
        assert torch.allclose(grad, found[1][name], atol=1e-7, rtol=1e-4), name


@pytest.mark.parametrize("exits", [[], [2, 2], [3, 1], [-1, 2], [0, 2], [2, 5]])
def test_20_bad_exit_lists_are_refused(family, exits):
    with pytest.raises(UserError):
        build_model(Backbone(weights=f"random:{family}", exits=[1]), SCHEMA, 0, exits=exits)
    if exits != [2, 5]:  # how many layers there are is not known to the params
        section = {"weights": f"random:{family}", "exits": exits}
        with pytest.raises(UserError, match=r"backbones\.tiny"):
            parse_params(
                {
                    "tasks": {"t": {"source": "generated"}},
                    "backbones": {"tiny": section},
                    "seeds": [0],
                    "trained_by": {"train_sweet": [], "train_leebert": [], "train_multi_model": []},
                    "methods": {"full": {"train": {}, "rules": ["fixed"]}},
                }
            )


def test_20_sweet_is_off_unless_asked_for(family, tmp_path):
    assert load_objective("joint", EE).gradient == "shared"
    assert load_objective("joint", SWEET).gradient == "blockwise"
    model = make_model(family)
    before = weights_of(model.heads[0])
    ready_trainer(model, EE, tmp_path).training_step(model, make_batch(model))
    assert model.backbone.layer_parameters(0, 1)[0].grad is not None
    assert before.keys() == weights_of(model.heads[0]).keys()
