"""Rows of a stream get the answers that they get alone, in full batches; what is answered is kept whatever happens."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_engine_batches import CALIBRATION, CASES, EXITS, TOLERANCE, model_of, one_by_one, texts
from test_engine_lazy import Labels, engine_over
from test_packed import MODELS

from adaptive_inference.engine import Engine, Stream, StreamStopped
from adaptive_inference.engine.stream import WINDOW_BATCHES
from adaptive_inference.engine.torch_runner import TorchRunner
from adaptive_inference.errors import UserError
from adaptive_inference.exit_rules import load_rule
from adaptive_inference.exit_rules.base import OnlineRule
from adaptive_inference.tasks.encode import collate


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    torch.set_num_threads(1)


def features(rows):
    return [{"input_ids": row.tolist(), "attention_mask": [1] * len(row), "length": len(row)} for row in rows]


def stream_of(engine, size):
    return Stream(engine, size, lambda rows: collate(rows, 0))


def in_order(stream, rows):
    """Return all decisions by place, and check that each place comes once."""
    found = list(stream.run(iter(rows)))
    places = np.concatenate([answered.places for answered in found])
    assert sorted(places.tolist()) == list(range(len(rows)))
    order = places.argsort()
    indices, layers, logits = (
        np.concatenate([getattr(item.decisions, name) for item in found])[order]
        for name in ("exit_indices", "exit_layers", "logits")
    )
    return indices, layers, logits, found


@settings(max_examples=80, deadline=None)
@given(
    case=st.sampled_from(CASES),
    place=st.floats(0, 1),
    count=st.integers(1, 40),
    size=st.integers(1, 9),
    window=st.integers(1, 4),
    seed=st.integers(0, 10_000),
)
def test_rows_of_a_stream_are_answered_as_alone(case, place, count, size, window, seed):
    kind, name = case
    rule = load_rule(name)
    grid = rule.grid(3, 30, len(EXITS))
    engine = Engine(model_of(kind), rule, float(grid[round(place * (len(grid) - 1))]), CALIBRATION)
    stream = stream_of(engine, size)
    stream.window = window * size
    rows = texts(count, seed)
    indices, layers, logits, _ = in_order(stream, features(rows))
    raw, calibrated, sure = one_by_one(engine.model, engine.calibrator, rows)
    tolerance = TOLERANCE * np.abs(raw).max()
    near = rule.near_threshold(calibrated, sure, engine.threshold, 4 * tolerance)
    expected = rule.exit_indices(calibrated, sure, None, np.array([engine.threshold]))[0]
    np.testing.assert_array_equal(indices[~near], expected[~near])
    np.testing.assert_allclose(logits, raw[np.arange(count), indices], rtol=0, atol=tolerance)
    assert layers.tolist() == [engine.model.exits[index] for index in indices]


@pytest.mark.parametrize("kind", ["bert", "mpnet"])
def test_rows_that_are_padded_no_more_after_a_merge_are_cut_down_as_others(kind):
    model = model_of(kind)
    batch = {
        "input_ids": torch.full((3, 4), 7),
        "attention_mask": torch.tensor([[1] * 4, [1] * 4, [1, 1, 0, 0]]),
    }
    runner = TorchRunner(model, False)
    with runner.inference():
        one, two, alone = (runner.start(batch, alone=False) for _ in range(3))
        for run in (one, two, alone):
            run.advance(0, [0])
            run.select(np.arange(2))  # the padded row leaves
        one.merge([two])
        one.select(np.arange(3))
        found, wanted = (run.advance(1, [1])[1].logits for run in (one, alone))
    np.testing.assert_allclose(found, wanted[[0, 0, 0]], rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", MODELS)
def test_rows_that_lose_tokens_lose_the_same_in_a_stream(kind):
    model, rows, taken = MODELS[kind], texts(37, 4), set()
    model.reduction.eta.data.fill_(0.7)
    for threshold in (0.4, 0.6, 0.9):
        engine = Engine(model, "confidence", threshold)
        indices, _, logits, found = in_order(stream_of(engine, 5), features(rows))
        survivors = {
            place: kept
            for answered in found
            for place, kept in zip(answered.places, answered.decisions.survivors, strict=True)
        }
        for place, row in enumerate(rows):
            alone = engine.run({"input_ids": row[None]})
            assert alone.exit_indices == [indices[place]]
            assert survivors[place].tolist() == alone.survivors[0].tolist()
            np.testing.assert_allclose(logits[place], alone.logits[0], rtol=0, atol=1e-5)
        taken |= set(indices.tolist())
    assert len(taken) > 1


def test_what_cannot_be_merged_is_answered_in_batches_one_after_the_other():
    model = MODELS["bert", "first"]
    runner = TorchRunner(model, False, packed=False)
    assert not runner.merges
    padded = stream_of(Engine(model, "confidence", 0.5, runner=runner), 3)
    packed, rows = stream_of(Engine(model, "confidence", 0.5), 3), features(texts(30, 0))
    (wanted, _, logits, _), (found, _, others, _) = in_order(packed, rows), in_order(padded, rows)
    assert found.tolist() == wanted.tolist()
    np.testing.assert_allclose(others, logits, rtol=0, atol=1e-5)


def test_rows_that_lose_tokens_and_are_padded_are_not_merged():
    model, batches = MODELS["bert", "first"], [collate(features(texts(3, seed)), 0) for seed in (0, 1)]
    with torch.inference_mode():
        one, two = (model.start(batch) for batch in batches)
        for forward in (one, two):
            forward.reach(0)
        with pytest.raises(UserError, match="can only be merged where all are packed"):
            one.merge([two])


class Watched(Labels):
    """Rows whose answers are known, by the input's one token; every batch is written down, and some segment may fail."""

    merges = True

    def __init__(self, labels, cuts=None, fails_after=np.inf):
        super().__init__(labels, cuts=cuts)
        self.batches, self.left_to_run = [], fails_after

    def start(self, features, alone=True):
        assert not alone
        return Rows(self, np.asarray(features["input_ids"])[:, 0])


class Rows:
    survivors = None

    def __init__(self, runner, rows):
        self.runner, self.rows, self.at = runner, rows, -1

    def advance(self, index, answers=()):
        assert index == next(cut for cut in self.runner.cuts if cut > self.at)
        if not self.runner.left_to_run:
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate more")
        self.runner.left_to_run -= 1
        self.runner.batches.append((self.at, self.rows.copy()))
        self.at = index
        there = Labels(self.runner.labels[self.rows])
        there.start({})
        return there.advance(index, answers)

    def select(self, rows):
        self.rows = self.rows[rows]

    def take(self, rows):
        taken = Rows(self.runner, self.rows[rows])
        taken.at = self.at
        return taken

    def merge(self, others):
        assert {other.at for other in others} == {self.at}
        self.rows = np.concatenate([self.rows, *(other.rows for other in others)])


def numbered(count, lengths=None):
    draw = np.random.default_rng(5)
    lengths = draw.integers(1, 30, count) if lengths is None else lengths
    return [{"input_ids": [row] * n, "length": int(n)} for row, n in enumerate(lengths)]


def watched(labels, size, rule="patience", threshold=2.0, **more):
    runner = Watched(labels, **more)
    stream = Stream(
        engine_over(runner, rule, threshold),
        size,
        lambda rows: {"input_ids": [row["input_ids"][:1] for row in rows]},
    )
    return runner, stream


labels_of = st.tuples(st.integers(1, 7), st.integers(1, 60), st.integers(0, 999)).map(
    lambda drawn: np.random.default_rng(drawn[2]).integers(0, 2, (drawn[1], drawn[0]))
)


@settings(max_examples=200, deadline=None)
@given(
    labels=labels_of,
    size=st.integers(1, 8),
    window=st.integers(1, 5),
    rule=st.sampled_from(["patience", "voting", "confidence", "fixed", "patience_confidence"]),
    level=st.integers(1, 5),
    data=st.data(),
)
def test_every_segment_but_the_last_of_a_window_runs_on_a_full_batch(labels, size, window, rule, level, data):
    last = labels.shape[1] - 1
    cuts = tuple(sorted({*data.draw(st.sets(st.integers(0, last))), last}))
    threshold = 0.75 if "confidence" in rule else float(level)
    runner, stream = watched(labels, size, rule, threshold, cuts=cuts)
    stream.window = window * size
    indices, _, logits, _ = in_order(stream, numbered(len(labels)))
    every = np.eye(3)[labels] * (1 + labels[..., None])
    expected = load_rule(rule).exit_indices(every, None, None, np.array([threshold]))[0]
    assert indices.tolist() == expected.tolist(), "no row leaves early or late"
    assert np.array_equal(logits, every[np.arange(len(labels)), expected])
    sizes = [len(rows) for _, rows in runner.batches]
    assert max(sizes) <= size
    windows = -(-len(labels) // stream.window)
    assert sum(rows < size for rows in sizes) <= windows * len(cuts) + 1
    computed = sum(sizes)
    assert computed == sum(next(n for n, cut in enumerate(cuts, 1) if cut >= index) for index in expected)


def test_the_deepest_full_pool_runs_first_and_batches_are_of_like_length():
    size, count = 4, 400
    labels = np.random.default_rng(0).integers(0, 2, (count, 6))
    runner, stream = watched(labels, size)
    rows = numbered(count)
    indices, *_ = in_order(stream, rows)
    waiting, partial = np.zeros(7, int), 0
    for at, batch in runner.batches:
        waiting[at + 1] -= len(batch)
        if at == -1 or len(batch) == size:
            assert (waiting[at + 2 :] < size).all(), "a deeper pool was full"
        else:
            partial += 1
        waiting[at + 2] += (indices[batch] > at + 1).sum()
    assert not waiting[1:].any()
    assert partial < 0.15 * len(runner.batches)
    spread = [np.ptp([rows[row]["length"] for row in batch]) for _, batch in runner.batches]
    assert np.mean(spread) < 4, "of lengths from 1 to 29"


def test_no_more_rows_are_read_than_two_windows_hold():
    """Rows of a rare length, or that go deep alone, are answered before the window after the next is read."""
    size, count = 3, 500
    labels = np.zeros((count, 8), int)
    labels[7::97] = np.arange(8) % 2  # these never agree, and reach the end
    _, stream = watched(labels, size)
    read, answered = [], set()

    def rows():
        for place, row in enumerate(numbered(count)):
            read.append(place)
            yield row

    for found in stream.run(rows()):
        answered |= set(found.places.tolist())
        oldest = min(set(range(len(read))) - answered, default=len(read))
        assert len(read) - oldest <= 2 * WINDOW_BATCHES * size
    assert len(answered) == count


@pytest.mark.parametrize("after", [0, 1, 7, 40])
def test_a_device_that_runs_out_of_memory_keeps_what_is_answered_and_says_how_far(after):
    labels = np.random.default_rng(1).integers(0, 2, (300, 5))
    runner, stream = watched(labels, 4, fails_after=after)
    found = []
    with pytest.raises(StreamStopped, match="out of memory") as told:
        found.extend(answered.places for answered in stream.run(numbered(300)))
    found = np.concatenate([[], *found]).tolist()
    expected = load_rule("patience").exit_indices(np.eye(3)[labels], None, None, np.array([2.0]))[0]
    ran = np.zeros(300, int)
    for _, rows in runner.batches:
        ran[rows] += 1
    assert sorted(found) == np.flatnonzero(ran > expected).tolist(), "all whose last segment ran"
    assert told.value.answered == len(found)
    assert f"failed after {len(found)} rows" in str(told.value)
    assert f"{told.value.waiting} more were read" in str(told.value)
    assert "a batch size below 4" in str(told.value)
    assert isinstance(told.value.__cause__, torch.OutOfMemoryError)


def test_rows_before_a_bad_one_are_answered_first():
    _, stream = watched(np.zeros((50, 3), int), 4)

    def rows():
        yield from numbered(33)
        raise UserError("line 34 is bad")

    found = []
    with pytest.raises(UserError, match="line 34"):
        found.extend(answered.places for answered in stream.run(rows()))
    assert sorted(np.concatenate(found).tolist()) == list(range(33))


def test_no_rows_give_no_answers():
    _, stream = watched(np.zeros((1, 3), int), 4)
    assert list(stream.run([])) == []


class Remembers(OnlineRule):
    def leave(self, k, logits, certainty=None):
        return np.ones(len(logits), bool)

    def select(self, rows):
        pass


def test_a_rule_that_cannot_bring_rows_together_is_refused_before_any_is_read(monkeypatch):
    engine = engine_over(Watched(np.zeros((1, 3), int)), "fixed", 0)
    monkeypatch.setattr(type(engine.rule), "online", lambda *_: Remembers())
    with pytest.raises(UserError, match=r"Remembers .* give it a `merge`"):
        Stream(engine, 4, list)


def test_whoever_takes_an_answer_is_not_left_in_inference_mode():
    engine = Engine(model_of("bert"), "confidence", 0.7, CALIBRATION)
    for _ in stream_of(engine, 3).run(features(texts(20, 1))):
        assert not torch.is_inference_mode_enabled()
