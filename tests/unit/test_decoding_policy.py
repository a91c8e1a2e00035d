"""Policies refuse what they cannot do; the threshold falls with the position as the formula says."""

import subprocess
import sys
from math import exp, inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptive_inference.decoding import DecodingPolicy
from adaptive_inference.decoding.decay import decayed_threshold
from adaptive_inference.errors import UserError

fractions = st.floats(0.0, 1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "kepp", "exit_layer": 2}, "did you mean 'keep'"),
        ({"kind": "keep"}, "needs exit_layer"),
        ({"kind": "keep", "exit_layer": 0}, "exit_layer 0"),
        ({"kind": "keep", "exit_layer": True}, "exit_layer True"),
        ({"kind": "keep", "exit_layer": 2.0}, "exit_layer 2.0"),
        ({"kind": "keep", "exit_layer": 2, "max_pending": 0}, "max_pending 0"),
        ({"kind": "keep", "exit_layer": 2, "threshold": -0.1}, "threshold -0.1"),
        ({"kind": "keep", "exit_layer": 2, "threshold": 1.1}, "threshold 1.1"),
        ({"kind": "keep", "exit_layer": 2, "threshold": nan}, "threshold nan"),
        ({"kind": "keep", "exit_layer": 2, "threshold": "0.5"}, "threshold '0.5'"),
        ({"kind": "keep", "exit_layer": 2, "min_layer": 1}, "min_layer has no meaning"),
        ({"kind": "keep", "exit_layer": 2, "rollback": 1.0}, "rollback has no meaning"),
        ({"kind": "full", "exit_layer": 2}, "exit_layer has no meaning"),
        ({"kind": "calm", "exit_layer": 2}, "exit_layer has no meaning"),
        ({"kind": "calm", "min_layer": 0}, "min_layer 0"),
        ({"kind": "calm", "confidence": "softmax"}, "did you mean 'softmax_gap'"),
        ({"kind": "calm", "decay_tau": -1.0}, "decay_tau -1.0"),
        ({"kind": "calm", "decay_tau": inf}, "decay_tau inf"),
        ({"kind": "roll_back", "exit_layer": 2}, "rollback None"),
        ({"kind": "roll_back", "exit_layer": 2, "rollback": 0.0}, "rollback 0.0"),
        ({"kind": "roll_back", "exit_layer": 2, "rollback": nan}, "rollback nan"),
    ],
)
def test_a_policy_that_says_nothing_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        DecodingPolicy(**options)


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (DecodingPolicy("keep", exit_layer=4), "exit_layer 4: the decoder has 4 blocks, .* 1 to 3"),
        (DecodingPolicy("verify", exit_layer=5), "exit_layer 5"),
        (DecodingPolicy("static", exit_layer=5), "1 to 4"),
        (DecodingPolicy("calm", min_layer=4), "min_layer 4"),
        (DecodingPolicy("calm", confidence="saturation"), "min_layer to 2"),
    ],
)
def test_a_policy_that_does_not_fit_the_decoder_is_refused(policy, message):
    with pytest.raises(UserError, match=message):
        policy.check(4)


def test_calm_needs_two_blocks():
    with pytest.raises(UserError, match="2 blocks or more"):
        DecodingPolicy("calm").check(1)


def test_policies_that_fit_are_taken():
    DecodingPolicy("static", exit_layer=4).check(4, sampling=True)
    DecodingPolicy("keep", exit_layer=3, max_pending=None).check(4, sampling=True)
    DecodingPolicy("calm", min_layer=2, confidence="saturation", decay_tau=0.0).check(4, sampling=True)
    DecodingPolicy("roll_back", exit_layer=1, rollback=inf).check(2)


@pytest.mark.parametrize(
    "policy",
    [DecodingPolicy("verify", exit_layer=2), DecodingPolicy("roll_back", exit_layer=2, rollback=1.0)],
)
def test_tokens_that_are_compared_cannot_be_drawn(policy):
    policy.check(4)
    with pytest.raises(UserError, match="do_sample"):
        policy.check(4, sampling=True)


def test_decay_by_worked_numbers():
    """Property 14: the paper's formula at the first and the last position, and without decay."""
    assert decayed_threshold(0.5, 0, 100, 4.0) == pytest.approx(0.55)
    assert decayed_threshold(0.5, 100, 100, 4.0) == pytest.approx(0.45 + 0.1 * exp(-4.0))
    assert decayed_threshold(0.5, 25, 100, 4.0) == pytest.approx(0.45 + 0.1 * exp(-1.0))
    assert decayed_threshold(0.5, 70, 100, 0.0) == pytest.approx(0.55)
    assert decayed_threshold(0.0, 0, 100, 0.0) == pytest.approx(0.1)
    assert decayed_threshold(1.0, 100, 100, 4.0) == 1.0


@given(fractions, st.integers(0, 50), st.integers(1, 50), st.floats(0.0, 20.0))
def test_decay_stays_a_threshold_and_never_rises(threshold, position, longest, tau):
    now, later = (decayed_threshold(threshold, place, longest, tau) for place in (position, position + 1))
    assert 0.0 <= later <= now <= 1.0


def test_policies_and_estimates_load_no_torch():
    code = (
        "import sys; from adaptive_inference.decoding import AdaptiveThreshold, DecodingPolicy; "
        "from adaptive_inference.decoding.decay import decayed_threshold; assert 'torch' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
