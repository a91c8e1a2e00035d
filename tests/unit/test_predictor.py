"""What a saved model answers: by which rule, at which threshold, and what it refuses."""

import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from named_goals import named_goal

from adaptive_inference.calibration.operating_point import Goal, OperatingPoint, Seen, Setting
from adaptive_inference.engine import StreamStopped
from adaptive_inference.engine.stream import WINDOW_BATCHES
from adaptive_inference.engine.torch_runner import TorchRun
from adaptive_inference.errors import UserError
from adaptive_inference.exits import MultiModel, build_model
from adaptive_inference.serving.predictor import Predictor
from adaptive_inference.serving.setting import choose_setting
from adaptive_inference.settings.inputs import Backbone
from adaptive_inference.tasks.schema import Schema

SCHEMA = Schema("tiny", "classification", ("bad", "good"), "accuracy", 32)
WORDS = ["the", "a", "good", "bad", "film", "plot", "music", "lovely", "awful", "but", "very", "slow", "fast"]
TEXTS = ["a good film", "the plot was awful , but the music is lovely", "no"]


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def build(exits=(1, 2, 4), schema=SCHEMA):
    return build_model(Backbone(weights="random:bert", exits=list(exits)), schema, 0).eval()


def predict(model, texts=TEXTS, rule=None, threshold=None, batch_size=1):
    return Predictor(model, rule, threshold).predict(texts, batch_size)


def exits_of(model, **asked):
    return predict(model, **asked).exit_layers.tolist()


def point(goal, rule, threshold, quality=0.9, speedup=2.0, flops=None, member=None):
    """Return a point that qualifies, or with ``threshold`` None one that nothing reaches."""
    seen = None if threshold is None else Seen(quality, speedup, flops)
    return OperatingPoint(named_goal(goal), Setting(rule, threshold, member), seen is not None, seen)


POINTS = (
    point("max_loss_1", "confidence", 0.0, 0.9, 4.0),
    point("max_loss_1", "entropy", 0.01, 0.9, 2.0),
    point("min_speedup_2", "margin", 0.3, 0.8, 2.5),
    point("max_loss_1", "margin", None),
)


def calibration(*points, recommended=None, exits=3):
    return {
        "temperatures": [1.0] * exits,
        "certainty_min": None,
        "certainty_max": None,
        "operating_points": [item.to_json() for item in points],
        "recommended": None if recommended is None else recommended.to_json(),
    }


def calibrated(*points, recommended=None):
    model = build()
    model.calibration = calibration(*points, recommended=recommended)
    return model


def choose(body, rule=None, threshold=None):
    setting = choose_setting(body, 3, SCHEMA, rule, threshold)
    return setting.rule, setting.threshold


def test_without_calibration_the_whole_model_answers():
    answer = predict(build())
    assert answer.exit_layers.tolist() == [4, 4, 4]
    assert answer.probabilities.shape == (3, 2)
    assert abs(answer.probabilities.sum(1) - 1).max() < 1e-12
    assert answer.labels == [SCHEMA.labels[row.argmax()] for row in answer.probabilities]


def test_the_recommended_operating_point_answers_unless_told_otherwise():
    model = calibrated(*POINTS, recommended=POINTS[0])
    assert exits_of(model) == [1, 1, 1]
    assert exits_of(model, threshold=1.01) == [4, 4, 4]
    assert exits_of(model, rule="fixed") == [4, 4, 4]
    assert exits_of(model, rule="fixed", threshold=1) == [2, 2, 2]
    body = model.calibration
    assert choose(body, "entropy") == ("entropy", 0.01)
    with pytest.raises(
        UserError, match=r"'margin' keeps the quality.*name one yourself: 0\.3 \(min_speedup_2\)"
    ):
        choose(body, "margin")
    assert choose(body, "patience( tolerance=.2 )", 2.0) == ("patience(tolerance=0.2)", 2.0)
    with pytest.raises(
        UserError, match=r"no calibrated threshold for rule 'uncertainty'.*confidence, entropy, margin"
    ):
        choose(body, "uncertainty")


def test_where_nothing_is_recommended_the_whole_model_answers():
    assert exits_of(calibrated(point("max_loss_1", "confidence", None))) == [4, 4, 4]
    assert exits_of(calibrated(point("max_loss_1", "oracle", 0.0))) == [4, 4, 4]


def test_a_fixed_exit_can_be_recommended():
    model = calibrated(recommended=point("max_loss_1", "fixed", 1.0))
    assert exits_of(model) == exits_of(model, rule="fixed") == [2, 2, 2]


def test_a_bound_and_a_member_alone_are_never_offered():
    body = calibration(point("max_loss_1", "oracle", 0.0), point("static_2", "fixed", 0.0, member=2))
    with pytest.raises(UserError, match="use a rule that has one: none"):
        choose(body, "confidence")


@given(st.lists(st.tuples(st.floats(0.5, 1), st.floats(1, 4), st.floats(1, 4)), min_size=1, max_size=5))
def test_a_rule_alone_takes_its_cheapest_point_in_the_goals_currency(found):
    for cost in ("layers", "flops"):
        points = [
            OperatingPoint(Goal("max_loss", 1.0, cost), Setting("margin", float(k)), True, Seen(*figures))
            for k, figures in enumerate(found)
        ]
        # a certified risk and a goal of speed keep no quality, however cheap
        others = [
            point("min_speedup_2", "margin", 9.0, 0.4, 9.0, 9.0),
            point("risk_0.1", "margin", 9.0, 0.4, 9.0),
        ]
        chosen = choose(calibration(*others, *points), "margin")
        best = max(points, key=lambda item: (item.seen.speedup(cost), item.seen.quality))
        assert chosen == ("margin", best.setting.threshold)


def test_a_calibration_of_an_older_form_is_told():
    body = calibration() | {"recommended": {"rule": "fixed", "threshold": 1.0, "operating_point": None}}
    with pytest.raises(UserError, match=r"lacks or mistypes 'seen'; calibrate the model again"):
        choose(body)


def test_an_entropy_threshold_above_ln_c_is_refused_from_a_user_and_taken_from_a_calibration():
    leaves_all = 1.01 * math.log(2)  # the first of the rule's own grid
    own = point("max_loss_1", "entropy", leaves_all)
    model = calibrated(own, recommended=own)
    assert exits_of(model) == [1, 1, 1]
    assert exits_of(model, rule="entropy") == [1, 1, 1]
    for rule in ("entropy", None):
        with pytest.raises(UserError, match=r"entropy threshold 0\.7.* is above ln 2 = 0\.6931"):
            predict(model, rule=rule, threshold=leaves_all)


def test_a_threshold_without_a_rule_is_refused_where_no_rule_is_recommended():
    """It would be read as an exit index, and 0.95 would send every text out at the second exit."""
    with pytest.raises(UserError, match="needs a rule"):
        predict(build(), threshold=0.95)


def test_temperatures_change_probabilities_and_no_label():
    model = build()
    model.calibration = calibration() | {"temperatures": [4.0, 4.0, 4.0]}
    warm, cold = predict(model, rule="fixed"), predict(build(), rule="fixed")
    assert warm.labels == cold.labels
    assert (warm.probabilities.max(1) < cold.probabilities.max(1)).all()


def test_a_cascade_answers_as_its_last_member_where_nothing_leaves_before():
    members = [build(exits=[layer]) for layer in (1, 4)]
    whole, last = predict(MultiModel(members)), predict(members[-1])
    assert whole.exit_layers.tolist() == last.exit_layers.tolist() == [4, 4, 4]
    assert (whole.probabilities == last.probabilities).all()


def test_a_pair_task_reads_two_texts_and_a_regression_answers_scores():
    pair = build(schema=Schema("pair", "regression", None, "pearson", 32, ("premise", "hypothesis")))
    answer = predict(pair, [("a film", "a movie"), ["a film", "food"]])
    assert answer.probabilities is None
    assert all(isinstance(label, float) for label in answer.labels)
    with pytest.raises(UserError, match=r"text 1: 'alone' does not fit task pair, which reads 2 strings"):
        predict(pair, [("a", "b"), "alone"])


@pytest.mark.parametrize("texts", ["one string", [None], [3], [("a", "b")], [["a", None]]])
def test_texts_of_the_wrong_shape_are_told(texts):
    with pytest.raises(UserError, match=r"one string|does not fit"):
        predict(build(), texts)


def test_no_texts_give_no_answers():
    answer = predict(build(), [])
    assert (answer.labels, answer.probabilities.shape, answer.exit_layers.shape) == ([], (0, 2), (0,))


@pytest.mark.parametrize("batch_size", [0, -1, 2.5, None])
def test_a_batch_of_no_whole_number_of_rows_is_refused(batch_size):
    for ask in (
        lambda: predict(build(), batch_size=batch_size),
        lambda: list(Predictor(build()).stream(TEXTS, batch_size)),
    ):
        with pytest.raises(UserError, match=f"batch size {batch_size} must be a whole number from 1"):
            ask()


def long_and_short(count, seed):
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(1, 20))) for _ in range(count)]


@pytest.mark.parametrize("rule", [("confidence", 0.5003), ("patience", 1), ("fixed", 1)])
def test_answers_are_in_the_texts_order_and_those_of_single_texts(rule):
    model = build()
    model.calibration = calibration() | {"temperatures": [0.5, 2.0, 1.0]}
    predictor, texts = Predictor(model, *rule), long_and_short(45, 0)
    alone = [predictor.answer(text) for text in texts]
    for size in (1, 7, 32, 100):
        found = predictor.predict(texts, size)
        assert found.exit_layers.tolist() == [answer.exit_layer for answer in alone]
        assert found.labels == [answer.label for answer in alone]
        expected = np.array([answer.probabilities for answer in alone])
        np.testing.assert_allclose(found.probabilities, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("size", "asked"), [(1, 1), (2, 2 * WINDOW_BATCHES), (3, 3 * WINDOW_BATCHES)])
def test_a_stream_answers_in_order_and_reads_no_further_than_it_must(size, asked):
    predictor, texts, read = Predictor(build(), "fixed", 0), long_and_short(100, 1), []

    def lines():
        for text in texts:
            read.append(text)
            yield text

    stream = predictor.stream(lines(), size)
    first = next(stream)
    assert len(read) == asked, "one by one is answered line by line"
    answers = [first, *stream]
    assert [answer.label for answer in answers] == predictor.predict(texts).labels


def test_batches_hold_rows_of_like_length(monkeypatch):
    predictor, widths = Predictor(build(), "fixed", 0), []
    start = predictor.engine.start
    monkeypatch.setattr(
        predictor.engine,
        "start",
        lambda batch, places: widths.append(batch["input_ids"].shape) or start(batch, places),
    )
    predictor.predict(long_and_short(20, 2), 8)
    assert [rows for rows, _ in widths] == [8, 8, 4]
    assert [width for _, width in widths] == sorted(width for _, width in widths)


@pytest.mark.parametrize("runs", [0, 9, 20])
def test_a_stream_that_stops_gives_all_that_was_answered(runs, monkeypatch):
    """As a device runs out of memory: in order what was yielded, by its place what waits for a text before it."""
    predictor, texts = Predictor(build(), "confidence", 0.5003), long_and_short(100, 3)
    expected, left = predictor.predict(texts).exit_layers, [runs]
    advance = TorchRun.advance

    def fails(*given):
        if not left[0]:
            raise torch.OutOfMemoryError("CUDA out of memory")
        left[0] -= 1
        return advance(*given)

    monkeypatch.setattr(TorchRun, "advance", fails)
    found = []
    with pytest.raises(StreamStopped, match="a batch size below 4") as told:
        found.extend(predictor.stream(iter(texts), 4))
    finished = told.value.finished
    assert min(finished, default=len(found)) >= len(found)
    assert len(found) + len(finished) == told.value.answered
    assert (told.value.answered > 0) == (runs > 0)
    for place, answer in [*enumerate(found), *finished.items()]:
        assert answer.exit_layer == expected[place]
