"""The published accounting of AdapLeR, to the unit (adapler.md section 3)."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptive_inference.cost.published import (
    published_full,
    published_reduced,
    published_speedup,
    published_survivors,
)

TABLE = {
    64: (11_050_164_739, 11_088_071_986, 0.99658),
    128: (22_409_391_875, 22_485_206_322, 0.99663),
    256: (46_058_588_419, 46_210_217_266, 0.99672),
    512: (97_079_950_595, 97_383_208_242, 0.99689),
}


@pytest.mark.parametrize("length", TABLE)
def test_the_notes_table_holds_to_the_unit(length):
    full, reduced, ratio = TABLE[length]
    survivors = np.full((1, 12), length)
    assert published_full(np.array([length]), 2).tolist() == [full]
    assert published_reduced(survivors, 2).tolist() == [reduced]
    assert published_speedup(np.array([length]), survivors, 2) == pytest.approx(ratio, abs=5e-6)


def test_the_published_count_of_the_last_layer_makes_a_speed_up_of_nothing():
    scores = np.full((1, 12, 128), 1 / 128)
    survivors = published_survivors(scores, last_eta=0.25)
    assert survivors.tolist() == [[128] * 11 + [0]]
    assert published_speedup(np.array([128]), survivors, 2) == pytest.approx(1.0872, abs=5e-5)


def test_the_speed_up_is_the_ratio_of_totals():
    lengths, survivors = np.array([512, 10]), np.array([[512] * 12, [1] * 12])
    alone = [published_speedup(lengths[[i]], survivors[[i]], 2) for i in range(2)]
    both = published_speedup(lengths, survivors, 2)
    assert both < sum(alone) / 2


@given(st.lists(st.integers(1, 511), min_size=12, max_size=12), st.integers(0, 11))
def test_a_token_more_in_any_layer_costs_more(survivors, layer):
    more = list(survivors)
    more[layer] += 1
    assert published_reduced(np.array([more]), 2) > published_reduced(np.array([survivors]), 2)


def test_another_depth_is_refused():
    with pytest.raises(ValueError, match="12 layers, not 6"):
        published_reduced(np.ones((1, 6)), 2)
