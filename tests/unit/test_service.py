"""What a service answers for each kind of model, in one process: pairs, scores, cascades; its table and its counts."""

import math

import numpy as np
import pytest
import torch
from serving_http import SAVED

from adaptive_inference import load_predictor
from adaptive_inference.errors import UserError
from adaptive_inference.exits import build_model
from adaptive_inference.serving.predictor import Predictor
from adaptive_inference.settings.inputs import Backbone
from adaptive_inference.tasks.schema import Schema
from adaptive_pipeline.serving.latency import LEAST, LatencyTable, length_of
from adaptive_pipeline.serving.request import Options
from adaptive_pipeline.serving.service import READY, Service, told

PAIRS = Schema("pairs", "regression", None, "pearson", 40, ("question", "answer"))


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def scores_of_pairs():
    return Predictor(build_model(Backbone(weights="random:bert", exits=[1, 2, 4]), PAIRS, 0).eval())


KINDS = {
    "classes": (lambda: load_predictor(SAVED), ("a good film",)),
    "cascade": (lambda: load_predictor(SAVED.with_name("cascade")), ("a good film",)),
    "scores of pairs": (scores_of_pairs, ("is it good", "very good")),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_service_answers_as_its_predictor_under_every_option(kind):
    make, text = KINDS[kind]
    predictor = make()
    service = Service(predictor)
    last = len(predictor.model.exits) - 1
    for options in (Options(), Options("fixed"), Options("fixed", 0.0), Options("fixed", max_latency_ms=1e6)):
        found = service.submit(text, options).result()
        assert found == told(predictor.under(options.rule, options.threshold).answer(text), predictor.schema)
    first = float(service.latency.milliseconds[0, 0])
    held = service.submit(text, Options("fixed", max_latency_ms=first)).result()
    deepest = service.latency.deepest(length_of(predictor, text), first)
    assert held == told(predictor.under("fixed", deepest=deepest).answer(text), predictor.schema)
    with pytest.raises(UserError, match="nerve"):
        service.submit(text, Options("nerve")).result()
    report = service.report()
    assert (report["texts"], report["max_latency_ms"]["asked"], last > 0) == (5, 2, True)
    service.close()


def test_settings_beyond_those_kept_ready_answer_too():
    service = Service(load_predictor(SAVED))
    for number in range(READY + 5):
        service.submit(("a good film",), Options(threshold=number / 100)).result()
    assert service.submit(("a good film",), Options()).result()["exit_layer"] in (1, 2, 3)
    service.close()


def test_the_table_grows_with_length_and_depth_up_to_the_longest_text():
    table = LatencyTable.measure(scores_of_pairs())
    assert list(table.lengths) == sorted({*table.lengths})
    assert table.lengths[0] >= LEAST
    assert table.lengths[-1] == PAIRS.max_length
    assert (np.diff(table.milliseconds, axis=0) >= 0).all()
    assert (np.diff(table.milliseconds, axis=1) >= 0).all()
    assert table.layers == (1, 2, 4)


def test_a_text_is_held_at_the_deepest_exit_whose_time_of_a_longer_text_fits():
    table = LatencyTable((16, 32), (0, 1, 3), (1, 2, 6), np.array([[1.0, 2.0, 4.0], [2.0, 4.0, 8.0]]))
    assert [table.deepest(length, 4.0) for length in (3, 16, 17, 32, 99)] == [3, 3, 1, 1, 1]
    assert [table.deepest(16, ms) for ms in (1.0, 1.999, 2.0, math.inf)] == [0, 0, 1, 3]
    with pytest.raises(UserError, match=r"is 1\.5, and a text of 20 tokens takes up to 2 ms"):
        table.deepest(20, 1.5)
