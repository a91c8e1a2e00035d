"""The clock: interleaved, in random order, paired, with the machine described."""

from __future__ import annotations

import gc

import numpy as np
import pytest

from adaptive_inference.evaluation import latency
from adaptive_inference.evaluation.latency import Timing, summarise, time_interleaved
from adaptive_inference.evaluation.wallclock import draw_rows
from adaptive_pipeline.runs.environment import environment


class FakeClock:
    """A clock that moves only when a model works."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0
        monkeypatch.setattr(latency.time, "perf_counter_ns", lambda: self.now)

    def work(self, nanoseconds: int) -> None:
        self.now += nanoseconds


def test_times_are_charged_to_the_model_and_example_that_took_them(monkeypatch):
    clock = FakeClock(monkeypatch)
    runs = [lambda x: clock.work(2_000_000 * x), lambda x: clock.work(1_000_000), lambda x: clock.work(7)]
    spent = time_interleaved(runs, [1, 2, 3], 4, warmup=2, seed=0)
    assert spent.shape == (3, 4, 3)
    assert (spent[2] == 7).all()
    timing = Timing(full=spent[0], method=spent[1])
    assert timing.full.tolist() == [[2_000_000, 4_000_000, 6_000_000]] * 4
    assert timing.method.tolist() == [[1_000_000] * 3] * 4
    row = summarise(timing, resamples=100, seed=0)
    assert row["wallclock_speedup"] == pytest.approx(12 / 3)  # ratio of the sums
    assert row["wallclock_median_speedup"] == pytest.approx(4 / 1)
    assert row["wallclock_low"] < row["wallclock_speedup"] < row["wallclock_high"]
    assert (row["p5_ms"], row["median_ms"], row["p95_ms"]) == (1, 1, 1)
    assert row["full_median_ms"] == 4
    assert (row["examples"], row["repeats"]) == (3, 4)


def test_every_example_is_run_by_all_one_right_after_the_other_in_random_order():
    names, log = ("full", "fast", "faster"), []
    runs = [lambda x, name=name: log.append((name, x)) for name in names]
    time_interleaved(runs, range(40), repeats=2, warmup=3, seed=1)
    assert log[:9] == [(name, i) for i in range(3) for name in names]
    timed = log[9:]
    assert len(timed) == 2 * 3 * 40
    groups = [timed[k : k + 3] for k in range(0, len(timed), 3)]
    assert all(
        len({x for _, x in group}) == 1 and {name for name, _ in group} == set(names) for group in groups
    )
    orders = [[group[0][1] for group in groups[:40]], [group[0][1] for group in groups[40:]]]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(40))
    assert orders[0] != orders[1]
    firsts = [group[0][0] for group in groups]
    assert all(10 < firsts.count(name) < 45 for name in names)  # none is always warmed by another


def test_same_seed_same_order():
    logs = []
    for _ in range(2):
        logs.append([])
        time_interleaved([logs[-1].append, lambda _: None], range(20), repeats=2, warmup=0, seed=3)
    assert logs[0] == logs[1]


def test_the_device_is_waited_for_before_and_after_each_run():
    log: list[str] = []
    time_interleaved(
        [lambda _: log.append("run")] * 2,
        range(2),
        1,
        0,
        0,
        lambda: log.append("wait"),
    )
    assert log == ["wait", "run", "wait"] * 4


def test_the_collector_is_off_while_timing_and_on_again_after_a_failure():
    def fail(_: int) -> None:
        assert not gc.isenabled()
        raise OSError("broken model")

    with pytest.raises(OSError, match="broken"):
        time_interleaved([fail, fail], range(2), 1, 0, 0)
    assert gc.isenabled()


def test_the_interval_is_paired():
    base = np.random.default_rng(0).lognormal(2, 1.5, (5, 60)) * 1e6
    row = summarise(Timing(full=3 * base, method=base), resamples=200, seed=0)
    assert row["wallclock_speedup"] == pytest.approx(3)
    assert row["wallclock_low"] == pytest.approx(3)
    assert row["wallclock_high"] == pytest.approx(3)
    assert row["wallclock_median_speedup"] == pytest.approx(3)
    assert summarise(Timing(base, base), resamples=0, seed=0)["wallclock_low"] is None


def test_timed_rows_are_drawn_once_from_the_seed():
    assert draw_rows(100, 10, 0).tolist() == draw_rows(100, 10, 0).tolist() != draw_rows(100, 10, 1).tolist()
    assert draw_rows(5, 10, 0).tolist() == [0, 1, 2, 3, 4]
    assert len(set(draw_rows(100, 100, 2))) == 100


def test_the_environment_names_versions_processor_and_threads():
    found = environment("cpu")
    assert found["device"] == "cpu"  # whatever else the machine has
    assert found["driver"] is None
    assert found["versions"]["torch"]
    assert found["versions"]["python"].startswith("3.")
    assert found["cores"] >= 1
