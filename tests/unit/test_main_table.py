"""The first table of ``main.md``: one row per method at the goal, all the rest folded away."""

from __future__ import annotations

import re
import shutil

import pytest
from synthetic_choices import FULL
from synthetic_records import PROJECT, invented_params, write_run

from adaptive_pipeline.reporting.choice import recommend
from adaptive_pipeline.reporting.frame import collect
from adaptive_pipeline.reporting.goal_rows import goal_rows
from adaptive_pipeline.reporting.statistics.comparisons import compare
from adaptive_pipeline.reporting.tables.main import main_markdown

#: Characters of text in a row of a code-hosting page's 1,012 pixels, 26 of which each column takes for its margins.
PAGE_PIXELS, MARGIN_PIXELS, CHARACTER_PIXELS = 1012, 26, 7.5


def written(root, params) -> str:
    results = collect(root, params)
    return main_markdown(results, recommend(results), compare(results, resamples=100))


def first_table(text: str) -> list[dict[str, str]]:
    """Return the rows of the first table by their headings, signs of bold type left out."""
    lines = [line for line in text[: text.index("<details>")].splitlines() if line.startswith("|")]
    headers, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [dict(zip(headers, (cell.strip("*") for cell in row), strict=True)) for row in rows]


def unreachable(*methods):
    """Make an edit by which no threshold of these methods stays within the goal of loss."""

    def edit(cell, rows, timings):
        for row in rows:
            if row["method"] in methods and row["operating_point"] == "max_loss_1":
                measured = [n for n in row if n.startswith(("quality", "layers", "flops", "calibration"))]
                row |= dict.fromkeys([*measured, "threshold", "exit_counts", "tiers"]) | {"qualifies": False}
            if row["method"].startswith("static"):
                row["qualifies"] = row["method"] in ("static_4", "static_6")

    return edit


@pytest.fixture(scope="module")
def params():
    return invented_params()


@pytest.fixture(scope="module")
def text(tmp_path_factory, params):
    root = tmp_path_factory.mktemp("answered") / "runs"
    write_run(root, params, answers=True, edit=unreachable("learning_to_exit"))
    return written(root, params)


def test_the_page_starts_with_one_row_per_method_at_the_goal_and_the_rest_is_folded(text):
    methods = [row["Method"] for row in first_table(text)]
    assert methods == ["Full model", "First 4 layers", "Early exit", "SWEET", "Multi-Model"]
    start = text.split("<details>")[0]
    assert start.count("| --- |") == 1
    for fold in text.split("<details>")[1:]:
        assert "</details>" in fold
    assert "≥ 2× fewer layers" not in start  # noqa: RUF001
    assert "≥ 2× fewer layers" in text  # noqa: RUF001


def test_every_row_on_top_has_figures_and_a_method_without_any_is_named(text):
    for row in first_table(text)[1:]:
        assert all(row.values()), row
    assert (
        "Nothing that saves layers stays within the goal on the calibration split: Learning to exit." in text
    )


def test_every_interval_says_what_it_is_of(text):
    for line in text.splitlines():
        cells = line.split(" | ")
        if "95 % interval" in line and line.startswith("| Method"):
            for place, cell in enumerate(cells):
                if cell == "95 % interval of it":
                    assert cells[place - 1] == "Wall-clock ×"  # noqa: RUF001
                elif "interval" in cell:
                    assert re.search(r"interval of (the loss|it)\)", cell)
    assert "- 95 % interval of the loss: paired bootstrap" in text


def test_the_loss_is_in_points_of_the_full_model_with_its_paired_interval(text, tmp_path, params):
    heading = "Loss in points (95 % interval of the loss)"
    row = next(row for row in first_table(text) if row["Method"] == "First 4 layers")
    assert row[heading] == "2.00 (1.20 to 2.90)" or re.fullmatch(
        r"2\.00 \([01]\.\d\d to [23]\.\d\d\)", row[heading]
    )
    write_run(tmp_path, params)  # no answers kept: no interval
    assert re.fullmatch(r"−?\d+\.\d\d", first_table(written(tmp_path, params))[1][heading])  # noqa: RUF001


def test_milliseconds_of_method_and_full_model_stand_side_by_side(text):
    row = next(row for row in first_table(text) if row["Method"] == "First 4 layers")
    assert row["ms / full model's"] == f"{20 / (1.5 * 0.93):.1f} / 20.0"


def test_the_recommended_one_is_bold_and_told_with_its_own_figures(tmp_path):
    params = invented_params(seeds=[0])
    write_run(tmp_path, params)
    (choice,) = recommend(collect(tmp_path, params))
    marked, text = choice.marked, written(tmp_path, params)
    assert marked.method == "sweet"
    assert re.findall(r"^\| \*\*(.+?)\*\* \|", text, re.M) == ["SWEET"]
    told = f"SWEET of seed 0, leaving by {marked.rule} at threshold {marked.threshold:.6g}: accuracy {marked.quality:.4f}, "
    assert told in text
    clock = f"{marked.wallclock_speedup:.2f}× faster by the clock"  # noqa: RUF001
    assert f"{clock}, {marked.milliseconds:.1f} ms a text." in text


def test_where_nothing_faster_is_promised_the_full_model_is_the_bold_one(tmp_path, params):
    write_run(tmp_path, params, chosen=FULL)
    text = written(tmp_path, params)
    assert re.findall(r"^\| \*\*(.+?)\*\* \|", text, re.M) == ["Full model"]
    assert "see recommendation.md): the full model." in text


def test_where_nothing_is_known_no_row_is_bold(tmp_path, params):
    write_run(tmp_path, params)
    for seed in params.seeds:
        shutil.rmtree(tmp_path / f"tiers/minilm/recommended/seed{seed}")
    text = written(tmp_path, params)
    assert not re.findall(r"^\| \*\*(.+?)\*\* \|", text, re.M)
    assert "**Recommended**" not in text


def test_rules_that_coincide_are_named_once_and_others_apart(tmp_path, params):
    def edit(cell, rows, timings):
        by_key = {(row["rule"], row["operating_point"]): row for row in rows}
        for row in rows:
            if row["method"] == "early_exit" and row["rule"] == "entropy":
                same = by_key["confidence", row["operating_point"]]
                row |= {name: same[name] for name in ("quality", "layers_speedup", "calibration_quality")}

    write_run(tmp_path, params, edit=edit)
    text = written(tmp_path, params)
    row = next(row for row in first_table(text) if row["Method"] == "Early exit")
    assert row["Leaves by"] == "confidence, entropy"
    assert text.count("| Early exit | confidence, entropy | 2 |") == 3
    assert "| Early exit | entropy |" not in text
    assert text.count("| Early exit | margin | 2 |") == 3
    assert text.count("| SWEET | entropy | 2 |") == 3


def test_a_model_without_exits_stands_there_only_if_every_seed_keeps_the_goal(tmp_path, params):
    def edit(cell, rows, timings):
        for row in rows:
            if row["method"] == "static_4":
                row["qualifies"] = cell.seed == 0
            if row["method"] == "static_2":
                row["qualifies"] = False

    write_run(tmp_path, params, edit=edit)
    (one,) = collect(tmp_path, params).each
    methods = [item.row.method for item in goal_rows(one)]
    assert not [name for name in methods if name.startswith("static")]  # the last is the full model's copy
    assert "the first K layers alone" in written(tmp_path, params)


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, id=page.parts[-3]) for page in sorted(PROJECT.glob("docs/results/*/tables/main.md"))],
)
def test_the_first_table_of_kept_results_fits_the_page_of_a_code_host(page):
    for part in re.split(r"^## ", page.read_text(), flags=re.M)[1:]:
        rows = first_table(part)
        assert rows[0]["Method"] == "Full model"
        widest = [max(len(row[name]) for row in rows) for name in rows[0]]
        assert len(widest) * MARGIN_PIXELS + sum(widest) * CHARACTER_PIXELS <= PAGE_PIXELS
