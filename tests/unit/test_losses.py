"""Losses over the blocks of a decoder: hand formulas, gradients, layer maps (free.md section 8, properties 10 and 11)."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_decoders import BLOCKS, FAMILIES, WIDTH, collate, tiny_decoder, tiny_features
from torch.nn.functional import cross_entropy, mse_loss
from transformers import MambaConfig, MambaForCausalLM

from adaptive_inference.errors import UserError
from adaptive_inference.generation.layer_maps import dynamic_map, uniform_map
from adaptive_inference.generation.layer_states import LayerStates
from adaptive_inference.generation.losses import LayerLoss, squared_distances
from adaptive_inference.settings.generation import LossTraining

SHALLOW = 2
TOKENS = 5
pairs = st.integers(2, 40).flatmap(lambda deep: st.tuples(st.integers(1, deep - 1), st.just(deep)))


def make_loss(name, blocks=BLOCKS, exit_layer=SHALLOW, **more):
    shallow = {"exit_layer": exit_layer} if name.startswith("shallowdeep") else {}
    return LayerLoss(LossTraining(loss=name, **shallow, **more), blocks, WIDTH)


def random_states(blocks=BLOCKS, seed=0):
    draw = torch.Generator().manual_seed(seed)
    states = {
        layer: torch.randn(TOKENS, WIDTH, generator=draw, requires_grad=True)
        for layer in range(1, blocks + 1)
    }
    matrix = torch.randn(WIDTH, 11, generator=draw)
    return states, torch.randint(0, 11, (TOKENS,), generator=draw), lambda state: state @ matrix


# ------------------------------------------------------------------ property 10


def test_losses_equal_hand_formulas():
    states, labels, head = random_states()
    h1, h2, _h3, h4 = states.values()
    ce = [cross_entropy(head(state), labels) for state in states.values()]
    shallow_deep = (2 * ce[1] + 4 * ce[3]) / 6
    dynamic = min(
        ((mse_loss(h2, h4) if last == 2 else mse_loss(h1, h4)), last) for last in (1, 2)
    )  # the last teacher (block 4) takes the nearer student, the first one (block 2) what is before it, else the same
    kd = {
        "ce": 0.0,
        "last": mse_loss(h2, h4),
        "unif": (mse_loss(h1, h2) + mse_loss(h2, h4)) / 2,
        "dyna": (dynamic[0] + mse_loss(h1, h2)) / 2,
    }
    expected = {
        "final_ce": ce[3],
        "ce": sum(ce) / 4,
        "weighted_ce": (ce[0] + 2 * ce[1] + 3 * ce[2] + 4 * ce[3]) / 10,
        "shallowdeep_ce": shallow_deep,
        "shallowdeep_kd_last": shallow_deep + 0.5 * kd["last"],
        "shallowdeep_kd_unif": shallow_deep + 0.5 * kd["unif"],
        "shallowdeep_kd_dyna": shallow_deep + 0.5 * kd["dyna"],
    }
    for name, value in expected.items():
        got = make_loss(name)(states, labels, head)
        torch.testing.assert_close(got.sum(), value, msg=lambda text, name=name: f"{name}: {text}")


def test_terms_belong_to_their_exits():
    states, labels, head = random_states()
    loss = make_loss("shallowdeep_kd_last", alpha=2.0)
    assert loss.exits == (SHALLOW, BLOCKS)
    shallow, deep = loss(states, labels, head)
    torch.testing.assert_close(deep, 4 / 6 * cross_entropy(head(states[4]), labels))
    torch.testing.assert_close(
        shallow, 2 / 6 * cross_entropy(head(states[2]), labels) + 2 * mse_loss(states[2], states[4])
    )


@pytest.mark.parametrize("kind", ["last", "unif", "dyna"])
def test_blocks_above_the_exit_learn_nothing_from_distillation(kind):
    states, _, _ = random_states(6)
    make_loss(f"shallowdeep_kd_{kind}", blocks=6, exit_layer=3).distillation(states).backward()
    learning = {
        layer for layer, state in states.items() if state.grad is not None and state.grad.abs().sum() > 0
    }
    assert learning
    assert learning <= {1, 2, 3}
    assert learning == {"last": {3}, "unif": {1, 2, 3}}.get(kind, learning)


@pytest.mark.parametrize("family", ["t5", "llama"])
def test_in_a_model_the_distillation_trains_blocks_up_to_the_exit_alone(family):
    model, loss = tiny_decoder(family).eval(), make_loss("shallowdeep_kd_unif")
    states, _ = LayerStates(model)(collate(tiny_features(family)), loss.layers)
    loss.distillation(states).backward()
    blocks = model.decoder.block if family == "t5" else model.model.layers
    for number, block in enumerate(blocks, 1):
        learns = any(item.grad is not None and item.grad.any() for item in block.parameters())
        assert learns == (number <= SHALLOW)


@pytest.mark.parametrize("kind", ["last", "unif", "dyna"])
@pytest.mark.parametrize("projection", [False, True])
def test_without_weight_the_distillation_is_gone(kind, projection):
    states, labels, head = random_states()
    plain = make_loss("shallowdeep_ce")(states, labels, head)
    without = make_loss(f"shallowdeep_kd_{kind}", alpha=0.0, projection=projection)(states, labels, head)
    assert torch.equal(without, plain)
    assert make_loss(f"shallowdeep_kd_{kind}")(states, labels, head).sum() > plain.sum()


def test_a_fresh_projection_changes_nothing_and_is_learned():
    states, labels, head = random_states()
    loss = make_loss("shallowdeep_kd_unif", projection=True)
    got = loss(states, labels, head)
    torch.testing.assert_close(got, make_loss("shallowdeep_kd_unif")(states, labels, head))
    got.sum().backward()
    assert loss.projection.weight.grad.abs().sum() > 0


def test_losses_without_distillation_have_no_projection():
    assert make_loss("shallowdeep_ce", projection=True).projection is None
    assert not list(make_loss("weighted_ce").parameters())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ["weighted_ce", "shallowdeep_kd_dyna"])
def test_padding_changes_no_loss(family, name):
    model, loss = tiny_decoder(family).eval(), make_loss(name)
    answers, features = LayerStates(model), tiny_features(family)
    values = []
    for pad in (0, 3):
        states, labels = answers(collate(features, pad), loss.layers)
        values.append(loss(states, labels, answers.logits))
    torch.testing.assert_close(*values)


@pytest.mark.parametrize("exit_layer", [BLOCKS, BLOCKS + 1])
def test_a_shallow_model_must_be_shallower(exit_layer):
    with pytest.raises(UserError, match=f"exit_layer {exit_layer} is not below the decoder's 4 blocks"):
        make_loss("shallowdeep_ce", exit_layer=exit_layer)


# ------------------------------------------------------------------ property 11


@given(pairs)
def test_the_uniform_map_rises_to_the_last_block_and_every_teacher_is_deeper(pair):
    shallow, deep = pair
    teachers = uniform_map(shallow, deep)
    assert len(teachers) == shallow
    assert teachers[-1] == deep
    assert all(later > earlier for earlier, later in itertools.pairwise(teachers))
    assert all(teacher > student for student, teacher in enumerate(teachers, 1))
    if deep % shallow == 0:
        assert teachers == tuple(range(deep // shallow, deep + 1, deep // shallow))


def test_uniform_maps_of_the_reference():
    assert uniform_map(6, 24) == (4, 8, 12, 16, 20, 24)
    assert uniform_map(8, 24) == (3, 6, 9, 12, 15, 18, 21, 24)
    assert uniform_map(3, 12) == (4, 8, 12)
    # Its hand-written 24/10 map (3, 6, 8, 11, 13, 16, 18, 20, 22, 24) is no floor(a j + b): 3 at the first, 6 at the
    # second, 16 at the sixth and 24 at the tenth need a > 9/4 and a < 9/4.
    assert uniform_map(10, 24) == (3, 5, 8, 10, 12, 15, 17, 20, 22, 24)


def brute_force_map(distances):
    """The note's words, one by one."""
    count = len(distances)
    found, bound = [0] * count, count + 1
    for teacher in range(count, 0, -1):
        candidates = [student for student in range(1, count + 1) if student < bound]
        if candidates:
            bound = min(candidates, key=lambda student: (distances[teacher - 1][student - 1], student))
        found[teacher - 1] = bound
    return tuple(found)


@given(st.integers(1, 8), st.integers(0, 2**32 - 1), st.booleans())
def test_the_dynamic_map_equals_brute_force_and_falls_until_the_first_student(count, seed, coarse):
    draw = np.random.default_rng(seed)
    distances = draw.random((count, count))
    distances = np.round(3 * distances).tolist() if coarse else distances.tolist()  # coarse: with ties
    found = dynamic_map(distances)
    assert found == brute_force_map(distances)
    assert all(1 <= student <= count for student in found)
    assert all(a < b or a == b == 1 for a, b in itertools.pairwise(found))


@pytest.mark.parametrize("shallow", [1, 2, 3])
def test_students_equal_to_their_teachers_are_mapped_to_them_at_no_distance(shallow):
    deep = shallow * (shallow + 1)  # so that no teacher is a student too
    loss = make_loss("shallowdeep_kd_dyna", blocks=deep, exit_layer=shallow)
    states, _, _ = random_states(deep)
    states |= {
        student: states[teacher] for student, teacher in zip(loss.students, loss.teachers, strict=True)
    }
    distances = squared_distances([states[t] for t in loss.teachers], [states[s] for s in loss.students])
    assert dynamic_map(distances.tolist()) == loss.students
    assert loss.distillation(states) == 0


# ------------------------------------------------------------------ states of stock models


@pytest.mark.parametrize("family", FAMILIES)
def test_the_last_state_gives_the_stock_models_loss(family):
    model = tiny_decoder(family).eval()
    answers, batch = LayerStates(model), collate(tiny_features(family))
    assert answers.blocks == BLOCKS
    states, labels = answers(batch, [BLOCKS])
    stock = model(**{key: value for key, value in batch.items() if key != "ids"}).loss
    torch.testing.assert_close(cross_entropy(answers.logits(states[BLOCKS]), labels), stock)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kept", [1, 3])
def test_an_inner_state_is_the_last_of_a_model_of_so_many_blocks(family, kept):
    model = tiny_decoder(family).eval()
    batch, answers = collate(tiny_features(family)), LayerStates(model)
    inner, _ = answers(batch, [kept])
    logits = answers.logits(inner[kept])
    depth = {"t5": "num_decoder_layers", "gpt2": "n_layer"}
    name = depth.get("t5" if "t5" in family else family, "num_hidden_layers")
    shallow = tiny_decoder(family, **{name: kept}).eval()
    shallow.load_state_dict(model.state_dict(), strict=False)
    last, _ = LayerStates(shallow)(batch, [kept])
    torch.testing.assert_close(LayerStates(shallow).logits(last[kept]), logits)


def test_projections_around_opts_blocks_are_part_of_its_answers():
    model = tiny_decoder("opt", word_embed_proj_dim=8, do_layer_norm_before=False).eval()
    answers, batch = LayerStates(model), collate(tiny_features("opt"))
    states, labels = answers(batch, [2, BLOCKS])
    assert answers.width == 8
    assert states[2].shape == states[BLOCKS].shape == (len(labels), 8)
    stock = model(**{key: value for key, value in batch.items() if key != "ids"}).loss
    torch.testing.assert_close(cross_entropy(answers.logits(states[BLOCKS]), labels), stock)


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
def test_the_side_of_the_padding_does_not_matter(family):
    model = tiny_decoder(family).eval()
    answers, features = LayerStates(model), tiny_features(family)
    right, labels = answers(collate(features), [2, BLOCKS])
    left, same = answers(collate(features, pad=2, left=True), [2, BLOCKS])
    assert torch.equal(labels, same)
    for layer in right:
        torch.testing.assert_close(left[layer], right[layer])


def test_every_exit_has_its_own_dropout_in_training_and_none_otherwise():
    model = tiny_decoder("t5", dropout_rate=0.5)
    answers, batch = LayerStates(model), collate(tiny_features("t5"))
    dropped, _ = answers(batch, [1, 2, BLOCKS])
    for state in dropped.values():
        assert 0.3 < (state == 0).float().mean() < 0.7
    assert not torch.equal(dropped[1] == 0, dropped[2] == 0)
    kept, _ = LayerStates(model.eval())(batch, [1, BLOCKS])
    assert all((state != 0).all() for state in kept.values())


def test_families_that_are_not_served_and_skipped_blocks_are_refused():
    mamba = MambaForCausalLM(MambaConfig(hidden_size=8, num_hidden_layers=1, vocab_size=16))
    with pytest.raises(UserError, match="'mamba' cannot be trained with exits; allowed: t5"):
        LayerStates(mamba)
    with pytest.raises(UserError, match=r"layerdrop 0\.1 skips blocks at random"):
        LayerStates(tiny_decoder("opt", layerdrop=0.1))
