"""The histogram that a server holds its confidences against: what it counts, and how often it cries wolf."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from adaptive_inference.calibration.answers import Answers
from adaptive_inference.calibration.operating_point import Goal, OperatingPoint, Seen, Setting
from adaptive_inference.cost.yardstick import Yardstick
from adaptive_inference.errors import UserError
from adaptive_inference.exit_rules._softmax import shifted_exponentials
from adaptive_inference.exits.outputs import ExitOutputs
from adaptive_inference.serving.confidences import BINS, Confidences, answer_confidences
from adaptive_inference.serving.export import with_confidences

ROUNDED = st.integers(1, 50).map(lambda number: number / 50)  # ties, as of a model that is sure of most rows
SAMPLES = arrays.arrays(np.float64, st.integers(1, 200), elements=st.one_of(ROUNDED, st.floats(0.01, 1.0)))


@given(SAMPLES)
def test_every_confidence_is_counted_once_in_the_bin_that_holds_it(values):
    found = Confidences.of(values)
    assert sum(found.counts) == len(values)
    assert len(found.counts) == len(found.edges) + 1 <= BINS
    bounds = [-math.inf, *found.edges, math.inf]
    counts = np.zeros(len(found.counts), int)
    for value in values:
        index = found.bin(value)
        assert bounds[index] < value <= bounds[index + 1]
        counts[index] += 1
    assert tuple(counts) == found.counts
    assert found.distance(found.counts) == 0.0
    assert Confidences.from_json(json.loads(json.dumps(found.to_json()))) == found


@given(SAMPLES, SAMPLES)
def test_the_distance_is_that_of_kolmogorov_and_smirnov_at_the_edges(own, other):
    found = Confidences.of(own)
    counts = np.bincount([found.bin(value) for value in other], minlength=len(found.counts))
    gaps = [abs((own <= edge).mean() - (other <= edge).mean()) for edge in found.edges]
    assert found.distance(counts) == pytest.approx(max(gaps, default=0.0), abs=1e-12)


@pytest.mark.parametrize("decimals", [None, 1])
def test_rows_like_those_of_the_calibration_alarm_no_more_often_than_is_said(decimals):
    """4,000 windows at a chance of 5 %: 5 % and three standard errors."""
    draw, chance, windows, alarms = np.random.default_rng(0), 0.05, 4000, 0
    for _ in range(windows):
        own, other = draw.beta(8, 1.5, 300), draw.beta(8, 1.5, 200)
        if decimals is not None:
            own, other = own.round(decimals), other.round(decimals)
        found = Confidences.of(own)
        counts = np.bincount(np.searchsorted(found.edges, other), minlength=len(found.counts))
        alarms += found.distance(counts) > found.limit(200, chance)
    assert alarms / windows <= chance + 3 * math.sqrt(chance * (1 - chance) / windows)


def test_less_sure_answers_are_noticed():
    draw = np.random.default_rng(0)
    found = Confidences.of(draw.beta(8, 1.5, 600))
    counts = np.bincount(np.searchsorted(found.edges, draw.beta(4, 1.5, 500)), minlength=len(found.counts))
    assert found.distance(counts) > found.limit(500, 0.001)


def outputs(logits, certainty=None):
    rows, exits, _ = logits.shape
    return ExitOutputs(
        logits=logits,
        certainty=certainty,
        labels=np.zeros(rows, np.int64),
        exits=tuple(range(1, exits + 1)),
        layers_cost=tuple(range(1, exits + 1)),
        ids=np.arange(rows),
        lengths=np.full(rows, 9),
    )


@given(st.integers(0, 1000), st.floats(0.3, 1.0))
def test_the_confidence_is_the_calibrated_one_of_the_exit_that_answers(seed, threshold):
    draw = np.random.default_rng(seed)
    logits = draw.normal(0, 2, (20, 3, 4)).astype(np.float32)
    body = {"temperatures": [0.5, 1.0, 2.0], "certainty_min": None, "certainty_max": None}
    found = answer_confidences(outputs(logits), body, Setting("confidence", threshold))
    for row, value in zip(logits, found, strict=True):
        scaled = [
            exit_logits.astype(np.float64) / t
            for exit_logits, t in zip(row, body["temperatures"], strict=True)
        ]
        sure = [1 / shifted_exponentials(item)[1].sum() for item in scaled]
        assert value == next((item for item in sure[:-1] if item >= threshold), sure[-1])


def test_a_score_has_no_confidence():
    body = {"temperatures": [1.0, 1.0]}
    assert answer_confidences(outputs(np.ones((3, 2, 1), np.float32)), body, Setting("fixed", 1.0)) is None


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"edges": [0.5], "counts": [1]},
        {"edges": [0.9, 0.5], "counts": [1, 1, 1]},
        {"edges": [0.5], "counts": [0, 0]},
        {"edges": [0.5], "counts": [2, -1]},
        {"edges": "x", "counts": None},
    ],
)
def test_what_is_no_histogram_is_refused(body):
    with pytest.raises(UserError, match="`confidences` of the calibration are no histogram"):
        Confidences.from_json(body)


def test_an_export_takes_along_the_confidences_of_the_answers_that_it_recommends(tmp_path):
    raw = outputs(np.random.default_rng(0).normal(0, 2, (90, 3, 2)).astype(np.float32))
    Answers(raw, Yardstick("accuracy", "classification", 2, 3)).save(
        tmp_path / "answers/calibration.safetensors"
    )
    body = {"temperatures": [0.5, 1.0, 2.0], "exits": [1, 2, 3], "calibrated_on": "calibration"}
    chosen = OperatingPoint(Goal("max_loss", 1.0), Setting("confidence", 0.8), True, Seen(0.9, 2.0))
    for calibration, setting in (
        (body, Setting("fixed", 2.0)),
        (body | {"recommended": chosen.to_json()}, chosen.setting),
    ):
        found = with_confidences(calibration, tmp_path)
        wanted = Confidences.of(answer_confidences(raw, calibration, setting))
        assert found == calibration | {"confidences": wanted.to_json()}
    member = {"temperatures": [1.0], "exits": [2], "calibrated_on": "calibration"}
    wanted = Confidences.of(answer_confidences(raw.alone(1), member, Setting("fixed", 0.0)))
    assert with_confidences(member, tmp_path)["confidences"] == wanted.to_json()


def test_an_export_without_the_answers_of_the_calibration_has_no_confidences(tmp_path):
    for calibrated_on in ("calibration", "rows of one's own"):
        body = {"temperatures": [1.0], "exits": [2], "calibrated_on": calibrated_on}
        assert with_confidences(body, tmp_path) == body
