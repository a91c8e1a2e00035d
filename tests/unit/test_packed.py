"""Packed rows: the answers and survivors of the padded batch, and of each row alone."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptive_inference.backbones._heads import keep_heads
from adaptive_inference.backbones._packed import Segments
from adaptive_inference.engine import Engine
from adaptive_inference.engine.torch_runner import TorchRunner
from adaptive_inference.errors import UserError
from adaptive_inference.exits import MultiModel, build_model
from adaptive_inference.settings.inputs import Backbone
from adaptive_inference.tasks.schema import Schema

SCHEMA = Schema("tiny", "classification", ("a", "b", "c"), "accuracy", 32)
EXITS = (1, 2, 4)
FAMILIES = ("bert", "albert", "distilbert", "roberta", "mpnet")
LENGTHS = (9, 4, 2, 6, 4, 1)


def build(family="bert", read="first", reduces=True, exits=EXITS, **more):
    section = Backbone(weights=f"random:{family}", exits=list(exits), read=read)
    model = build_model(section, SCHEMA, 0, reduces=reduces, **more).eval()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():  # logits and scores that differ from row to row and from token to token
        for head in model.heads:
            head.classifier.weight.normal_(0, 0.4, generator=generator)
        for predictor in model.reduction.predictors if reduces else []:
            predictor.inner.weight.normal_(0, 0.2, generator=generator)
            predictor.outer.weight.normal_(0, 2.0, generator=generator)
    return model


MODELS = {(family, read): build(family, read) for family in FAMILIES for read in ("first", "mean")}


def batch(lengths=LENGTHS, seed=1):
    columns = max(lengths)
    ids = torch.randint(5, 60, (len(lengths), columns), generator=torch.Generator().manual_seed(seed))
    mask = (torch.arange(columns) < torch.tensor(lengths)[:, None]).long()
    return {"input_ids": ids * mask, "attention_mask": mask}


def start(model, rows, eta, **how):
    if model.reduction is not None:
        model.reduction.eta.data.fill_(eta)
    return model.start(rows, **how)


def run(model, rows, eta=0.7, **how):
    with torch.inference_mode():
        forward = start(model, rows, eta, **how)
        logits = torch.stack([answer.logits for answer in forward.answers()], 1)
    survivors = np.stack(forward.survivors, 1) if forward.survivors else None
    return logits, survivors


def close(found, wanted):
    torch.testing.assert_close(found[0], wanted[0], rtol=0, atol=1e-5)
    np.testing.assert_array_equal(found[1], wanted[1])


def alone(model, rows, eta=0.7):
    lengths = rows["attention_mask"].sum(1).tolist()
    found = [
        run(model, {"input_ids": rows["input_ids"][[row], :length]}, eta)
        for row, length in enumerate(lengths)
    ]
    return torch.cat([logits for logits, _ in found]), np.concatenate([survivors for _, survivors in found])


@pytest.mark.parametrize("kind", MODELS)
@settings(deadline=None, max_examples=10)
@given(
    lengths=st.lists(st.integers(1, 14), min_size=2, max_size=7),
    seed=st.integers(0, 99),
    eta=st.floats(0.2, 1.0),
)
def test_packed_padded_and_each_row_alone_agree(kind, lengths, seed, eta):
    model, rows = MODELS[kind], batch(lengths, seed)
    packed = run(model, rows, eta, packed=True)
    close(packed, run(model, rows, eta))
    close(packed, alone(model, rows, eta))


@pytest.mark.parametrize("kind", MODELS)
def test_rows_do_lose_tokens_and_no_padding_is_computed(kind):
    model, sizes = MODELS[kind], []
    run_layer = model.backbone.run_layer

    class Watched:
        embed = model.backbone.embed

        def run_layer(self, index, hidden, context):
            sizes.append(hidden.shape)
            return run_layer(index, hidden, context)

    _, survivors = run(model, batch(), packed=True, layers=Watched())
    assert sizes == [(tokens, model.backbone.hidden_size) for tokens in survivors.sum(0)]
    assert 0 < survivors[:, -1].sum() < sum(LENGTHS)


@pytest.mark.parametrize("kind", MODELS)
@torch.inference_mode()
def test_the_answers_of_all_exits_are_those_of_the_padded_batch(kind):
    model = MODELS[kind]
    found = model(**batch())
    close((found.logits, found.survivors), run(model, batch(), model.reduction.eta[0].item()))


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("lengths", [LENGTHS, (5, 5, 5)])
def test_without_removal_packed_is_the_padded_batch(kind, lengths):
    model = build(*kind, reduces=False)
    packed, survivors = run(model, batch(lengths), packed=True)
    torch.testing.assert_close(packed, model(**batch(lengths)).logits, rtol=0, atol=1e-5)
    assert survivors is None


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("reduces", [True, False])
@torch.inference_mode()
def test_rows_that_stay_and_late_answers_do_not_notice_that_others_left(kind, reduces):
    model = MODELS[kind] if reduces else build(*kind, reduces=False)
    logits, survivors = run(model, batch(), packed=True)
    forward = start(model, batch(), 0.7, packed=True)
    forward.advance(1)
    stay = torch.tensor([3, 0, 4])
    forward.select(stay, 9)
    early = forward.answer(0).logits
    forward.release(0)
    forward.advance(2)
    stay, final = stay[[0, 2]], torch.tensor([0, 2])
    forward.select(final)
    torch.testing.assert_close(early[final], logits[stay, 0], rtol=0, atol=1e-5)
    late = torch.stack([forward.answer(index).logits for index in (1, 2)], 1)
    torch.testing.assert_close(late, logits[stay, 1:], rtol=0, atol=1e-5)
    if reduces:
        np.testing.assert_array_equal(np.stack(forward.survivors, 1), survivors[stay.numpy()])


@pytest.mark.parametrize("kind", MODELS)
def test_rows_that_all_collapse_to_their_first_token(kind):
    model = MODELS[kind]

    class First:
        def before_layer(self, index, forward):
            keep = torch.zeros(len(LENGTHS), forward.context.segments.tokens_BN.shape[1], dtype=torch.bool)
            keep[:, 0] = True
            forward.keep_tokens(keep)

    logits, survivors = run(model, batch(), packed=True, removal=First())
    assert survivors.tolist() == [[1] * 4] * len(LENGTHS)
    assert logits.isfinite().all()
    for row in range(len(LENGTHS)):  # at one token, nothing but the first position is left
        rows = {"input_ids": batch()["input_ids"][[row], :1]}
        torch.testing.assert_close(logits[row], run(model, rows)[0][0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", MODELS)
def test_the_longest_input_beside_the_shortest(kind):
    rows = batch((512, 2, 1))
    rows["input_ids"][1, :2] = torch.tensor([2, 3])  # [CLS] [SEP]
    packed = run(MODELS[kind], rows, packed=True)
    assert packed[0].isfinite().all()
    close(packed, run(MODELS[kind], rows))
    close(packed, alone(MODELS[kind], rows))


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("packed", [True, False])
def test_one_row_of_special_tokens_alone(kind, packed):
    """[CLS] [SEP] by itself: as in a batch, and with its first token left where every score falls short."""
    row = {"input_ids": torch.tensor([[2, 3]]), "attention_mask": torch.ones(1, 2, dtype=torch.long)}
    for eta in (0.7, 1.0):
        found = run(MODELS[kind], row, eta, packed=packed)
        assert found[0].isfinite().all()
        assert (found[1] >= 1).all()
        twice = {name: item.expand(2, -1) for name, item in row.items()}
        together = run(MODELS[kind], twice, eta, packed=True)
        close(together, tuple(np.repeat(item, 2, axis=0) for item in found))


@pytest.mark.parametrize(("lengths", "alone"), [((5,), True), ((5,), False), ((5, 3), True)])
def test_one_row_is_not_packed_unless_others_may_join_it(lengths, alone):
    run = TorchRunner(MODELS["bert", "first"], False).start(batch(lengths), alone)
    assert (run._forward.context.segments is None) == (len(lengths) == 1 and alone)


@pytest.mark.parametrize("read", ["first", "mean"])
def test_heads_that_attend_read_packed_states(read):
    model = build(read=read, inner_head="attention")
    close(run(model, batch(), packed=True), run(model, batch()))


@torch.inference_mode()
def test_certainty_heads_read_packed_states():
    model = build(certainty=True)
    for packed, padded in zip(
        start(model, batch(), 0.7, packed=True).answers(), model.start(batch()).answers(), strict=True
    ):
        torch.testing.assert_close(packed.certainty, padded.certainty, rtol=0, atol=1e-5)


def test_layers_that_lost_attention_heads():
    model = build()
    keep_heads(model.backbone.layers[1], [0, 3])
    close(run(model, batch(), packed=True), run(model, batch()))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("gradient", ["shared", "blockwise", "equilibrium"])
def test_gradients_are_those_of_the_padded_batch(family, gradient):
    found = []
    for packed in (True, False):
        model = build(family, "mean", reduces=False)
        answers = model.start(batch(), gradient, packed=packed).answers()
        sum(answer.logits.square().sum() for answer in answers).backward()
        found.append({name: item.grad for name, item in model.named_parameters()})
    for name, wanted in found[1].items():
        torch.testing.assert_close(found[0][name], wanted, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("family", ["deberta", "deberta-v2"])
def test_a_family_that_cannot_be_packed_is_named(family):
    model = build(family, reduces=False)
    with pytest.raises(UserError, match=f"{family},.*leave packed out"):
        model.start(batch(), packed=True)


@pytest.mark.parametrize(("rule", "threshold"), [("confidence", 0.6), ("patience", 1), ("fixed", 1)])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_engine_packs_models_that_remove_tokens(family, rule, threshold):
    model = MODELS[family, "mean"]
    model.reduction.eta.data.fill_(0.7)
    engine = Engine(model, rule, threshold)
    assert engine.runner.packed
    padded = Engine(model, rule, threshold, runner=TorchRunner(model, False, packed=False))
    found, wanted = engine.run(batch()), padded.run(batch())
    np.testing.assert_allclose(found.logits, wanted.logits, rtol=0, atol=1e-5)
    assert found.exit_layers.tolist() == wanted.exit_layers.tolist()


def test_exits_are_taken_in_the_middle():
    model = MODELS["bert", "mean"]
    exits = Engine(model, "confidence", 0.6).run(batch()).exit_layers
    assert len(set(exits.tolist())) > 1


def test_a_model_without_removal_is_packed_on_demand_alone():
    model, cascade = build(reduces=False), MultiModel([build(reduces=False, exits=[k]) for k in (1, 2)])
    for item in (model, cascade):
        assert not TorchRunner(item, False).packed
        wanted = Engine(item, "confidence", 0.6).run(batch())
        found = Engine(item, "confidence", 0.6, runner=TorchRunner(item, False, packed=True)).run(batch())
        np.testing.assert_allclose(found.logits, wanted.logits, rtol=0, atol=1e-5)
        assert found.exit_layers.tolist() == wanted.exit_layers.tolist()


@st.composite
def packings(draw):
    """Rows of random tokens, which of them are kept, and which rows stay."""
    lengths = draw(st.lists(st.integers(1, 9), min_size=1, max_size=6))
    tokens = np.arange(max(lengths)) < np.array(lengths)[:, None]
    generator = np.random.default_rng(draw(st.integers(0, 999)))
    keep = tokens & (generator.random(tokens.shape) < 0.5)
    keep[:, 0] = True
    rows = draw(st.permutations(range(len(lengths))))[: draw(st.integers(1, len(lengths)))]
    return tokens, keep, np.array(rows), torch.from_numpy(generator.random((*tokens.shape, 3)))


@given(packings())
def test_what_segments_say_of_each_row(example):
    tokens, keep, stay, state = example
    segments, index = Segments.pack(tokens, torch.device("cpu"))
    packed = state.flatten(0, 1)[index]
    wanted = [row[kept] for row, kept in zip(state, tokens, strict=True)]
    check(segments, packed, wanted)
    segments, index = segments.keep(keep)
    packed, wanted = packed[index], [row[kept] for row, kept in zip(state, keep, strict=True)]
    check(segments, packed, wanted)
    segments, index = segments.select(stay)
    wanted = [wanted[row] for row in stay]
    check(segments, packed[index], wanted)
    square = torch.rand(1, 2, tokens.shape[1], tokens.shape[1])
    sizes = sorted({len(row) for row in wanted})
    for size, pairs in zip(sizes, segments.pairs(square), strict=True):
        for row, found in zip((row for row in stay if keep[row].sum() == size), pairs, strict=True):
            columns = keep[row].nonzero()[0]
            assert torch.equal(found, square[0][:, columns][:, :, columns])


def check(segments, packed, wanted):
    lengths = [len(row) for row in wanted]
    assert segments.lengths_B.tolist() == lengths
    assert len(packed) == sum(lengths)
    assert torch.equal(segments.first(packed), torch.stack([row[0] for row in wanted]))
    torch.testing.assert_close(segments.mean(packed), torch.stack([row.mean(0) for row in wanted]))
    padded = segments.pad(packed)
    assert segments.tokens_BN.sum(1).tolist() == lengths
    for row, there, tokens in zip(padded, segments.tokens_BN, wanted, strict=True):
        assert torch.equal(row[there], tokens)


def test_attention_within_rows_is_attention_of_each_row():
    lengths, heads, width = [3, 1, 3, 2], 2, 4
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randn(3, n, heads * width, generator=generator) for n in lengths]  # query, key, value
    tokens = np.arange(3) < np.array(lengths)[:, None]
    segments, index = Segments.pack(tokens, torch.device("cpu"))
    padded = torch.stack([torch.nn.functional.pad(row, (0, 0, 0, 3 - row.shape[1])) for row in rows], 1)
    query, key, value = (item.flatten(0, 1)[index] for item in padded)
    found = segments.pad(segments.attend(query, key, value, width, torch.nn.Dropout(0.5).eval()))
    for row, there, out in zip(rows, segments.tokens_BN, found, strict=True):
        split = row.unflatten(-1, (heads, width)).transpose(1, 2)
        scores = (split[0] @ split[1].transpose(-1, -2) / width**0.5).softmax(-1)
        wanted = (scores @ split[2]).transpose(0, 1).flatten(1)
        torch.testing.assert_close(out[there], wanted, rtol=0, atol=1e-5)
