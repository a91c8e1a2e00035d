"""The harness of the benchmarks: turns, ratios, bars, kept groups, the page. Nothing here depends on a clock."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def folder_of_benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(PROJECT / "benchmarks"))


def module(name: str):
    return importlib.import_module(name)


def group(spent, pairs, **changes):
    return {
        "suite": "a_suite", "shape": "6 x 384, 16 tokens, batch 1", "threads": 1, "unit": "s", "facts": {},
        "layers": 6, "width": 384, "length": 16, "batch": 1, "spent": spent, "pairs": pairs,
    } | changes  # fmt: skip


# ---- turns -----------------------------------------------------------------------------------------------------------


def test_time_is_charged_to_the_way_that_took_it_and_the_first_call_is_not_counted(monkeypatch):
    paired = module("paired")
    now = [0]
    monkeypatch.setitem(paired.CLOCKS, "fake", lambda: now[0])
    calls = []

    def way(name, seconds):
        def work():
            calls.append(name)
            now[0] += int(1e9 * seconds * (100 if calls.count(name) == 1 else 1))

        return work

    spent = paired.interleave(
        {"slow": way("slow", 3), "fast": way("fast", 2)}, paired.Effort(5, 5, 0), "fake"
    )
    assert spent == {"slow": [3.0] * 5, "fast": [2.0] * 5}
    rounds = [set(calls[at : at + 2]) for at in range(0, len(calls), 2)]
    assert rounds == [{"slow", "fast"}] * 6  # in each round, every way once
    assert len({tuple(calls[at : at + 2]) for at in range(2, len(calls), 2)}) == 2  # in changing order


def test_rounds_end_with_the_seconds_but_not_before_the_least(monkeypatch):
    paired = module("paired")
    now = [0]
    monkeypatch.setattr(paired.time, "monotonic", lambda: now[0])

    def rounds(*effort):
        def a_second():
            now[0] += 1

        return len(paired.interleave({"one": a_second}, paired.Effort(*effort))["one"])

    assert rounds(3, 100, 0.5) == 3
    assert rounds(3, 100, 19.5) == 20
    assert rounds(3, 5, 50) == 5


def test_bytes_are_what_a_way_returns():
    paired = module("paired")
    spent = paired.interleave({"a": lambda: 7, "b": lambda: 9}, paired.Effort(2, 2, 0), unit="bytes")
    assert spent == {"a": [7, 7], "b": [9, 9]}


# ---- ratios and bars -------------------------------------------------------------------------------------------------

rounds = st.lists(st.floats(0.1, 10.0), min_size=1, max_size=30)


@given(st.lists(rounds, min_size=1, max_size=4))
def test_a_ratio_is_the_median_of_medians_and_lies_in_its_interval(ratios):
    ratio, low, high = module("paired").ratio_interval(ratios)
    assert ratio == np.median([np.median(item) for item in ratios])
    everything = np.concatenate(ratios)
    assert everything.min() <= low <= high <= everything.max()


@given(rounds, st.floats(0.1, 10.0))
def test_a_ratio_that_never_changes_has_no_width_and_noise_in_common_cancels(noise, ratio):
    base = np.array(noise)
    spent = {"own": (ratio * base).tolist(), "base": base.tolist()}
    (row,) = module("paired").rows([group(spent, [["own", "base", None, None]])])
    np.testing.assert_allclose([row["ratio"], row["ci_low"], row["ci_high"]], ratio)
    assert "limit" not in row
    assert "holds" not in row


def test_a_bar_holds_up_to_its_limit_and_not_above():
    spent = {"own": [1.05], "at": [1.0], "above": [1.0001 * 1.05]}
    pairs = [["own", "at", 1.05, None], ["above", "at", 1.05, None]]
    own, above = module("paired").rows([group(spent, pairs)])
    assert own["holds"] is True
    assert above["holds"] is False


def test_a_bar_on_the_median_is_over_the_shapes_of_one_number_of_threads():
    groups = [
        group(
            {"own": [ratio], "base": [1.0]},
            [["own", "base", 1.08, 1.03]],
            shape=f"shape {at}",
            threads=threads,
        )
        for at, (ratio, threads) in enumerate([(1.00, 1), (1.02, 1), (1.10, 1), (1.05, 2)])
    ]
    *single, one, two = module("paired").rows(groups)
    assert [row["holds"] for row in single] == [True, True, False, True]
    assert (one["shape"], one["threads"], one["ratio"], one["holds"]) == ("median of 3 shapes", 1, 1.02, True)
    assert (two["shape"], two["threads"], two["ratio"], two["holds"]) == (
        "median of 1 shapes",
        2,
        1.05,
        False,
    )


# ---- shapes ----------------------------------------------------------------------------------------------------------


def test_the_default_shapes_are_those_asked_for():
    found = list(module("encoders").shapes("default", (1, 8, 32, 128)))
    assert len(set(found)) == len(found)
    assert {(shape.layers, shape.width) for shape, _ in found} == {(6, 384), (12, 768)}
    assert {shape.length for shape, _ in found} == {16, 32, 64, 128, 256}
    assert all(shape.length * shape.batch <= 4096 for shape, _ in found)
    assert {shape.width for shape, threads in found if threads == 2} == {768}


def test_by_its_calibration_a_row_leaves_where_it_is_told_to():
    encoders, engine = module("encoders"), importlib.import_module("adaptive_inference.engine")
    build = importlib.import_module("adaptive_inference.exits.build")
    model = build.add_exits(encoders.backbone(3, 32), (1, 2, 3), encoders.SCHEMA, 0)
    (batch,) = encoders.tokens(module("paired").Shape(3, 32, 8, 5))
    for index in range(3):
        found = engine.Engine(model, "confidence", 0.9, encoders.leave_at(index, 3)).run(batch)
        assert (found.exit_indices == index).all()


# ---- the whole ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def suites(monkeypatch):
    """Two suites whose groups are counted when they are measured, the second of which fails once."""
    paired, run_all = module("paired"), module("run_all")
    measured, broken = [], ["second"]

    class Suite:
        def __init__(self, name):
            self.name = name

        def groups(self, extent):
            def make():
                measured.append(self.name)
                if self.name in broken:
                    broken.remove(self.name)
                    raise KeyboardInterrupt
                return paired.Work(
                    {"own": lambda: None, "stock": lambda: None}, [paired.Pair("own", "stock", 1e9)]
                )

            yield paired.Group(paired.Shape(2, 32, 8, 1), 1, make)

    for name in ("first", "second"):
        monkeypatch.setitem(sys.modules, name, Suite(name))
    monkeypatch.setattr(run_all, "SUITES", ("first", "second"))
    return measured


def run(monkeypatch, out, *options):
    monkeypatch.setattr(sys, "argv", ["run_all.py", "--quick", "--out", str(out), *options])
    module("run_all").main()


def test_a_run_goes_on_where_it_was_killed_and_begins_anew_where_something_changed(
    tmp_path, monkeypatch, suites
):
    with pytest.raises(KeyboardInterrupt):
        run(monkeypatch, tmp_path)
    with (tmp_path / "measured.jsonl").open("a") as file:
        file.write('{"suite": "sec')  # killed while it wrote
    assert not (tmp_path / "benchmarks.json").exists()
    run(monkeypatch, tmp_path)
    assert suites == ["first", "second", "second"]
    run(monkeypatch, tmp_path)
    assert suites == ["first", "second", "second"]
    table = json.loads((tmp_path / "benchmarks.json").read_text())
    assert [row["suite"] for row in table] == ["first", "second"]
    wanted = {"name", "baseline", "shape", "threads", "ratio", "ci_low", "ci_high", "limit", "holds"}
    assert all(wanted <= row.keys() for row in table)
    run(monkeypatch, tmp_path, "--clock", "cpu")
    assert suites == ["first", "second", "second", "first", "second"]


def test_every_suite_yields_groups_of_names_that_differ():
    run_all = module("run_all")
    for extent in ("quick", "default", "full"):
        found = [
            (suite, str(item.shape), item.threads)
            for suite, item in run_all.groups(list(run_all.SUITES), extent)
        ]
        assert len(set(found)) == len(found)
        assert {suite for suite, _, _ in found} == set(run_all.SUITES)


# ---- the page ----------------------------------------------------------------------------------------------------------


def test_the_page_names_the_fastest_way_at_each_length_and_every_missed_bar(tmp_path):
    paired, speed_page = module("paired"), module("speed_page")
    groups = [
        group(
            {"stock": [1.0], "a": [a], "b": [0.5]},
            [["a", "stock", None, None], ["b", "stock", 0.4, None]],
            shape=f"6 x 384, {length} tokens, batch 1", length=length,
        )
        for length, a in ((16, 0.25), (32, 0.8))
    ]  # fmt: skip
    table = paired.rows(groups)
    machine = {"cpu": "a processor", "cores": 2, "clock": "wall", "versions": {"torch": "1"}}
    text = speed_page.page(table, machine)
    assert "**a** at 16 tokens (4.0 x stock); **b** at 32 tokens (2.0 x stock)" in text
    assert "| 1 | 16 | **4.00** (4.00 to 4.00) | 2.00 (2.00 to 2.00) |" in text
    assert "6 x 384, 16 tokens, batch 1, 1 thr. (0.500); 6 x 384, 32 tokens, batch 1, 1 thr. (0.500)" in text
    assert speed_page.page(table, machine) == text
    speed_page.draw(speed_page.choices(table), tmp_path)
    assert (tmp_path / "speed.png").read_bytes().startswith(b"\x89PNG")
