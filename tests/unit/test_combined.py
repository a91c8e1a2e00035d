"""Removing tokens, leaving early, and both: whether savings multiply, and what is left of rows when they leave."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from statistics import stdev

import pytest
import synthetic_records
from named_goals import named_goal
from synthetic_records import invented_params, write_run

from adaptive_pipeline.grid import Cell
from adaptive_pipeline.reporting.choice import recommend
from adaptive_pipeline.reporting.combined import COLUMNS, Combination, combinations, combined, exit_survivors
from adaptive_pipeline.reporting.figures.headline import SpeedPlot
from adaptive_pipeline.reporting.figures.survivors import draw_exit_survivors
from adaptive_pipeline.reporting.frame import collect
from adaptive_pipeline.reporting.report import tables
from adaptive_pipeline.reporting.statistics.comparisons import compare
from adaptive_pipeline.reporting.tables.combined import combined_markdown
from adaptive_pipeline.runs.records import ScoresRecord

METHODS = {
    "full": {"train": {}, "rules": ["fixed"]},
    "early_exit": {"train": {}, "rules": ["confidence"]},
    "adapler": {"train": {"objective": "adapler"}, "rules": ["fixed"]},
    "adapler_early_exit": {"train": {"objective": "frozen"}, "rules": ["confidence"]},
}
STAGES = {
    "train_sweet": ["early_exit"],
    "train_leebert": [],
    "train_multi_model": [],
    "train_adapler": ["adapler"],
    "train_adapler_exits": ["adapler_early_exit"],
}
#: method -> seed -> FLOPs, wall-clock and batch-16 speed-up at the goal, invented; the clock is of seed 0 alone.
SAVED = {
    "early_exit": {0: (1.5, 1.4, 1.3), 1: (1.6, None, None)},
    "adapler": {0: (2.0, 1.5, 1.6), 1: (2.5, None, None)},
    "adapler_early_exit": {0: (2.7, 2.1, 1.56), 1: (4.4, None, None)},
}
COUNTS = {  # seed -> exit -> rows by share of tokens left
    0: {"2": [0, 0, 0, 0, 0, 0, 0, 0, 10, 30], "4": [0, 0, 0, 20, 0, 0, 0, 0, 0, 0], "6": [40, *[0] * 9]},
    1: {"2": [0] * 10, "4": [0, 0, 0, 100, 0, 0, 0, 0, 0, 0], "6": [0] * 10},
}


def params_of(**changes):
    asked = {"token_scores": ["saliency"], "pruned_body": "adapler", "seeds": [0, 1]}
    asked |= {"methods": METHODS, "trained_by": STAGES, "goal": {"cost": "flops", "min_speedup": [1.5, 2.0]}}
    evaluation = {"timed_seeds": [0], "timed_examples": 10}
    return invented_params(**(asked | {"evaluation": evaluation} | changes))


def edit(cell, rows, timings):
    if cell.method == "full":
        for row in timings:
            row["wallclock_speedup_batch16"] = 1.0
        return
    if cell.method == "adapler":
        whole, bare = (
            synthetic_records._row("adapler", "fixed", name, 0.0, 0.89, 1.0, {"6": 100}, seen, False)
            for name, seen in (("whole", 0.89), ("nothing_removed", None))
        )
        bare |= {"flops_speedup": 0.97, "survival": survival_of(1.0)}
        rows[:] = [whole, bare]
        timings[:] = (
            [{name: row[name] for name in ("method", "rule", "operating_point", "threshold")} for row in rows]
            if timings
            else []
        )
    for row in rows:
        if row["operating_point"] == "nothing_removed":
            continue
        flops, clock, batched = SAVED[cell.method][cell.seed]
        row |= {"flops_speedup": flops, "calibration_flops_speedup": flops}
        if cell.method.startswith("adapler"):
            row["survival"] = survival_of(0.5 + cell.seed / 10, COUNTS[cell.seed], 0.3 + cell.seed / 10)
    for row in timings:
        removed = row["operating_point"] != "nothing_removed"
        clock, batched = (clock, batched) if removed else (0.9, 0.95)
        row |= {"wallclock_speedup": clock, "wallclock_low": clock - 0.1, "wallclock_high": clock + 0.1}
        row |= {"wallclock_speedup_batch16": batched, "median_ms": 20 / clock, "full_median_ms": 20.0}


def survival_of(kept, counts=None, correlation=None):
    return {"kept": kept, "kept_at_exit": counts or {"6": [0] * 9 + [100]}, "exit_correlation": correlation}


@pytest.fixture
def run(tmp_path, monkeypatch):
    for name in ("adapler", "adapler_early_exit"):
        monkeypatch.setitem(synthetic_records.QUALITY, name, (0.8, 0.87, 0.895))

    def write(params, edit=edit):
        root = tmp_path / "runs"
        write_run(root, params, edit=edit)
        for seed in params.seeds:
            cell = Cell("tiers", "minilm", seed, "saliency")
            given = {"params": {}, "inputs": {}, "code": "0" * 64}
            ScoresRecord(stage="extract_saliencies", cell=cell, **given).save(root / f"scores{seed}")
        return collect(root, params)

    return write


def test_the_methods_that_belong_together_are_told_by_the_params():
    assert combinations(params_of()) == [Combination("adapler", "early_exit", "adapler_early_exit")]
    joint = METHODS | {"adapler_joint": {"train": {"objective": "adapler_joint"}, "rules": ["confidence"]}}
    stages = STAGES | {"train_adapler": ["adapler_joint", "adapler"]}
    found = combinations(params_of(methods=joint, trained_by=stages))
    assert [item.both for item in found] == ["adapler_joint", "adapler_early_exit"]
    assert {(item.removal, item.exits) for item in found} == {("adapler", "early_exit")}
    assert combinations(invented_params()) == []


def test_the_savings_over_their_product_are_of_each_seed_then_averaged(run):
    results = run(params_of())
    assert not results.missing
    rows = combined(results)
    assert list(rows) == COLUMNS
    at_goal = rows[[goal == named_goal("max_loss_1", "flops") for goal in rows.goal]].set_index("part")
    assert list(at_goal.index) == ["full", "nothing_removed", "removal", "exits", "both"]
    both = at_goal.loc["both"]
    ratios = 2.7 / (2.0 * 1.5), 4.4 / (2.5 * 1.6)
    assert both.flops_over_product_mean == pytest.approx(sum(ratios) / 2)
    assert both.flops_over_product_std == pytest.approx(stdev(ratios))
    assert both.wallclock_over_product_mean == pytest.approx(2.1 / (1.5 * 1.4))  # of the one timed seed
    assert both.wallclock_batch16_over_product_mean == pytest.approx(1.56 / (1.6 * 1.3))
    assert at_goal.wallclock_over_product_std.isna().all()
    assert both.layers_over_product_mean == pytest.approx(
        at_goal.loc["both"].layers_speedup_mean / at_goal.loc["exits"].layers_speedup_mean
    )
    assert (both.exit_correlation_mean, both.kept_mean) == pytest.approx((0.35, 0.55))
    others = at_goal.drop(index="both")
    assert (
        others[[name for name in COLUMNS if "over_product" in name or "correlation" in name]].isna().all(None)
    )
    assert at_goal.flops_speedup_mean.tolist() == pytest.approx([0.98, 0.97, 2.25, 1.55, 3.55])
    assert at_goal.timed_seeds.tolist() == [1] * 5


def test_no_goal_chooses_the_model_that_removes_nothing_and_no_figure_of_speed_shows_it(run):
    results = run(params_of())
    (choice,) = recommend(results)
    plot = SpeedPlot(results, choice)
    assert "nothing_removed" in set(results.main.operating_point)
    assert "nothing_removed" not in set(plot.rows.operating_point)
    for speed in plot.speeds:
        shown = {one.method for one in plot.series(speed)}
        assert {"early_exit", "adapler", "adapler_early_exit"} <= shown  # the four stand in one panel


def test_removal_alone_meets_a_goal_in_flops_that_it_never_meets_in_layers(run):
    texts = tables(results := run(params_of()), recommend(results), compare(results, 50))
    assert "| AdapLeR |" in texts["main.md"].split("<details>")[0]
    overhead = texts["main.md"].split("**nothing removed**")[1].split("**")[0]
    assert overhead.count("| AdapLeR | fixed exit | 2 |") == 1
    assert r"AdapLeR & fixed exit & nothing removed & 2" in texts["main.tex"]
    goal = {"cost": "layers", "min_speedup": [1.5, 2.0]}
    texts = tables(results := run(params_of(goal=goal)), recommend(results), compare(results, 50))
    assert "| AdapLeR |" not in texts["main.md"].split("<details>")[0]


def test_without_a_timed_seed_the_clock_is_left_out_and_the_rest_is_told(run):
    rows = combined(run(params_of(seeds=[1], evaluation={"timed_seeds": [], "timed_examples": 10})))
    assert rows.timed_seeds.isna().all()
    page = combined_markdown(rows)
    assert "(1 seed; 1: the savings multiply): layers 1.00, FLOPs 1.10." in page
    assert "Wall-clock" not in page.partition("Figures are")[0].partition("\n- ")[0]


def test_the_tables_are_there_for_combinations_alone(run, tmp_path):
    texts = tables(results := run(params_of()), recommend(results), compare(results, 50))
    read = list(csv.DictReader(io.StringIO(texts["combined.csv"])))
    assert [row["goal"] for row in read] == ["max_loss_1"] * 5 + ["min_speedup_1.5"] * 5 + [
        "min_speedup_2"
    ] * 5
    markdown = texts["combined.md"]
    assert "| AdapLeR, nothing removed | fixed exit | 2 |" in markdown
    assert "(2 seeds, the clock 1 seed; 1: the savings multiply): layers 1.00 ± 0.00, FLOPs" in markdown
    assert "FLOPs 1.00 ± 0.14, wall-clock at batch 1 1.00, wall-clock at batch 16 0.75" in markdown
    assert "Rank correlation of exit layer and tokens left, over rows: 0.35 ± 0.07" in markdown
    root = tmp_path / "others"
    others = invented_params()
    write_run(root, others)
    texts = tables(results := collect(root, others), recommend(results), compare(results, 50))
    assert not {"combined.csv", "combined.md", "exit_survivors.csv"} & set(texts)


def test_what_the_params_ask_for_and_nobody_ran_yet_makes_no_table(run):
    results = run(params_of())
    cells = [cell for cell in results.cells if cell.method != "adapler_early_exit"]
    results = replace(
        results, cells=cells, points=results.points[results.points.method != "adapler_early_exit"]
    )
    assert combined(results).empty
    assert exit_survivors(results).empty


def test_a_part_without_a_threshold_at_the_goal_is_said_to_have_none(run):
    def unreached(cell, rows, timings):
        edit(cell, rows, timings)
        for row in rows:
            if cell.method == "adapler_early_exit" and row["operating_point"] == "min_speedup_2":
                row |= dict.fromkeys(
                    n for n in row if n.startswith(("quality", "layers", "flops", "calibration", "thres"))
                ) | {"qualifies": False, "exit_counts": None, "tiers": None, "survival": None}
        timings[:] = [row for row in timings if row["operating_point"] != "min_speedup_2"]

    rows = combined(run(params_of(), unreached))
    here = rows[[goal.name == "min_speedup_2" for goal in rows.goal]]
    assert "both" not in set(here.part)
    assert "No threshold of the method that does both meets the goal" in combined_markdown(rows)


def test_survivors_at_exits_are_pooled_over_seeds_and_drawn(run, tmp_path):
    results = run(params_of())
    rows = exit_survivors(results)
    one = rows[rows.operating_point == "max_loss_1"]
    cells = {(row.exit_layer, round(row.kept_up_to, 1)): (row.rows, row.share) for row in one.itertuples()}
    assert cells == {
        (2, 0.9): (10, 0.05),
        (2, 1.0): (30, 0.15),
        (4, 0.4): (120, 0.6),
        (6, 0.1): (40, 0.2),
    }
    assert (one.kept_up_to - one.kept_above).to_numpy() == pytest.approx(0.1)
    (each,) = results.each
    assert draw_exit_survivors(each, tmp_path, "tiers-minilm-exit_survivors") == [
        "tiers-minilm-exit_survivors-adapler_early_exit"
    ]
    text = (tmp_path / "tiers-minilm-exit_survivors-adapler_early_exit.svg").read_text()
    assert "AdapLeR + early exit" in text
    before = (tmp_path / "tiers-minilm-exit_survivors-adapler_early_exit.png").read_bytes()
    draw_exit_survivors(each, tmp_path, "tiers-minilm-exit_survivors")
    assert (tmp_path / "tiers-minilm-exit_survivors-adapler_early_exit.png").read_bytes() == before


def test_the_published_speed_up_is_a_note_beside_what_is_counted_and_no_column_of_the_table(run, tmp_path):
    results = run(params_of())
    for seed, value in ((0, 2.4), (1, 2.6)):
        cell = Cell("tiers", "minilm", seed, "adapler")
        results.evaluation(cell).metrics["published_speedup"] = value
    rows = combined(results)
    assert rows[rows.part == "removal"].published_speedup_mean.tolist() == [2.5] * 3
    text = combined_markdown(rows)
    assert "AdapLeR on tiers, minilm: 2.50× where 2.25× is counted here" in text  # noqa: RUF001
