"""A regression task from the CSV to the table: what is different where the answer is a score and no class."""

from __future__ import annotations

import csv
import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_choices import Chosen, write_choice
from synthetic_records import full_quality, invented_params, write_run

import calibrate_thresholds
import collect_answers
import evaluate_batch1
import evaluate_recommended
import finetune_backbone
import prepare_data
import recommend as recommend_stage
import train_multi_model
import train_sweet
from adaptive_inference.calibration.calibrator import Calibrator
from adaptive_inference.calibration.curves import sweep
from adaptive_inference.calibration.fit import fit_calibrator
from adaptive_inference.cost.yardstick import Yardstick
from adaptive_inference.data.splits import make_splits
from adaptive_inference.engine import Engine
from adaptive_inference.errors import UserError
from adaptive_inference.evaluation.points import check_agreement
from adaptive_inference.evaluation.statistics import bootstrap
from adaptive_inference.exit_rules import load_rule
from adaptive_inference.exits import load_model
from adaptive_inference.exits.outputs import ExitOutputs, collect_outputs
from adaptive_inference.files import write_json
from adaptive_inference.serving.card import CardData, metric_name, render
from adaptive_inference.serving.predictor import load_predictor
from adaptive_inference.settings.inputs import REGRESSION_METRICS, Task
from adaptive_inference.tasks.encode import collate, encode
from adaptive_inference.tasks.quality import predict, quality
from adaptive_inference.tasks.schema import Schema, load_schema, load_split
from adaptive_pipeline.grid import Cell
from adaptive_pipeline.params import parse_params
from adaptive_pipeline.reporting.choice import recommend
from adaptive_pipeline.reporting.frame import collect
from adaptive_pipeline.reporting.report import make_report
from adaptive_pipeline.reporting.statistics.comparisons import compare
from adaptive_pipeline.reporting.tables.latex import main_latex
from adaptive_pipeline.reporting.tables.main import main_markdown
from adaptive_pipeline.runs.records import Record
from adaptive_pipeline.stage import Stage

WORDS = ("the", "a", "film", "plot", "scene", "with", "and")


def write_csv(folder: Path, rows: int = 90) -> None:
    """Two texts and how many of the words of the first are "good", from 0 to 5."""
    draw = random.Random(0)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "scores.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["first", "second", "score"])
        for number in range(rows):
            count = draw.randrange(6)
            words = ["good"] * count + draw.choices(WORDS, k=3)
            draw.shuffle(words)
            writer.writerow([" ".join(words), f"film {number}", count + draw.choice((0.0, 0.25, 0.5))])


def params_of(**changes):
    body = {
        "tasks": {
            "similar": {
                "source": "local",
                "train": "scores.csv",
                "text": ["first", "second"],
                "label": "score",
                "kind": "regression",
                "metric": "pearson_spearman",
                "max_length": 24,
            }
        },
        "backbones": {"tiny": {"weights": "random:bert", "exits": [1, 2], "read": "mean"}},
        "seeds": [0],
        "training": {"epochs": 1, "batch_size": 16, "learning_rate": 1e-3},
        "trained_by": {"train_sweet": ["sweet"], "train_leebert": [], "train_multi_model": ["multi_model"]},
        "methods": {
            "full": {"train": {}, "rules": ["fixed"]},
            "sweet": {"train": {"gradient": "blockwise"}, "rules": ["fixed"]},
            "multi_model": {"train": {}, "rules": ["fixed"]},
        },
        "goal": {"max_loss": 5.0, "min_speedup": [1.5]},
        "evaluation": {"timed_seeds": [0], "timed_examples": 3, "repeats": 1, "warmup": 1, "bootstrap": 20},
        "runtime": {"device": "cpu"},
    }
    return parse_params(body | changes)


# ---- all stages, once --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """Runs of every stage's function on a CSV, and the results made of them."""
    root, params = tmp_path_factory.mktemp("regression"), params_of()
    write_csv(root / "data")
    home = root / "runs/similar/tiny/seed0"

    def stage(module, out: Path, method: str = "", **inputs: Path) -> None:
        out.mkdir(parents=True)
        scratch = root / "scratch" / out.relative_to(root)
        cell = Cell("similar", "tiny", 0, method)
        files = {"candidates": home / f"candidates/{method}.safetensors"}
        done = Stage(module.__name__, cell, params, inputs, out, scratch, {}, module.__file__, files=files)
        scratch.mkdir(parents=True)
        module.main(done)
        done.record.save(out)
        if module in (evaluate_batch1, evaluate_recommended):
            write_json(out.parent / "timings.json", done.timings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADAPTIVE_INFERENCE_TRACKING", "off")
        torch.set_num_threads(1)
        stage(prepare_data, home / "data", data_folder=root / "data")
        rows = {"data": home / "data/splits"}
        full = {"full": home / "full/train/model"}
        stage(finetune_backbone, home / "full/train", **rows)
        stage(train_sweet, home / "sweet/train", "sweet", **rows)
        stage(train_multi_model, home / "multi_model/train", "multi_model", **rows, **full)
        for method in params.methods:
            given_ = rows | full | {"model": home / method / "train/model"}
            given_["answers"] = home / method / "answers"
            stage(collect_answers, given_["answers"], method, **rows, **full, model=given_["model"])
            answers = {"answers": given_["answers"], "full_answers": home / "full/answers"}
            stage(calibrate_thresholds, home / method / "calibration", method, **answers)
            given_["calibration"] = home / method / "calibration/calibration.json"
            stage(evaluate_batch1, home / method / "evaluation", method, **given_)
        recommended = root / "runs/similar/tiny/recommended/seed0"
        stage(recommend_stage, recommended / "choice", candidates=home / "candidates")
        stage(evaluate_recommended, recommended / "evaluation", methods=home, choice=recommended / "choice")
    make_report(root / "runs", params, root / "results")
    return root


def test_every_stage_takes_scores(run):
    home = run / "runs/similar/tiny/seed0"
    labels = Record.load(home / "data").splits["train"]["labels"]
    assert set(labels) == {"mean", "deviation", "min", "max"}
    calibration = Record.load(home / "sweet/calibration")
    assert not [name for name in calibration.metrics if "temperature" in name or "ece" in name]
    assert calibration.reliability == {"before": [], "after": []}
    evaluation = Record.load(home / "multi_model/evaluation")
    assert [row.method for row in evaluation.rows] == ["multi_model", "multi_model", "static_1", "static_2"]
    for row in evaluation.rows:
        assert row.metric == "pearson_spearman"
        assert row.tiers is None
        assert -1.0 <= row.quality_low <= row.quality <= row.quality_high <= 1.0
    assert all(item.differing == 0 for item in evaluation.agreement)
    development = Record.load(home / "sweet/train").metrics
    assert {"development1_quality", "development2_quality"} <= set(development)


def test_reports_name_the_metric_and_show_no_classes(run):
    results = run / "results"
    main = (results / "tables/main.md").read_text()
    assert "## similar, tiny (Pearson-Spearman mean)" in main
    assert "a correlation lies between −1 and 1" in main  # noqa: RUF001
    assert "Metrics of several kinds" not in main
    assert "similar, tiny (Pearson-Spearman mean)" in (results / "tables/main.tex").read_text()
    assert len((results / "tables/calibration.csv").read_text().splitlines()) == 1
    assert len((results / "tables/tiers.csv").read_text().splitlines()) == 1
    figures = {file.stem for file in (results / "figures").glob("*.png")}
    assert {"similar-tiny-overview", "similar-tiny-exits", "similar-tiny-exit_quality"} <= figures
    assert not [name for name in figures if "reliability" in name]
    assert "Pearson-Spearman mean" in (results / "recommendation.md").read_text()


def test_the_handed_out_model_answers_scores_and_its_card_says_so(run):
    folder = run / "results/model"
    card = (folder / "README.md").read_text()
    assert "answers a score (a number, not clipped to any range); scored by Pearson-Spearman mean" in card
    assert "probabilities" not in card
    predictor = load_predictor(folder)
    model = predictor.model
    answer = predictor.predict([("good good film", "film 1"), ("a plot", "film 2")])
    assert answer.probabilities is None
    features = encode(
        load_split(run / "runs/similar/tiny/seed0/data/splits", "evaluation"), model.tokenizer, 24
    )
    logits = collect_outputs(model, features, 8).logits
    decision = Engine(model, "fixed").run(collate(features[:1], 0))
    assert float(decision.logits[0, 0]) == pytest.approx(logits[0, -1, 0], abs=1e-5)


def test_the_first_layers_alone_differ_from_the_full_model(run):
    """The members of the cascade are other models: were scores read as classes, all would answer alike."""
    home = run / "runs/similar/tiny/seed0"
    model, schema = load_model(home / "multi_model/train/model"), load_schema(home / "data/splits")
    features = encode(load_split(home / "data/splits", "evaluation"), model.tokenizer, schema.max_length)
    scores = predict(collect_outputs(model, features, 8).logits, schema.kind)
    assert scores.shape == (len(features), 2)
    assert (scores[:, 0] != scores[:, 1]).all()


# ---- engine and sweep --------------------------------------------------------------------------------------------------


def score_outputs(rows: int = 6, scale: float = 1.0) -> ExitOutputs:
    logits = np.random.default_rng(1).normal(size=(rows, 3, 1)) * scale
    ids = np.arange(100, 100 + rows)
    return ExitOutputs(logits, None, np.zeros(rows), (1, 2, 4), (1, 2, 4), ids, np.full(rows, 5))


@pytest.mark.parametrize("scale", [0.1, 1.0, 50.0])
def test_a_score_that_is_not_that_of_its_exit_is_a_defect(scale):
    outputs, rule, exits = score_outputs(scale=scale), load_rule("fixed"), np.ones(6, int)
    answers = outputs.logits[:, 1, 0].copy()
    tolerance = 1e-5 * max(1.0, np.abs(outputs.logits[:, 1]).max())
    found = check_agreement(rule, 1.0, outputs, exits, answers + 0.9 * tolerance)
    assert found == {"rows": 6, "near_threshold": 0, "differing": 0}
    for wrong in (answers[3] + 1.1 * tolerance, outputs.logits[3, 2, 0], float("nan")):
        changed = answers.copy()
        changed[3] = wrong
        with pytest.raises(RuntimeError, match=r"\[103\]"):
            check_agreement(rule, 1.0, outputs, exits, changed)
    with pytest.raises(RuntimeError, match=r"\[100, 101"):  # the arg max of one score is always 0
        check_agreement(rule, 1.0, outputs, exits, np.zeros(6))


def test_a_row_near_the_threshold_may_leave_elsewhere_but_must_answer_with_that_exits_score(monkeypatch):
    outputs, rule = score_outputs(), load_rule("fixed")
    monkeypatch.setattr(type(rule), "near_threshold", lambda self, logits, *rest: np.arange(len(logits)) == 2)
    exits = np.array([1, 1, 0, 1, 1, 1])
    answers = outputs.logits[np.arange(6), exits, 0]
    assert check_agreement(rule, 1.0, outputs, exits, answers)["differing"] == 1
    answers[2] = outputs.logits[2, 1, 0]
    with pytest.raises(RuntimeError, match=r"\[102\]"):
        check_agreement(rule, 1.0, outputs, exits, answers)


# ---- quality -----------------------------------------------------------------------------------------------------------


def test_the_mean_of_both_correlations_by_hand():
    # Spearman of the ranks 1 2 3 4 and 1 2 4 3: 1 - 6 * 2 / (4 * 15). Pearson of -3 -2 -1 6 and -1.5 -0.5 1.5 0.5:
    # 4.5 + 1 - 1.5 + 3 = 7 over the root of 50 * 5.
    predictions, labels = np.array([1.0, 2.0, 3.0, 10.0]), np.array([1.0, 2.0, 4.0, 3.0])
    pearson = 7.0 / np.sqrt(50.0 * 5.0)
    assert quality("pearson", predictions, labels) == pytest.approx(pearson)
    assert quality("spearman", predictions, labels) == pytest.approx(0.8)
    assert quality("pearson_spearman", predictions, labels) == pytest.approx((pearson + 0.8) / 2)
    assert quality("pearson_spearman", -predictions, labels) == pytest.approx(-(pearson + 0.8) / 2)


@pytest.mark.parametrize("metric", REGRESSION_METRICS)
@given(
    value=st.floats(-1e3, 1e3, width=32),
    rows=st.integers(2, 40),
    dtype=st.sampled_from([np.float32, np.float64]),
)
@settings(deadline=None)  # the first rank correlation loads SciPy
def test_constant_scores_count_as_zero_whatever_rounding_does_to_their_mean(metric, value, rows, dtype):
    constant = np.full(rows, value, dtype) / dtype(3)
    assert quality(metric, constant, np.arange(rows) / 3) == 0.0
    assert quality(metric, np.arange(rows) / 3, constant) == 0.0
    assert quality(metric, constant, constant) == 0.0


@pytest.mark.parametrize("metric", REGRESSION_METRICS)
def test_the_interval_is_finite_where_a_resample_is_constant(metric):
    predictions, labels = np.array([0.1, 0.1, 0.7]), np.array([0.3, 0.2, 0.9])

    def score(rows: np.ndarray) -> np.ndarray:
        return quality(metric, predictions[rows], labels[rows])

    with np.errstate(all="raise"):
        low, high = bootstrap(score, 3, 400, 0)
    draws = np.random.default_rng(0).integers(0, 3, (100, 3))
    constant = np.ptp(predictions[draws], axis=1) == 0
    assert constant.any()
    assert (score(draws)[constant] == 0.0).all()
    assert low == 0.0  # nearly a third of the resamples have no correlation
    assert 0.9 < high <= 1.0 + 1e-12


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_scores_that_are_not_finite_are_refused_and_not_counted_as_zero(bad):
    with pytest.raises(UserError, match=r"not finite.*learning_rate"):
        quality("pearson", np.array([0.1, bad, 0.3]), np.array([1.0, 2.0, 3.0]))


# ---- data --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["development", "calibration"])
def test_a_split_of_equal_scores_is_refused_because_every_exit_would_do(tmp_path, split):
    task = Task(source="local", train="rows.jsonl", kind="regression", metric="pearson")
    rows = [{"text": f"text {n}", "label": n / 10} for n in range(60)]

    def write() -> None:
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    write()
    _, splits = make_splits("mine", task, tmp_path, 0)
    for example in splits[split]:
        rows[example.id]["label"] = 2.5
    write()
    with pytest.raises(UserError, match=f"the {split} split holds one score only"):
        make_splits("mine", task, tmp_path, 0)


# ---- reports -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Invented records of one classification and one regression task."""
    params = invented_params()
    first = next(iter(params.tasks.values())).model_dump(mode="json")
    scores = {"source": "local", "train": "s.csv", "kind": "regression", "metric": "spearman"}
    params = invented_params(tasks={"classes": first, "scores": scores})

    def edit(cell, rows, timings):
        for row in rows:
            if cell.task == "scores":
                row |= {"metric": "spearman", "quality": row["quality"] - 1.2}

    root = tmp_path_factory.mktemp("mixed")
    write_run(root, params, edit=edit)
    for seed in params.seeds:
        cell = Cell("scores", "minilm", seed)
        write_choice(root, params, cell, Chosen(metric="spearman"), full_quality(seed) - 1.2)
    return collect(root, params)


def test_a_run_of_both_kinds_never_mixes_their_qualities(mixed):
    for task, metric in (("classes", "accuracy"), ("scores", "spearman")):
        own = mixed.main[mixed.main.task == task]
        assert set(own.metric) == {metric}
        assert ((own.quality_mean < 0) == (task == "scores")).all()
        assert {cell.task for row in own.itertuples() for cell in mixed.of_row(row).cell} == {task}
    choices = recommend(mixed)
    assert [(choice.task, choice.measured.metric) for choice in choices] == [
        ("classes", "accuracy"),
        ("scores", "spearman"),
    ]
    markdown, tex = main_markdown(mixed, choices, compare(mixed)), main_latex(mixed, choices)
    assert "(accuracy)" in markdown
    assert "(Spearman correlation)" in markdown
    assert "compare within a table only" in markdown
    assert "(accuracy)" in tex
    assert "(Spearman correlation)" in tex


def test_classes_alone_are_reported_as_before(mixed):
    alone = replace(
        mixed,
        points=mixed.points[mixed.points.task == "classes"],
        cells=[cell for cell in mixed.cells if cell.task == "classes"],
    )
    assert "Quality is a fraction of the evaluation split." in main_markdown(
        alone, recommend(alone), compare(alone)
    )
    assert "(accuracy)" not in main_latex(alone, [])


def test_names_of_metrics_and_answers():
    assert [metric_name(name) for name in ("accuracy", "f1")] == ["accuracy", "F1"]
    for labels, told in ((("no", "yes"), "answers one of `no`, `yes`"), (None, "answers a score")):
        schema = Schema("mine", "classification" if labels else "regression", labels, "f1", 48)
        text = render(CardData(schema, "bert", (4,), False, False, None, ()))
        assert told in text
        assert "scored by F1." in text
        assert ("answer.probabilities" in text) == bool(labels)


def test_regression_is_scored_at_fixed_exits():
    generator = np.random.default_rng(0)
    labels = generator.normal(size=50)
    logits = (labels[:, None, None] + generator.normal(0, [1.0, 0.1], (50, 2))[..., None]).astype(np.float32)
    outputs = ExitOutputs(logits, None, labels, (2, 4), (2, 4), np.arange(50), np.arange(50))
    yardstick = Yardstick("pearson", "regression", 1, 4)
    curve = sweep(load_rule("fixed"), outputs, yardstick, np.array([0.0, 1.0]))
    assert curve.quality[0] < curve.quality[1]
    assert curve.quality[1] == pytest.approx(np.corrcoef(logits[:, 1, 0], labels)[0, 1], abs=1e-6)
    assert fit_calibrator(outputs, "regression", temperature=True) == Calibrator((1.0, 1.0))
