"""Records: typed, deterministic, whole, and identified by what a stage was given."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from named_goals import named_goal

from adaptive_inference.calibration.operating_point import OperatingPoint, Seen, Setting
from adaptive_inference.errors import UserError
from adaptive_inference.files import digest_json, plain, read_json, read_jsonl, write_json
from adaptive_pipeline.grid import Cell
from adaptive_pipeline.runs.digests import TIMING_OUTPUTS, digest_path
from adaptive_pipeline.runs.records import FAMILIES, Member, PointRow, Record

CELL = Cell("sst2", "minilm", 3, "sweet")


def a_record(**changes):
    given_values = {
        "stage": "train_sweet",
        "cell": CELL,
        "params": {"runtime": None},
        "inputs": {"data": "d"},
        "code": "c",
    }
    values = given_values | changes
    return FAMILIES.get(values["stage"], Record)(**values)


SEEN = Seen(0.9, 1.5, None)


def a_point(name="max_loss_1", seen=SEEN, member=None):
    setting = Setting("fixed" if member else "confidence", None if seen is None else 0.8, member)
    return OperatingPoint(named_goal(name), setting, seen is not None, seen)


def a_row(point, **changes):
    """A row of an evaluation, by the attributes that have no default."""
    given = {"method": point.method("sweet"), "metric": "accuracy", "attainable": True, "added_parameters": 0}
    return PointRow(point=point, **given | changes)


FILLED = [
    a_record(
        exits=[2, 4], steps=10, gradient_conflict=[{"layer": 1, "mean_cosine": None, "pairs": {"2-4": 0.5}}]
    ),
    a_record(stage="train_multi_model", members=[Member(layer=2, steps=5), Member(layer=4, steps=None)]),
    a_record(stage="calibrate_thresholds", operating_points=[a_point(), a_point("min_speedup_2", None)]),
    a_record(
        stage="evaluate_batch1",
        rows=[
            a_row(a_point(), quality=0.5),
            a_row(a_point("static_2", member=2)),
            a_row(a_point("risk_0.1", None)),
        ],
        recommended=a_point(),
    ),
    a_record(stage="prepare_data", task_schema={"kind": "classification"}),
    a_record(stage="of nobody"),
]


@pytest.mark.parametrize("record", FILLED, ids=lambda record: record.stage)
def test_every_family_reads_back_what_it_wrote(record, tmp_path):
    record.save(tmp_path)
    again = Record.load(tmp_path)
    assert again == record
    assert type(again) is type(record) is FAMILIES.get(record.stage, Record)


def test_a_record_survives_being_written(tmp_path):
    record = a_record()
    record.metrics |= {"quality": np.float64(0.5), "rows": np.int64(3), "bad": float("nan")}
    record.rows = {"train": np.arange(2)}
    record.save(tmp_path)
    again = Record.load(tmp_path)
    assert again.metrics == {"quality": 0.5, "rows": 3, "bad": None}
    assert again.rows == {"train": [0, 1]}
    assert again.record_id == record.record_id
    assert again.to_json() == record.to_json()
    again.save(tmp_path / "again")
    assert (tmp_path / "again/metrics.json").read_bytes() == (tmp_path / "metrics.json").read_bytes()


def test_what_is_not_of_the_familys_shape_is_not_written(tmp_path):
    record = a_record()
    record.exits = ["two"]
    with pytest.raises(ValueError, match="exits"):
        record.save(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_copy_of_the_full_model_is_known_by_having_no_steps_of_its_own():
    assert FILLED[1].has_copy_of_full
    assert not a_record(members=[Member(layer=2, steps=5)]).has_copy_of_full


def test_equal_work_has_equal_ids_whatever_came_out():
    assert a_record(metrics={"quality": 1.0}).record_id == a_record().record_id


@pytest.mark.parametrize(
    "change",
    [
        {"stage": "train_leebert"},
        {"cell": Cell("sst2", "minilm", 4, "sweet")},
        {"params": {"a": 1}},
        {"inputs": {"data": "e"}},
        {"code": "d"},
    ],
)
def test_other_work_has_another_id(change):
    assert a_record(**change).record_id != a_record().record_id


def test_a_file_of_another_shape_is_refused(tmp_path):
    body = a_record().to_json()
    for change, told in (
        ({"version": 1}, "a record of version 1, this code reads 2; run its stage again"),
        ({"params": 1}, r"no record of this project \(params: "),
        ({"details": {}}, r"no record of this project \(details: "),
    ):
        write_json(tmp_path / "metrics.json", body | change)
        with pytest.raises(UserError, match=told):
            Record.load(tmp_path)
    write_json(tmp_path / "metrics.json", {"accuracy": 1})
    with pytest.raises(UserError, match="version 1"):
        Record.load(tmp_path)
    (tmp_path / "metrics.json").write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        Record.load(tmp_path)
    with pytest.raises(UserError, match="missing"):
        read_json(tmp_path / "nothing.json")


def test_the_digest_of_a_folder_follows_names_and_contents_but_not_the_clock(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/x.json").write_text("1")
    before = digest_path(tmp_path)
    for name in TIMING_OUTPUTS:
        if not name.endswith("/"):
            (tmp_path / "a" / name).write_text("now")
    (tmp_path / "a/__pycache__").mkdir()
    (tmp_path / "a/__pycache__/x.pyc").write_bytes(b"0")
    assert digest_path(tmp_path) == before
    (tmp_path / "a/x.json").rename(tmp_path / "a/y.json")
    assert digest_path(tmp_path) != before


def test_a_writer_leaves_no_half_file(tmp_path):
    target = tmp_path / "x.json"
    write_json(target, {"a": 1})
    with pytest.raises(TypeError):
        write_json(target, {"a": object()})
    assert json.loads(target.read_text()) == {"a": 1}


def test_lines_are_split_at_newlines_only(tmp_path):
    text = "one\u2028still one\x85and still"
    (tmp_path / "x.jsonl").write_text(json.dumps({"text": text}, ensure_ascii=False) + "\n", encoding="utf-8")
    assert read_jsonl(tmp_path / "x.jsonl") == [{"text": text}]


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(st.dictionaries(st.text(), values))
def test_digests_do_not_depend_on_the_order_of_keys(body):
    assert digest_json(body) == digest_json(dict(reversed(body.items())))
    assert plain(body) == body
