"""What tells one training from another."""

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_training import EE, SCORES, SWEET, recipe_of

from adaptive_inference.settings.protocol import Runtime
from adaptive_inference.settings.training import MethodTraining, Training
from adaptive_inference.training.loss_weights import weight_figures
from adaptive_inference.training.recipe import Recipe

OTHERS = {
    "schema": SCORES,
    "training": Training(epochs=7),
    "method": SWEET,
    "runtime": Runtime(device="cpu", threads=2),
    "seed": 1,
}


@pytest.mark.parametrize("name", [item.name for item in fields(Recipe)])
def test_the_digest_changes_with_every_part_of_a_recipe(name):
    recipe = recipe_of()
    assert replace(recipe, **{name: OTHERS[name]}).digest() != recipe.digest() == recipe_of().digest()
    assert recipe.digest("x") != recipe.digest()


@pytest.mark.parametrize(
    ("section", "model", "update"),
    [
        ("training", Training, {"learning_rate": 1e-3}),
        ("training", Training, {"group_by_length": True}),
        ("method", MethodTraining, {"weights": "depth"}),
        ("runtime", Runtime, {"precision": "bf16", "device": "cpu"}),
    ],
)
def test_the_digest_changes_with_a_key_of_a_section(section, model, update):
    assert replace(recipe_of(), **{section: model(**update)}).digest() != recipe_of().digest()


def test_one_exit_is_trained_alike_by_equal_optimisation_and_objective():
    recipe = recipe_of(EE)
    assert recipe.trains_as(recipe_of(SWEET))  # how exits share a model says nothing where there is one
    assert not recipe.trains_as(recipe_of(EE, epochs=9))
    assert not recipe.trains_as(recipe_of(MethodTraining(objective="distill")))


@st.composite
def trajectories(draw):
    """Weights of exits and teachers that start at 1; the teachers that no exit has stay 0."""
    exits, moments = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    has = np.array(draw(st.lists(st.booleans(), min_size=exits**2, max_size=exits**2))).reshape(exits, exits)
    weight = st.floats(-3, 3).filter(lambda value: value != 0)
    rows = []
    for step in range(moments):
        drawn = np.array(draw(st.lists(weight, min_size=exits**2 + exits, max_size=exits**2 + exits)))
        values = np.ones_like(drawn) if step == 0 else drawn
        truth, teachers = values[:exits], values[exits:].reshape(exits, exits) * has
        rows.append({"step": 10 * (step + 1), "truth": truth.tolist(), "teachers": teachers.tolist()})
    return rows, has


@given(trajectories())
def test_the_figures_of_the_weights_are_those_of_the_last_moment_and_of_terms_that_there_are(drawn):
    rows, has = drawn
    last = np.concatenate([rows[-1]["truth"], np.array(rows[-1]["teachers"])[has]])
    found = weight_figures(rows)
    assert (found["steps"], found["terms"]) == (rows[-1]["step"], len(last))
    assert (found["min"], found["max"]) == (last.min(), last.max())
    assert found["max_deviation"] == abs(last - 1).max()
    assert found["mean_deviation"] == pytest.approx(abs(last - 1).mean())
