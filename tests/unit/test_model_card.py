from dataclasses import replace

import pytest
import yaml
from huggingface_hub import ModelCard

from adaptive_inference.calibration.operating_point import COST_WORDS, Goal, OperatingPoint, Seen, Setting
from adaptive_inference.errors import UserError
from adaptive_inference.exits import MultiModel, build_model
from adaptive_inference.exits.layout import open_model
from adaptive_inference.files import write_json
from adaptive_inference.serving.card import CardPoint, card_of, render
from adaptive_inference.serving.export import RECORD_VERSION, export
from adaptive_inference.serving.metadata import Dataset, Encoder
from adaptive_inference.serving.setting import usable_points
from adaptive_inference.settings.inputs import Backbone, Task
from adaptive_inference.tasks.schema import Schema
from adaptive_pipeline.grid import Cell
from adaptive_pipeline.runs.records import VERSION, EvaluationRecord, PointRow, TrainingRecord

SCHEMA = Schema("movies", "classification", ("bad", "good"), "accuracy", 48)
POINT = OperatingPoint(Goal("max_loss", 1.0), Setting("margin", 0.375), True, Seen(0.8125, 1.5))


def build(exits, schema=SCHEMA):
    return build_model(Backbone(weights="random:bert", exits=exits), schema, 0)


def calibrated(model, point=POINT):
    """Give a model a calibration with one point, recommended if it qualifies."""
    points = [point.to_json()]
    recommended = points[0] if point.qualifies else None
    temperatures = [1.0] * len(model.exits)
    model.calibration = {
        "temperatures": temperatures,
        "operating_points": points,
        "recommended": recommended,
    }
    return model


def card(model, folder):
    model.save_pretrained(folder)
    return render(card_of(folder, [CardPoint(point) for point in usable_points(model.calibration)]))


def test_a_card_names_task_labels_exits_thresholds_and_use_under_a_yaml_header(tmp_path):
    text = card(calibrated(build([2, 4])), tmp_path)
    header = yaml.safe_load(text.split("---")[1])
    assert header["library_name"] == "adaptive-inference"
    assert header["pipeline_tag"] == "text-classification"
    for piece in (
        "movies",
        "`bad`, `good`",
        "after layers 2, 4",
        "`margin` at threshold 0.375 (`max_loss_1`: ≤ 1 point lost)",
        "| `margin` | `max_loss_1` | 0.375 | 0.8125 | 1.5 |",
        "48 tokens",
        "accuracy",
        "load_predictor",
    ):
        assert piece in text
    assert "adaptive-inference predict" in text
    assert "evaluation split" not in text  # nothing is known of it


@pytest.mark.parametrize(("cost", "speedup"), [("layers", "1.5"), ("flops", "1.25")])
def test_a_card_tells_the_calibrations_speedup_in_the_goals_currency(cost, speedup, tmp_path):
    point = OperatingPoint(
        Goal("max_loss", 1.0, cost), Setting("margin", 0.375), True, Seen(0.8125, 1.5, 1.25)
    )
    text = card(calibrated(build([2, 4]), point), tmp_path)
    header, _, row = (line for line in text.splitlines() if line.startswith("| "))
    assert header.endswith(f"| quality, calibration split | {COST_WORDS[cost]} speed-up, calibration split |")
    assert row.endswith(f"| 0.8125 | {speedup} |")


def test_the_python_in_a_card_runs(tmp_path, monkeypatch, capsys):
    calibrated(build([2, 4])).save_pretrained(tmp_path / "model")
    export(tmp_path / "model", tmp_path / "out")
    monkeypatch.chdir(tmp_path / "out")
    exec((tmp_path / "out" / "README.md").read_text().split("```python\n")[1].split("```")[0], {})
    printed = capsys.readouterr().out
    assert any(label in printed for label in SCHEMA.labels)


def test_a_card_of_one_exit_has_no_threshold(tmp_path):
    text = card(calibrated(build([4])), tmp_path)
    assert "the model has one exit" in text
    assert "a model of 4 layers" in text


def test_a_card_without_calibration_says_so(tmp_path):
    assert "Not calibrated" in card(build([2, 4]), tmp_path)


def test_a_card_says_when_no_threshold_keeps_the_quality(tmp_path):
    missed = OperatingPoint(Goal("max_loss", 1.0), Setting("margin", None), False)
    text = card(calibrated(build([2, 4]), missed), tmp_path)
    assert "no threshold kept the quality" in text
    assert "Operating points" not in text


@pytest.mark.parametrize("text", [("text",), ("premise", "hypothesis")])
def test_a_regression_card_speaks_of_a_score(text, tmp_path):
    told = card(build([4], Schema("sts", "regression", None, "pearson_spearman", 48, text)), tmp_path)
    assert "answers a score" in told
    assert "scored by Pearson-Spearman mean" in told
    assert "answer.probabilities" not in told
    assert ("premise" in told) == (len(text) == 2)


def test_a_cascade_card_lists_its_members(tmp_path):
    text = card(calibrated(MultiModel([build([1]), build([4])])), tmp_path)
    assert "Members of 1, 4 layers" in text
    assert "a cascade of 2 models" in text


# ---- what hubs read ----------------------------------------------------------------------------------------------------

COMMIT = "0123456789abcdef" * 2 + "01234567"
MNLI = Task(source="hub", hub_id="nyu-mll/glue", hub_config="mnli", revision=COMMIT, train="train")


def told(folder, metric="accuracy", **known):
    """Return what a hub reads of the card of a model that loses nothing by its default point."""
    model = calibrated(build([2, 4], replace(SCHEMA, metric=metric)))
    model.save_pretrained(folder)
    card = card_of(folder, [CardPoint(POINT, 0.87654, 1.7512, 1.6)])
    return ModelCard(render(replace(card, **known)))


@pytest.mark.parametrize(
    ("weights", "revision", "base", "licence"),
    [
        ("packaged", None, "sentence-transformers/all-MiniLM-L6-v2", "apache-2.0"),
        ("packaged:all-mpnet-base-v2", None, "sentence-transformers/all-mpnet-base-v2", "apache-2.0"),
        ("google-bert/bert-base-uncased", COMMIT, "google-bert/bert-base-uncased", "unknown"),
        ("random:bert", None, None, "unknown"),
    ],
)
def test_a_hub_reads_licence_and_base_model_off_a_card(weights, revision, base, licence, tmp_path):
    origin = Encoder.of(Backbone(weights=weights, revision=revision, exits=[2, 4]))
    card = told(tmp_path, origin=origin)
    assert (card.data.license, card.data.base_model) == (licence, base)
    assert card.data.get("base_model_relation") == (base and "finetune")
    assert card.data.library_name == "adaptive-inference"
    assert ("was not looked up" in card.text) == (licence == "unknown")
    assert ("under Apache-2.0. What the training rows allow" in card.text) == (licence != "unknown")
    assert (f"(commit {COMMIT})" in card.text) == (revision is not None)


@pytest.mark.parametrize(
    ("metric", "name"), [("accuracy", "accuracy"), ("f1", "f1"), ("matthews", "matthews_correlation")]
)
def test_a_hub_reads_the_evaluation_splits_figures_at_the_default_point_off_a_card(metric, name, tmp_path):
    card = told(tmp_path, metric, dataset=Dataset.of(MNLI))
    assert card.data.model_name == "movies"
    assert card.data.datasets == ["nyu-mll/glue"]
    assert [(item.metric_type, item.metric_value) for item in card.data.eval_results] == [
        (name, 0.8765), ("layers_speedup", 1.7512), ("flops_speedup", 1.6),
    ]  # fmt: skip
    for item in card.data.eval_results:
        where = (item.dataset_type, item.dataset_config, item.dataset_revision, item.dataset_split)
        assert where == ("nyu-mll/glue", "mnli", COMMIT, "evaluation")
        assert (item.task_type, item.dataset_name) == ("text-classification", "movies")


def test_figures_on_rows_of_unknown_origin_are_told_under_the_tasks_name(tmp_path):
    figure = told(tmp_path).data.eval_results[0]
    assert (figure.dataset_name, figure.dataset_type) == ("movies", "unknown")


def test_a_card_without_measured_figures_claims_none_to_a_hub(tmp_path):
    data = ModelCard(card(calibrated(build([2, 4])), tmp_path)).data
    assert (data.eval_results, data.model_name) == (None, None)


def test_a_card_says_how_to_install_the_library_alone(tmp_path):
    assert "```sh\npip install '.[torch]'\n```" in told(tmp_path).text


# ---- export ----------------------------------------------------------------------------------------------------------


def run_folder(folder, point=POINT):
    calibrated(build([2, 4]), point).save_pretrained(folder / "train" / "model")
    (folder / "calibration").mkdir()
    (folder / "train" / "model" / "calibration.json").rename(folder / "calibration" / "calibration.json")
    row = PointRow(method="sweet", point=point, metric="accuracy", attainable=True, added_parameters=0)
    row = row.model_copy(update={"quality": 0.8765, "layers_speedup": 3.5, "flops_speedup": 3.25})
    given = {"params": {}, "inputs": {}, "code": "", "rows": [row]}
    cell = Cell("movies", "tiny", 0, "sweet")
    EvaluationRecord(stage="evaluate_batch1", cell=cell, **given).save(folder / "evaluation")
    return folder


def test_an_export_tells_what_the_evaluation_measured_and_copies_the_rest_byte_for_byte(tmp_path):
    run, out = run_folder(tmp_path / "run"), tmp_path / "out"
    export(run, out)
    assert (
        "| `margin` | `max_loss_1` | 0.375 | 0.8125 | 1.5 | 0.8765 | 3.5 | 3.25 |"
        in (out / "README.md").read_text()
    )
    for file in (run / "train" / "model").iterdir():
        assert (out / file.name).read_bytes() == file.read_bytes()
    assert open_model(out).calibration == open_model(run).calibration
    export(out, tmp_path / "again")  # an exported folder can be exported, without what the record knew
    assert "0.8765" not in (tmp_path / "again" / "README.md").read_text()


def training_record(folder, **backbones):
    given = {
        "inputs": {},
        "code": "",
        "params": {f"backbones.{name}": body for name, body in backbones.items()},
    }
    TrainingRecord(stage="train_sweet", cell=Cell("movies", "tiny", 0, "sweet"), **given).save(
        folder / "train"
    )


def test_an_export_names_the_encoder_that_was_trained(tmp_path):
    run = run_folder(tmp_path / "run")
    training_record(run, tiny={"weights": "packaged", "exits": [2, 4], "read": "mean"})
    export(run, tmp_path / "out")
    data = ModelCard((tmp_path / "out/README.md").read_text()).data
    assert data.base_model == "sentence-transformers/all-MiniLM-L6-v2"


def test_an_export_refuses_a_training_that_does_not_name_its_encoder(tmp_path):
    run = run_folder(tmp_path / "run")
    training_record(run)
    with pytest.raises(
        UserError, match=r"train/metrics\.json does not name one encoder; train the model again"
    ):
        export(run, tmp_path / "out")


def test_an_export_reads_the_version_of_records_that_is_written():
    assert RECORD_VERSION == VERSION


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda run: write_json(run / "evaluation/metrics.json", {"details": {}}),
            r"metrics\.json is a record of version 1, this code reads 2; evaluate the model again",
        ),
        (
            lambda run: write_json(run / "evaluation/metrics.json", {"version": VERSION + 1, "rows": []}),
            "a record of version 3, this code reads 2",
        ),
        (
            lambda run: write_json(run / "evaluation/metrics.json", {"version": VERSION}),
            r"no record of an evaluation \('rows'\); evaluate the model again",
        ),
        (lambda run: (run / "calibration/calibration.json").unlink(), "calibrate the model first"),
        (lambda run: (run / "train/model/model.safetensors").unlink(), "holds no weights"),
        (lambda run: (run / "train/model/schema.json").unlink(), r"schema\.json is missing"),
    ],
)
def test_nothing_is_exported_of_a_run_that_lacks_something(damage, message, tmp_path):
    run = run_folder(tmp_path / "run")
    damage(run)
    with pytest.raises(UserError, match=message):
        export(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()
