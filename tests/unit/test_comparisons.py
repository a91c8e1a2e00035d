"""Comparison and area tables from synthetic records."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import replace
from pathlib import Path

import pytest
from named_goals import named_goal
from pandas.testing import assert_frame_equal
from synthetic_records import invented_params, write_run

from adaptive_inference.calibration.operating_point import Goal
from adaptive_inference.errors import UserError
from adaptive_inference.files import read_json, write_json
from adaptive_pipeline.reporting.choice import recommend
from adaptive_pipeline.reporting.figures.differences import draw_differences
from adaptive_pipeline.reporting.frame import collect
from adaptive_pipeline.reporting.statistics.comparisons import (
    RESAMPLES,
    _asked_duels,
    at_goal,
    compare,
    unanswered,
)
from adaptive_pipeline.reporting.tables.csv import comparisons_csv
from adaptive_pipeline.reporting.tables.main import main_markdown
from adaptive_pipeline.reporting.tables.markdown import comparisons_markdown
from adaptive_pipeline.reporting.text.notes import sign_note, signs
from adaptive_pipeline.runs.keep import keep_records

FOLDER = Path("tiers/minilm")


def seeded_params(**changes):
    """Invented params with as many seeds as a test of a difference needs, unless others are given."""
    return invented_params(**({"seeds": [0, 1, 2]} | changes))


@pytest.fixture(scope="module")
def params():
    return seeded_params()


@pytest.fixture(scope="module")
def runs(tmp_path_factory, params) -> Path:
    root = tmp_path_factory.mktemp("answered") / "runs"
    write_run(root, params, answers=True)
    return root


@pytest.fixture(scope="module")
def results(runs, params):
    return collect(runs, params)


@pytest.fixture(scope="module")
def comparisons(results):
    return compare(results, resamples=2000)


def read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def some_methods(*names: str, **sections):
    """Return the default params with these methods only."""
    body = seeded_params().model_dump(mode="json")
    methods = {name: body["methods"][name] for name in ("full", *names)}
    trained_by = {stage: [name for name in own if name in names] for stage, own in body["trained_by"].items()}
    return seeded_params(methods=methods, trained_by=trained_by, **sections)


def pick(comparisons, goal, method, reference):
    (item,) = [
        c for c in lines(comparisons) if (c.goal.name, c.method, c.reference) == (goal, method, reference)
    ]
    return item


def lines(comparisons) -> list:
    return list(comparisons.itertuples())


def best(results, goal: str) -> list:
    return at_goal(results.main.itertuples(), named_goal(goal))


# ---- comparisons -----------------------------------------------------------------------------------------------------


def test_every_method_meets_both_references_at_every_goal(comparisons):
    pairs = [(c.goal.name, c.method, c.reference) for c in lines(comparisons)]
    others = {"min_speedup_1.5": "static_4", "min_speedup_2": "static_2"}  # the best of those fast enough
    assert pairs == [
        (goal, method, reference)
        for goal, static in others.items()
        for reference in ("early_exit", "full")
        for method in (static, "early_exit", "sweet", "multi_model", "learning_to_exit")
        if method != reference
    ]
    assert set(comparisons.comparisons) == {len(pairs)}


def test_asked_pairs_are_tested_too_and_corrected_for(runs, params, comparisons, tmp_path):
    body = params.model_dump(mode="json")
    body["methods"]["sweet"]["references"] = ["learning_to_exit", "multi_model"]
    results = collect(runs, seeded_params(methods=body["methods"]))
    assert results.missing == []  # no record knows the key
    found = compare(results, resamples=2000)
    new = [c for c in lines(found) if c.reference not in ("early_exit", "full")]
    assert [(c.goal.name, c.method, c.reference) for c in new] == [
        (goal, "sweet", other)
        for goal in ("min_speedup_1.5", "min_speedup_2")
        for other in ("learning_to_exit", "multi_model")
    ]
    assert set(found.comparisons) == {len(comparisons) + len(new)}
    means = {(row.method, row.rule, row.operating_point): row.quality_mean for row in lines(results.main)}
    for item in new:
        ours, theirs = (
            means[item.method, item.rule, item.goal.name],
            means[item.reference, item.reference_rule, item.goal.name],
        )
        assert item.difference_mean == pytest.approx(ours - theirs, abs=1e-3)  # of 1,000 whole rows
    assert all(set(marks) <= {"early_exit", "full"} for marks in signs(found).values())
    assert draw_differences(found, tmp_path) == ["tiers-minilm-differences"]
    svg = (tmp_path / "tiers-minilm-differences.svg").read_text()
    assert "SWEET − Multi-Model" in svg  # noqa: RUF001
    assert unanswered(results, found) == []


def test_a_goal_heads_its_comparisons_in_each_panel_of_their_figure(comparisons, tmp_path):
    (name,) = draw_differences(comparisons, tmp_path)
    svg, panels = (tmp_path / f"{name}.svg").read_text(), comparisons.reference.nunique()
    for goal, items in comparisons.groupby("goal", sort=False):
        assert svg.count(f">{goal.words}:<") == panels < len(items)


def test_an_asked_pair_without_a_line_is_told(runs, params):
    body = params.model_dump(mode="json")
    body["methods"]["sweet"]["references"] = ["learning_to_exit"]
    results = collect(runs, seeded_params(methods=body["methods"]))
    points = results.points[results.points.method != "learning_to_exit"]
    found = compare(replace(results, points=points), resamples=100)
    told = unanswered(results, found)
    assert told == [
        "SWEET against Learning to exit (tiers, minilm: ≥ 1.5× fewer layers, ≥ 2× fewer layers)"  # noqa: RUF001
    ]
    assert told[0] in comparisons_markdown(found, told)
    assert told[0] in comparisons_markdown(found.iloc[:0], told)
    assert "Asked for" not in comparisons_markdown(found)


def test_a_pair_that_stands_anyway_is_not_tested_twice_and_a_static_model_enters_by_itself(
    runs, params, comparisons
):
    body = params.model_dump(mode="json")
    for name, asked in {"sweet": ["early_exit"], "early_exit": ["sweet"], "full": ["sweet"]}.items():
        body["methods"][name]["references"] = asked
    results = collect(runs, seeded_params(methods=body["methods"]))
    rows = results.main
    found = compare(results, resamples=2000)
    assert_frame_equal(found, comparisons)
    assert unanswered(results, found) == []
    asked = {"sweet": ["static_2"], "static_2": ["sweet"]}
    pairs = _asked_duels(lines(rows[rows.attainable]), Goal("min_speedup", 1.5), asked, set())
    assert [(a.method, b.method) for _, a, b in pairs] == [
        ("sweet", "static_2")
    ]  # static_4 is the family's best there


def test_difference_is_that_of_the_tables_rows_and_n_is_said(comparisons, results):
    rows = {(row.method, row.rule, row.operating_point): row for row in lines(results.main)}
    item = pick(comparisons, "min_speedup_2", "sweet", "early_exit")
    first, second = (rows[name, "confidence", "min_speedup_2"] for name in ("sweet", "early_exit"))
    assert (item.rule, item.reference_rule) == ("confidence", "confidence")
    assert item.difference_mean == pytest.approx(first.quality_mean - second.quality_mean, abs=0.001)
    assert item.difference_low < item.difference_mean < item.difference_high
    assert (item.rows, item.seeds) == (1000, 3)
    assert item.layers_speedup == first.layers_speedup
    assert item.significant == (item.p_holm < 0.05)
    assert item.p_value <= item.p_holm <= item.p_value * item.comparisons


def test_a_clear_difference_is_significant_and_a_tiny_one_is_not(comparisons):
    worse = pick(comparisons, "min_speedup_2", "static_2", "full")  # 0.84 against 0.90
    assert worse.significant
    assert worse.difference_mean == pytest.approx(-0.06)
    alike = pick(comparisons, "min_speedup_1.5", "learning_to_exit", "early_exit")
    assert abs(alike.difference_mean) <= 0.002
    assert not alike.significant


def test_the_rule_is_chosen_on_calibration_and_never_on_evaluation(tmp_path, params):
    def edit(cell, rows, timings):
        for row in rows:
            if row["rule"] == "margin":
                row["calibration_quality"] = 0.99
                row["quality"] = 0.5
            if row["rule"] == "entropy":
                row["quality"] = 1.0

    write_run(tmp_path, params, edit=edit)
    chosen = {row.method: row.rule for row in best(collect(tmp_path, params), "min_speedup_2")}
    assert chosen["early_exit"] == chosen["sweet"] == "margin"


def test_a_rule_that_meets_the_goal_on_fewer_seeds_is_not_chosen_and_a_bound_never(tmp_path):
    params = seeded_params()
    body = params.model_dump(mode="json")
    body["methods"]["sweet"]["rules"] = ["confidence", "oracle"]
    params = seeded_params(methods=body["methods"])

    def edit(cell, rows, timings):
        for row in rows:
            if row["method"] == "early_exit" and row["rule"] != "margin" and cell.seed == 1:
                row |= dict.fromkeys(("threshold", "quality", "layers_speedup", "calibration_quality"))
            if row["rule"] in ("oracle", "confidence"):
                row["calibration_quality"] = row["calibration_quality"] and row["calibration_quality"] + 0.05

    write_run(tmp_path, params, edit=edit)
    chosen = {row.method: row.rule for row in best(collect(tmp_path, params), "min_speedup_2")}
    assert (chosen["early_exit"], chosen["sweet"]) == ("margin", "confidence")


def test_a_seed_without_answers_is_no_part_of_n(tmp_path, params):
    def edit(cell, rows, timings):
        for row in rows:
            if cell.seed and row["layers_speedup"]:
                row["layers_speedup"] *= 1.5

    write_run(tmp_path, params, answers=True, edit=edit)
    for seed in (1, 2):
        (tmp_path / FOLDER / f"seed{seed}/sweet/evaluation/predictions.json").unlink()
    results = collect(tmp_path, params)
    found = compare(results, resamples=200)
    item = pick(found, "min_speedup_2", "sweet", "full")
    assert item.seeds == 1
    assert math.isnan(item.difference_std)
    row = next(
        r for r in lines(results.main) if (r.method, r.rule) == ("sweet", item.rule) and r.goal == item.goal
    )
    speeds = results.of_row(row).set_index("seed").layers_speedup
    assert item.layers_speedup == speeds[0] != row.layers_speedup
    assert pick(found, "min_speedup_2", "multi_model", "full").seeds == 3
    assert comparisons_markdown(found).count("| 1 |") == 4  # against two references at two goals


def test_answers_to_other_rows_are_refused(tmp_path, params):
    write_run(tmp_path, params, answers=True)
    file = tmp_path / FOLDER / "seed1/sweet/evaluation/predictions.json"
    body = read_json(file)
    write_json(file, body | {"ids": body["ids"][::-1]})
    results = collect(tmp_path, params)
    with pytest.raises(UserError, match="tiers-minilm-sweet-1 answered other evaluation rows"):
        compare(results, resamples=10)


def test_csv_and_markdown_say_the_same(comparisons):
    rows = read(comparisons_csv(comparisons))
    assert len(rows) == len(comparisons)
    assert {row["significant"] for row in rows} == {"true", "false"}
    text = comparisons_markdown(comparisons)
    assert text.count(", **significant** |") == sum(row["significant"] == "true" for row in rows)
    assert text.count("| 3 |") == text.count("| p = ") == len(rows)
    assert "(accuracy, 1000 evaluation rows)" in text
    assert str(RESAMPLES) in text


@pytest.mark.parametrize("seeds", [[0], [0, 1]])
def test_fewer_than_three_seeds_have_an_interval_and_the_reason_in_place_of_a_p_value(tmp_path, seeds):
    params = invented_params(seeds=seeds)
    write_run(tmp_path, params, answers=True)
    results = collect(tmp_path, params)
    found = compare(results, resamples=200)
    reason = f"not testable with {len(seeds)} seed{'s' * (len(seeds) > 1)}"
    rows = read(comparisons_csv(found))
    assert len(rows) == 18
    for row in rows:
        assert (row["p_value"], row["p_holm"], row["significant"], row["not_tested"]) == ("", "", "", reason)
        assert float(row["difference_low"]) <= float(row["difference_mean"]) <= float(row["difference_high"])
    text = comparisons_markdown(found)
    assert text.count(f"| {reason} |") == 18
    assert "p = " not in text
    assert signs(found) == {}
    assert "Differences are not tested" in main_markdown(results, recommend(results), found)


def test_what_cannot_be_tested_is_not_corrected_for(tmp_path, params, comparisons):
    write_run(tmp_path, params, answers=True)
    (tmp_path / FOLDER / "seed1/sweet/evaluation/predictions.json").unlink()
    found = compare(collect(tmp_path, params), resamples=2000)
    untested = found[found.not_tested != ""]
    assert {(row.method, row.not_tested) for row in lines(untested)} == {
        ("sweet", "not testable with 2 seeds")
    }
    assert set(found.comparisons) == {len(comparisons) - len(untested)}
    item, before = (pick(table, "min_speedup_2", "static_2", "full") for table in (found, comparisons))
    assert item.p_value == before.p_value
    assert item.p_holm < before.p_holm


def test_comparing_twice_gives_the_same_table(results, comparisons):
    assert_frame_equal(compare(results, resamples=2000), comparisons)


def test_kept_records_are_enough_to_compare_again(tmp_path, runs, params, comparisons):
    keep_records(runs, tmp_path, params)
    kept = collect(tmp_path, params)
    assert_frame_equal(compare(kept, resamples=2000), comparisons)


# ---- signs in the main table -----------------------------------------------------------------------------------------


def test_the_main_table_marks_significant_differences_and_says_n(results, comparisons):
    choices = recommend(results)
    marked = main_markdown(results, choices, comparisons).splitlines()
    plain = main_markdown(results, choices, comparisons.iloc[:0]).splitlines()
    note = [line for line in marked if line not in plain and line.startswith("- ")]
    assert note == [f"- {sign_note(comparisons)}"]
    assert "n = 1000 rows, 3 seeds, 18 comparisons" in note[0]
    changed = [line for line in marked if line not in plain and line not in note]
    shown = signs(comparisons)
    assert len(changed) == len(shown) > 0
    whole = {key[2]: found for key, found in shown.items() if key[2].startswith("static")}
    # one row for all goals, at each of which early exit is another:
    assert whole == {"static_2": {"full": "§"}, "static_4": {"full": "§"}}
    assert any(c.significant for c in lines(comparisons) if c.method in whole and c.reference == "early_exit")
    cleaned = [line.translate({ord(sign): None for sign in "†‡§"}) for line in changed]
    assert set(cleaned) <= set(plain)
    for key, found in shown.items():
        for reference, sign in found.items():
            same = [c for c in lines(comparisons) if (c.method, c.reference) == (key[2], reference)]
            compared = [c for c in same if c.operating_point == key[4]]
            assert {c.significant for c in compared} == {True}
            better = compared[0].difference_mean > 0
            assert sign == ("§" if reference == "full" else "†" if better else "‡")


def test_without_answers_there_is_no_row_and_the_main_table_stays_as_it_was(tmp_path, params):
    write_run(tmp_path, params)
    results = collect(tmp_path, params)
    choices = recommend(results)
    found = compare(results)
    assert found.empty
    assert read(comparisons_csv(found)) == []
    assert "Nothing to compare" in comparisons_markdown(found)
    assert not set("†‡§") & set(main_markdown(results, choices, found))


def test_the_forest_plot_is_drawn_where_there_is_something_to_compare(tmp_path, comparisons):
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
        assert draw_differences(comparisons, folder) == ["tiers-minilm-differences"]
        assert draw_differences(comparisons.iloc[:0], folder) == []
    first, second = ({file.name: file.read_bytes() for file in folder.iterdir()} for folder in folders)
    assert sorted(first) == ["tiers-minilm-differences.png", "tiers-minilm-differences.svg"]
    assert first == second
