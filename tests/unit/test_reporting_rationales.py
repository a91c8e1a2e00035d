"""Tables and figures of explanations, from invented records."""

from __future__ import annotations

import csv
import io

import pytest
from synthetic_records import KEPT_RATES, explained_params, write_explained, write_run

from adaptive_inference.evaluation.explained import ALL_LAYERS, BASELINES, CONTRIBUTIONS
from adaptive_pipeline.grid import Cell
from adaptive_pipeline.reporting.breakdowns import rationales
from adaptive_pipeline.reporting.figures.rationales import draw_rationales
from adaptive_pipeline.reporting.frame import collect
from adaptive_pipeline.reporting.tables.csv import csv_tables
from adaptive_pipeline.reporting.tables.rationales import rationales_markdown
from adaptive_pipeline.runs.store import kept_file, open_runs, write_kept

PARAMS = explained_params()
NO_LABELS = {"average_precision": None, "recall": None, "false_positive_rate": None, "rationales": 0}


@pytest.fixture
def root(tmp_path):
    write_run(tmp_path, PARAMS)
    return tmp_path


def cells(method):
    return [Cell("tiers", "minilm", seed, method) for seed in PARAMS.seeds]


def explained(root, **changes):
    """Explanations of the full model, and of SWEET as if it removed tokens."""
    for cell in cells("full"):
        write_explained(root, PARAMS, cell, reduces=False)
    for cell in cells("sweet"):
        write_explained(root, PARAMS, cell, **changes)
    return collect(root, PARAMS)


def test_the_table_has_a_row_of_each_method_kind_and_layer_over_seeds(root):
    table = rationales(explained(root))
    assert list(zip(table.method, table.kind, table.layer, strict=True)) == [
        *(("full", kind, "") for kind in BASELINES),
        *(("sweet", kind, layer) for kind in (CONTRIBUTIONS, *BASELINES) for layer in KEPT_RATES),
    ]
    assert set(table.seeds) == {len(PARAMS.seeds)}
    assert set(table.rationales) == {40 * len(PARAMS.seeds)}
    ours = table[table.kind == CONTRIBUTIONS]
    assert list(ours.false_positive_rate_mean) == pytest.approx([own for own, _ in KEPT_RATES.values()])
    theirs = table[(table.kind == "saliency") & (table.method == "sweet")]
    assert list(theirs.fpr_difference_mean) == pytest.approx([a - b for a, b in KEPT_RATES.values()])


def test_the_csv_computes_and_the_page_reads(root):
    results = explained(root)
    rows = list(csv.DictReader(io.StringIO(csv_tables(results)["rationales.csv"])))
    (whole,) = [row for row in rows if (row["kind"], row["layer"]) == (CONTRIBUTIONS, ALL_LAYERS)]
    assert (whole["false_positive_rate_mean"], whole["fpr_difference_mean"]) == ("0.6", "")
    page = rationales_markdown(rationales(results))
    assert "**Agreement with rationales: SWEET**" in page
    lines = [line for line in page.splitlines() if line.startswith("| Saliency | 3 |")]
    assert len(lines) == 1
    assert lines[0].endswith("| −0.200 [−0.250, +0.050] |")  # noqa: RUF001
    assert "| Full model | Attention |  |" in page


def test_a_figure_of_each_method_that_reduces_is_equal_bytes(root, tmp_path):
    results = explained(root).each[0]
    assert draw_rationales(results, tmp_path, "tiers-minilm-rationales") == ["tiers-minilm-rationales-sweet"]
    first = (tmp_path / "tiers-minilm-rationales-sweet.svg").read_bytes()
    draw_rationales(results, tmp_path, "tiers-minilm-rationales")
    assert (tmp_path / "tiers-minilm-rationales-sweet.svg").read_bytes() == first
    for text in ("Contribution predictors", "Attention rollout", "mean of the layers"):
        assert text in first.decode()


def test_without_rationales_faithfulness_alone_is_told(root, tmp_path):
    results = explained(root, **NO_LABELS)
    table = rationales(results)
    page = rationales_markdown(table[table.method == "sweet"])
    assert "Agreement with" not in page
    assert "| SWEET | Contribution predictors | all |" in page
    assert draw_rationales(results.each[0], tmp_path, "stem") == []


def test_nothing_explained_leaves_no_table_and_no_figure(root, tmp_path):
    results = collect(root, PARAMS)
    assert "rationales.csv" not in csv_tables(results)
    assert draw_rationales(results.each[0], tmp_path, "stem") == []


def test_what_git_keeps_of_a_run_gives_the_same_table(root, tmp_path_factory):
    explained(root)
    out = tmp_path_factory.mktemp("kept")
    items = list(open_runs(root).finished.values())
    for seed in PARAMS.seeds:
        cell = Cell("tiers", "minilm", seed)
        write_kept(kept_file(out, cell), [item for item in items if item.record.cell.seed == seed])
    assert rationales(collect(out, PARAMS)).equals(rationales(collect(root, PARAMS)))


def test_explanations_of_other_params_are_left_out(root):
    explained(root)
    other = explained_params(evaluation=PARAMS.evaluation.model_dump() | {"bootstrap": 7})
    write_run(root, other)
    assert rationales(collect(root, other)).empty
