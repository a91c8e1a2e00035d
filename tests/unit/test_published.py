"""Published tables are what the papers print, with their doubts; beside ours they say what is not the same."""

from __future__ import annotations

import csv
import io
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_records import invented_params, write_run

from adaptive_inference.errors import UserError
from adaptive_inference.settings.inputs import weights_kind
from adaptive_pipeline.reporting.frame import collect
from adaptive_pipeline.reporting.published.papers import load_published, read_paper
from adaptive_pipeline.reporting.published.side_by_side import (
    COLUMNS,
    _split,
    published_markdown,
    side_by_side,
    task_key,
)
from adaptive_pipeline.reporting.tables.csv import csv_text
from adaptive_pipeline.runs.records import Record

CELLS = load_published()

#: The columns of the LeeBERT paper as its text holds them, run together: (table, split, task) -> values top to bottom.
PRINTED = {
    ("1", "dev", "cola"): "57.451.953.852.252.653.754.156.457.157.257.557.057.157.257.457.957.8",
    ("1", "dev", "mnli"): "84.680.281.279.880.381.781.583.984.785.085.184.884.985.085.185.485.4",
    ("1", "dev", "mrpc"): "89.585.887.185.986.287.287.188.789.189.289.589.289.189.289.589.989.7",
    ("1", "dev", "qnli"): "89.284.786.284.584.386.486.788.689.089.389.489.189.089.389.489.789.7",
    ("1", "dev", "qqp"): "89.686.888.387.388.087.487.888.989.389.589.889.289.389.689.890.390.2",
    ("1", "dev", "rte"): "75.670.672.971.372.172.472.274.475.676.376.775.875.976.076.476.976.8",
    ("1", "dev", "sst2"): "91.888.890.389.789.589.689.790.590.991.191.391.091.090.991.391.891.8",
    ("1", "test", "cola"): "54.153.554.054.6",
    ("1", "test", "mnli"): "84.383.684.484.8",
    ("1", "test", "mrpc"): "87.086.586.787.2",
    ("1", "test", "qnli"): "88.388.188.388.6",
    ("1", "test", "qqp"): "71.169.870.571.4",
    ("1", "test", "rte"): "73.472.873.774.6",
    ("1", "test", "sst2"): "92.892.092.593.1",
    ("4", "dev", "mrpc"): "87.288.687.188.9",
    ("5", "dev", "mnli"): "83.579.180.479.880.680.781.582.183.1",
    ("5", "dev", "mrpc"): "88.383.985.885.385.585.486.286.788.5",
    ("5", "dev", "sst2"): "91.589.690.589.389.789.690.490.891.8",
    ("5", "test", "mnli"): "83.381.682.083.1",
    ("5", "test", "mrpc"): "87.285.285.787.1",
    ("5", "test", "sst2"): "92.791.391.792.6",
    ("6", "test", "cifar10"): "91.891.992.192.5",
    ("6", "test", "cifar100"): "68.669.069.369.6",
}
SPEEDUPS = {
    ("1", "dev"): "1.001.961.301.961.221.881.951.911.941.951.961.951.951.941.931.951.96",
    ("1", "test"): "1.001.891.951.96",
    ("4", "dev"): "1.881.921.952.04",
    ("5", "dev"): "1.001.961.301.961.961.961.861.951.97",
    ("5", "test"): "1.001.861.961.97",
}


def cells(**wanted):
    return [cell for cell in CELLS if all(getattr(cell, name) == value for name, value in wanted.items())]


def only(**wanted):
    (cell,) = cells(**wanted)
    return cell


# ---- the data --------------------------------------------------------------------------------------------------------


def test_every_table_has_all_its_cells():
    assert Counter((cell.paper, cell.table, cell.split, cell.unit, cell.backbone) for cell in CELLS) == {
        ("LeeBERT", "1", "dev", "percent", "ALBERT-base"): 17 * 7,
        ("LeeBERT", "1", "test", "percent", "ALBERT-base"): 4 * 7,
        ("LeeBERT", "2", "none", "parameters", "ALBERT-base"): 5 * 2,
        ("LeeBERT", "2", "none", "minutes", "ALBERT-base"): 5 * 2,
        ("LeeBERT", "4", "dev", "percent", "ALBERT-base"): 4 * 3,
        ("LeeBERT", "5", "dev", "percent", "BERT-base"): 9 * 3,
        ("LeeBERT", "5", "test", "percent", "BERT-base"): 4 * 3,
        ("LeeBERT", "6", "test", "percent", "ResNet-56"): 4 * 2,
        ("PABEE", "README, first", "dev", "percent", "ALBERT-base"): 2 * 8,
        ("PABEE", "README, second", "dev", "percent", "BERT-base"): 2 * 3,
        ("PABEE", "README, second", "dev", "percent", "ALBERT-large"): 2 * 3,
        ("SWEET", "abstract", "none", "percent", "BERT and DeBERTa"): 2,
    }


@pytest.mark.parametrize("column", PRINTED, ids="-".join)
def test_columns_are_those_of_the_papers_text(column):
    table, split, task = column
    found = cells(paper="LeeBERT", table=table, split=split, task=task, unit="percent")
    assert "".join(cell.printed for cell in found) == PRINTED[column]


@pytest.mark.parametrize("table", SPEEDUPS, ids="-".join)
def test_speedups_are_those_of_the_papers_text(table):
    found = cells(paper="LeeBERT", table=table[0], split=table[1], task="mrpc")
    assert "".join(f"{cell.speedup:.2f}" for cell in found) == SPEEDUPS[table]


def test_pabees_rows_are_those_of_its_readme():
    rows = {}
    for cell in cells(paper="PABEE"):
        rows.setdefault((cell.backbone, cell.key, cell.speedup), []).append(cell.printed)
    assert {key: " | ".join(row) for key, row in rows.items()} == {
        ("ALBERT-base", "full", None): "58.9 | 84.6 | 89.5 | 91.7 | 89.6 | 78.6 | 92.8 | 89.5",
        ("ALBERT-base", "pabee", 1.57): "61.2 | 85.1 | 90.0 | 91.8 | 89.6 | 80.1 | 93.0 | 90.1",
        ("BERT-base", "full", None): "84.5 | 92.1 | 88.9",
        ("BERT-base", "pabee", 1.62): "83.6 | 92.0 | 88.7",
        ("ALBERT-large", "full", None): "86.4 | 94.9 | 90.4",
        ("ALBERT-large", "pabee", 2.42): "86.8 | 95.2 | 90.6",
    }


def test_values_are_converted_and_in_range():
    for cell in CELLS:
        if cell.unit == "percent":
            assert 0 < cell.value < 1
        assert cell.speedup is None or 1.0 <= cell.speedup < 3.0
        assert cell.note or cell.paper_note
    assert only(table="1", split="dev", task="cola", method="LeeBERT").value == 0.578
    assert only(table="2", unit="minutes", task="sst2", key="leebert_clo_v1").value == 226
    added = only(table="2", unit="parameters", task="mrpc", key="leebert")
    assert (added.printed, added.value) == ("+18k", 18000)
    assert only(table="2", unit="parameters", task="mrpc", key="full").value == 12e6


def test_doubtful_cells_are_those_of_table_4_and_no_others():
    assert {(cell.table, cell.task, cell.certainty) for cell in CELLS if cell.certainty != "certain"} == {
        ("4", "mnli", "likely"),
        ("4", "sst2", "guess"),
    }
    assert [cell.certainty for cell in cells(table="4")] == ["likely", "certain", "guess"] * 4


def test_metrics_that_nobody_names_are_open():
    assert {cell.task for cell in CELLS if cell.metric is None} == {"mrpc", "qqp", "stsb"}
    assert {cell.metric_certainty for cell in CELLS if cell.metric is None} == {"unspecified"}
    assert {cell.metric for cell in cells(table="1", split="test", task="qqp")} == {"f1"}
    assert {cell.metric_certainty for cell in cells(table="1", split="test", task="qqp")} == {"inferred"}
    assert {cell.metric for cell in cells(task="cola")} == {"matthews"}


def test_slips_and_contradictions_of_the_paper_are_noted():
    assert "slip for 12M" in only(table="4", task="mnli", rule="confidence", key="leebert").note
    assert only(table="4", task="mnli", rule="confidence", key="leebert").parameters == "108M"
    assert all("1.97" in cell.note for cell in cells(table="1", key="leebert"))
    assert "6 of 7" in only(table="1", task="qnli", key="leebert_lle").note
    starred = {cell.task for cell in CELLS if cell.starred}
    assert starred == {"cola", "mnli", "qqp", "rte", "sst2"}
    assert {(c.table, c.split, c.key) for c in CELLS if c.starred} == {("1", "test", "leebert")}


def test_papers_methods_have_our_keys():
    assert {cell.key for cell in cells(table="1", split="dev")} == {
        "full", "deebert", "pabee", "fastbert", "fastbert_clo_v2", "leebert_lle", "leebert_random",
        "leebert_uniform", "leebert_slo", "leebert_blo", "leebert_clo_v1", "leebert", "layer_drop", "head_pruning", None,
    }  # fmt: skip
    assert {cell.method for cell in CELLS if cell.key is None} == {
        "ALBERT-6L", "ALBERT-9L", "Shallow-Deep", "BERT-6L", "BERT-9L", "DistilBERT", "DBT",
    }  # fmt: skip
    assert {cell.method: cell.key for cell in cells(table="5", split="dev")} == {
        "BERT-base": "full", "BERT-6L": None, "BERT-9L": None, "DistilBERT": None, "BERT-PKD": "pkd",
        "BERT-of-Theseus": "theseus", "PABEE": "pabee", "FastBERT": "fastbert", "LeeBERT": "leebert",
    }  # fmt: skip


PAPER = """
paper: X
citation: Y
source: Z
note: N
metrics: {rte: {metric: accuracy, certainty: convention}}
tables:
  - {table: "1", backbone: B, split: dev, unit: percent, columns: [rte], rows: [{method: M, values: [50.0]}]}
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("method: M", "methd: M", r"unknown key 'tables.0.rows.0.methd'; allowed here: method, .*did you mean 'method'"),
        ("split: dev", "split: train", "tables.0.split: .*'dev', 'test' or 'none'.*'train'"),
        ("source: Z", "origin: Z", "unknown key 'origin'"),
        ("[50.0]", "[50.0, 60.0]", "row 'M' has 2 values for 1 columns"),
        ("[50.0]", "[about 50]", "value 'about 50' is no number"),
        ("[50.0]", "[50.0], uncertain: {qnli: guess}", "flags 'qnli'; columns: rte"),
        ("[50.0]", "[50.0], uncertain: {rte: perhaps}", "'likely' or 'guess'"),
        ("[rte]", "[mrpc]", "no metric of column 'mrpc'"),
        ("note: N", "note: N\nnote: N", "given twice"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_file_is_told(tmp_path, old, new, message):
    path = tmp_path / "x.yaml"
    path.write_text(PAPER)
    assert [cell.value for cell in read_paper(path)] == [0.5]
    path.write_text(PAPER.replace(old, new))
    with pytest.raises(UserError, match=message):
        read_paper(path)


# ---- beside ours -----------------------------------------------------------------------------------------------------


#: What each kind of weights has to be pinned by.
PINS = {"hub": {"revision": "0" * 40}, "folder": {"sha256": "0" * 64}}


def beside(root, weights="packaged", speedup=None, **changes):
    """Invented records of a task of two methods that papers have numbers of, put beside them."""
    task = {"source": "local", "train": "t.jsonl", "evaluation": "rte/validation.jsonl", "labels": ["a", "b"]}
    params = invented_params(
        tasks={changes.pop("name", "RTE"): task | changes},
        backbones={"small": {"weights": weights, "exits": [2, 4, 6]} | PINS.get(weights_kind(weights), {})},
        methods={"full": {"train": {}, "rules": ["fixed"]}, "sweet": {"train": {}, "rules": ["entropy"]}},
        trained_by={"train_sweet": ["sweet"], "train_leebert": [], "train_multi_model": []},
    )
    write_run(root, params)
    results = collect(root, params)
    keys = {"leebert": "sweet"}
    published = [
        replace(cell, key=keys.get(cell.key, cell.key), speedup=speedup or cell.speedup) for cell in CELLS
    ]
    return side_by_side(results, published)


def read(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_rows_stand_beside_the_papers_of_their_task_and_method(tmp_path):
    rows = read(csv_text(beside(tmp_path), COLUMNS))
    assert [(row["method"], row["paper"], row["table"], row["paper_split"], row["paper_quality"]) for row in rows] == [
        ("full", "LeeBERT", "1", "dev", "0.756"),
        ("full", "LeeBERT", "1", "test", "0.734"),
        ("full", "PABEE", "README, first", "dev", "0.786"),
        ("sweet", "LeeBERT", "1", "dev", "0.768"),
        ("sweet", "LeeBERT", "1", "test", "0.746"),
    ]  # fmt: skip
    assert {row["train_rows"] for row in rows} == {"100"}
    assert {row["seeds"] for row in rows} == {"2"}
    assert rows[0]["quality_mean"] == "0.902"


@pytest.mark.parametrize(("published", "nearest"), [(1.0, 0), (1.8, 1), (1.95, 1), (1.97, 2), (9.0, 2)])
def test_our_point_is_the_one_nearest_in_speed(tmp_path, published, nearest):
    # as a ratio: 1.957 lies between the invented 1.740 and 2.203
    pair = next(pair for pair in beside(tmp_path, speedup=published).itertuples() if pair.method == "sweet")
    folder = tmp_path / "RTE/small/seed0/sweet/evaluation"
    speeds = sorted(row.layers_speedup for row in Record.load(folder).rows)
    assert pair.layers_speedup == pytest.approx(speeds[nearest])


def test_the_papers_rule_goes_before_a_nearer_speed(tmp_path):
    speeds = {"entropy": 2.0, "confidence": 3.0}  # invented

    params = invented_params(tasks={"rte": {"source": "local", "train": "t.jsonl", "labels": ["a", "b"]}})
    write_run(tmp_path, params)
    results = collect(tmp_path, params)
    points = results.points
    slower = points.assign(layers_speedup=points.rule.map(speeds).fillna(1.0), rule=points.rule + "(k=1)")
    results = replace(results, points=slower)
    cell = replace(only(table="1", split="dev", task="rte", key="leebert"), key="sweet", speedup=2.0)
    for rule, speed in (("confidence", 3.0), ("entropy", 2.0), ("patience", 2.0), (None, 2.0)):
        (pair,) = side_by_side(results, [replace(cell, rule=rule)]).itertuples()
        assert pair.layers_speedup == speed
        assert ("rule" in pair.setting) == (rule == "patience")


def test_another_backbone_split_or_subset_is_not_comparable_and_says_so(tmp_path):
    pairs = beside(tmp_path, train_rows=50)
    assert pairs.setting.str.startswith("not comparable: backbone small (packaged), not ").all()
    assert pairs.setting.str.contains("50 training rows, not all").all()
    tested = pairs[pairs.paper_split == "test"]
    assert tested.setting.str.contains("rte/validation.jsonl, not GLUE test").all()
    assert "not comparable" in published_markdown(pairs)


def test_the_same_backbone_and_split_is_told_too(tmp_path):
    pairs = beside(tmp_path, weights="albert/albert-base-v2")
    found = {(pair.method, pair.paper_split): pair.setting for pair in pairs.itertuples()}
    assert found["full", "dev"] == "development and calibration rows are carved from train"
    assert found["sweet", "dev"].endswith("; rule entropy, not patience")
    assert found["full", "test"].startswith("not comparable: rte/validation.jsonl, not GLUE test; ")


def test_flags_are_shown(tmp_path):
    pairs = beside(tmp_path, name="sst-2", evaluation="sst2/validation.jsonl")
    text = published_markdown(pairs)
    assert "0.918 (??)" in text
    assert "0.931*" in text
    assert "the paper's cell is a guess" in text
    assert "slip for 12M" in text
    text = published_markdown(beside(tmp_path / "mrpc", name="mrpc"))
    assert "the paper's metric is not told" in text
    text = published_markdown(beside(tmp_path / "cola", name="cola"))
    assert "accuracy, not matthews" in text


def test_a_local_folder_of_weights_is_named_without_its_path(tmp_path):
    text = csv_text(beside(tmp_path, weights="somewhere/private/albert-base-v2"), COLUMNS)
    assert "albert-base-v2" in text
    assert "private" not in text


@pytest.mark.parametrize("name", ["tickets", "sst2x"])
def test_what_papers_know_nothing_of_gives_no_row(tmp_path, name):
    assert beside(tmp_path, name=name).empty


def test_a_generated_task_matches_nothing_whatever_its_name(tmp_path):
    params = invented_params()
    params = invented_params(tasks={"sst2": next(iter(params.model_dump(mode="json")["tasks"].values()))})
    write_run(tmp_path, params)
    results = collect(tmp_path, params)
    assert side_by_side(results).empty


@given(st.sampled_from([cell.task for cell in CELLS]), st.sampled_from(["-", "_", ""]), st.booleans())
def test_spelling_of_a_task_does_not_matter(task, mark, upper):
    spelled = mark.join((task[:3], task[3:])) if len(task) > 3 else task
    assert task_key(spelled.upper() if upper else spelled) == task


@pytest.mark.parametrize(
    ("evaluation", "split"),
    [
        ("validation_matched", "dev"),
        ("rte/dev.tsv", "dev"),
        ("test/validation.jsonl.gz", "dev"),
        ("test", "test"),
        ("latest.csv", None),
        (None, None),
    ],
)
def test_the_split_is_read_off_the_name(evaluation, split):
    assert _split(evaluation) == split
