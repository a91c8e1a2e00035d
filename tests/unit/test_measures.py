"""Averages over seeds keep what is missing missing, and a measure is one line of data that tables follow."""

from __future__ import annotations

import csv
import io
import math
from statistics import fmean

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_records import invented_params, write_run

from adaptive_pipeline.reporting.choice import recommend
from adaptive_pipeline.reporting.frame import collect
from adaptive_pipeline.reporting.measures import MEASURES, exit_share, joined, mean, over_seeds, std
from adaptive_pipeline.reporting.statistics.comparisons import compare
from adaptive_pipeline.reporting.statistics.curve_area import band
from adaptive_pipeline.reporting.statistics.paired import Scored, paired_bootstrap
from adaptive_pipeline.reporting.tables.csv import LATER_COLUMNS, MAIN_COLUMNS, main_csv
from adaptive_pipeline.reporting.tables.main import main_markdown

numbers = st.lists(st.floats(-10, 10), min_size=2, max_size=6)


@given(numbers, st.sampled_from([None, math.nan]), st.integers(0, 5))
def test_one_missing_value_makes_mean_and_spread_missing(values, missing, place):
    values.insert(place, missing)
    assert math.isnan(mean(values))
    assert math.isnan(std(values))


@given(st.floats(-1e3, 1e3), st.integers(2, 8))
def test_equal_values_have_no_spread_at_all(value, count):
    assert std([value] * count) == 0.0
    assert mean([value] * count) == pytest.approx(value)


@given(st.floats(-1, 1), st.lists(st.floats(-1e-14, 1e-14), min_size=2, max_size=6))
def test_values_that_rounding_alone_parts_have_no_spread_wherever_one_is_told(value, rounding):
    values = np.array([value + one for one in rounding])
    first, second = (Scored(quality, quality[:, None]) for quality in (values, np.zeros(len(values))))
    assert std(values) == 0.0
    assert paired_bootstrap(first, second).std == 0.0
    assert not band([[1.0, 2.0]] * len(values), [[one, one] for one in values], points=3).std.any()


@given(numbers)
def test_averages_are_numpys(values):
    assert mean(values) == pytest.approx(np.mean(values), abs=1e-12)
    assert std(values) == pytest.approx(np.std(values, ddof=1), abs=1e-9)


def test_nothing_has_no_mean_and_one_value_no_spread():
    assert math.isnan(mean([]))
    assert math.isnan(std([0.5]))


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 1)), min_size=1, max_size=20))
def test_over_seeds_is_a_mean_per_key_in_order_of_appearance(rows):
    table = over_seeds(pd.DataFrame(rows, columns=["key", "x"]), ["key"], ["x"])
    assert list(table.key) == list(dict.fromkeys(key for key, _ in rows))
    for row in table.itertuples():
        own = [x for key, x in rows if key == row.key]
        assert (row.seeds, row.x_mean) == (len(own), fmean(own))


@given(st.lists(st.dictionaries(st.sampled_from(["2", "4", "12"]), st.integers(0, 50)), max_size=4))
def test_shares_of_exits_sum_to_one_and_stand_by_depth(counts):
    total = sum(sum(one.values()) for one in counts)
    if total:
        share = exit_share(counts)
        assert sum(share.values()) == pytest.approx(1.0)
        assert list(share) == sorted(share)
    else:
        assert exit_share(counts) == {}


def test_names_of_machines_are_told_once():
    assert joined(["b", "", "a", "b"]) == "a | b"


def test_every_measure_is_a_column_and_every_heading_stands_in_the_readable_table(tmp_path):
    params = invented_params(seeds=[0])
    write_run(tmp_path, params)
    results = collect(tmp_path, params)
    assert [measure.name for measure in MEASURES if not measure.later] == MAIN_COLUMNS[5:]
    assert {*MAIN_COLUMNS, *LATER_COLUMNS} <= set(results.main)
    text = main_markdown(results, recommend(results), compare(results))
    header = next(line for line in text.splitlines() if line.startswith("| Method | Rule | Seeds"))
    shown = set(header.removesuffix(" |").split(" | "))
    assert {m.header for m in MEASURES if m.header and not m.later} <= shown
    assert not {m.header for m in MEASURES if m.later} & shown


@pytest.mark.parametrize("cost", ["layers", "flops"])
def test_a_later_measure_is_the_last_column_where_a_record_has_it_and_no_column_where_none_has(
    tmp_path, cost
):
    def edit(cell, rows, timings):
        for row in timings if batched else ():
            row["wallclock_speedup_batch16"] = row["wallclock_speedup"] / 2

    params = invented_params(seeds=[0], goal={"cost": cost})
    texts = []
    for batched in (False, True):
        write_run(tmp_path, params, edit=edit)
        results = collect(tmp_path, params)
        texts.append(list(csv.DictReader(io.StringIO(main_csv(results)))))
        markdown = main_markdown(results, recommend(results), compare(results, 10))
        assert ("Wall-clock ×, batch 16" in markdown) is batched  # noqa: RUF001
    before, after = (list(rows[0]) for rows in texts)
    assert after == [*before, "wallclock_speedup_batch16"]
    for old, row in zip(*texts, strict=True):
        assert float(row.pop("wallclock_speedup_batch16")) == pytest.approx(
            float(row["wallclock_speedup"]) / 2, 1e-4
        )
        assert row == old
