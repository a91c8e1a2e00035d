"""The cursor: late answers are early ones, rows that stay do not notice those that leave, states go when released."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptive_inference.exits import MultiModel, build_model
from adaptive_inference.settings.inputs import Backbone
from adaptive_inference.tasks.schema import Schema

SCHEMA = Schema("tiny", "classification", ("a", "b", "c"), "accuracy", 32)
EXITS = (1, 2, 4)
FAMILIES = ("bert", "albert", "distilbert", "deberta", "deberta-v2", "roberta", "mpnet")
GRADIENTS = ("shared", "blockwise", "equilibrium")
LENGTHS = (9, 4, 6, 1)


def build(family="bert", exits=EXITS, **more):
    return build_model(Backbone(weights=f"random:{family}", exits=list(exits), **more), SCHEMA, 0).eval()


def cascade(family="bert"):
    return MultiModel([build(family, (layer,)) for layer in EXITS])


def batch(lengths=LENGTHS, columns=None):
    columns = columns or max(lengths)
    ids = torch.randint(5, 60, (len(lengths), columns), generator=torch.Generator().manual_seed(1))
    mask = (torch.arange(columns) < torch.tensor(lengths)[:, None]).long()
    return {"input_ids": ids * mask, "attention_mask": mask}


MODELS = {family: build(family) for family in FAMILIES} | {
    "mean": build(read="mean"),
    "cascade": cascade(),
}


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    torch.set_num_threads(1)


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("kind", MODELS)
def test_a_late_answer_is_the_early_one_bit_by_bit_with_its_gradients(kind, gradient):
    model = MODELS[kind]
    found = []
    for late in (False, True):
        forward, answers = model.start(batch(), gradient), []
        if late:
            forward.advance(len(EXITS) - 1)
            answers = [forward.answer(index) for index in (2, 0, 1)]
            answers = [answers[1], answers[2], answers[0]]
        else:
            answers = forward.answers()
        model.zero_grad()
        answers[1].logits.square().sum().backward()
        gradients = [None if item.grad is None else item.grad.clone() for item in model.parameters()]
        found.append((answers, gradients))
    for early, late in zip(*(answers for answers, _ in found), strict=True):
        assert early.layer == late.layer
        assert torch.equal(early.logits, late.logits)
    for early, late in zip(*(gradients for _, gradients in found), strict=True):
        assert (early is None) == (late is None)
        assert early is None or torch.equal(early, late)


@settings(max_examples=80, deadline=None)
@given(
    kind=st.sampled_from(sorted(MODELS)),
    rows=st.lists(st.sampled_from(range(4)), min_size=1, max_size=4, unique=True),
    after=st.integers(0, 2),
    cut=st.booleans(),
    extra=st.integers(0, 3),
)
def test_rows_that_stay_answer_as_if_they_had_been_alone(kind, rows, after, cut, extra):
    """Selected after an exit, they answer later exits, and earlier ones that were not released, as in the whole batch."""
    model = MODELS[kind]
    given_batch = batch(columns=max(LENGTHS) + extra)
    length = max(LENGTHS[row] for row in rows) if cut else None
    with torch.inference_mode():
        expected = model(**given_batch).logits[rows]
        forward = model.start(given_batch)
        forward.advance(after)
        forward.select(torch.tensor(rows), length)
        forward.advance(2)
        for index in (2, 0, 1):
            answer = forward.answer(index)
            torch.testing.assert_close(
                answer.logits, expected[:, index], rtol=0, atol=1e-5 * expected.abs().max().item()
            )
    if cut and kind != "cascade":
        assert forward.hidden_BNH.shape[:2] == (len(rows), length)
        assert forward.context.tokens_BN.shape == (len(rows), length)


def test_rows_may_be_selected_again_and_again_in_any_order():
    model = MODELS["deberta-v2"]
    with torch.inference_mode():
        expected = model(**batch()).logits
        forward = model.start(batch())
        forward.advance(0)
        forward.select(torch.tensor([3, 0, 2]))
        forward.advance(1)
        forward.select(torch.tensor([2, 0]), 6)
        for index in (0, 1):
            torch.testing.assert_close(
                forward.answer(index).logits, expected[[2, 3], index], rtol=0, atol=1e-5
            )
        torch.testing.assert_close(forward.reach(2).logits, expected[[2, 3], 2], rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["bert", "cascade"])
def test_a_released_exit_answers_no_more_and_its_state_is_gone(kind):
    forward = MODELS[kind].start(batch())
    forward.advance(1)
    forward.release(0)
    with pytest.raises(KeyError):
        forward.answer(0)
    with pytest.raises(KeyError):
        forward.answer(2)  # not passed yet
    assert forward.answer(1).layer == 2
    forward.reach(2)
    with pytest.raises(KeyError):
        forward.answer(2)


def test_a_member_of_a_cascade_that_is_not_reached_is_not_run():
    model, ran = cascade(), []
    for index, member in enumerate(model.members):
        member.backbone.model.embeddings.register_forward_hook(lambda *_, index=index: ran.append(index))
    forward = model.start(batch())
    assert ran == []
    for index, expected in ((0, [0]), (0, [0]), (2, [0, 1, 2])):
        forward.advance(index)
        assert ran == expected


def test_advancing_runs_no_head():
    model, ran = build(), []
    for head in model.heads:
        head.classifier.register_forward_hook(lambda *_: ran.append(1))
    forward = model.start(batch())
    forward.advance(2)
    assert not ran
    forward.answer(1)
    assert len(ran) == 1


def test_a_delegate_that_leaves_all_to_its_backbone_changes_no_bit():
    from adaptive_inference.backbones.base import Delegate

    model = MODELS["deberta-v2"]
    plain = model.start(batch()).answers()
    through = model.start(batch(), layers=Delegate(model.backbone)).answers()
    assert all(torch.equal(one.logits, two.logits) for one, two in zip(plain, through, strict=True))
