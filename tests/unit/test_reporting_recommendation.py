"""The recommendation and the model that is handed out, from synthetic records."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from synthetic_records import change_record, invented_params, save_model, write_run

from adaptive_inference.calibration.operating_point import Goal, OperatingPoint, Setting
from adaptive_inference.errors import UserError
from adaptive_inference.files import read_json
from adaptive_pipeline.reporting.choice import recommend
from adaptive_pipeline.reporting.figures.shown import shown_rule, typical_points
from adaptive_pipeline.reporting.figures.speed import SpeedPlot, quality_at
from adaptive_pipeline.reporting.frame import collect
from adaptive_pipeline.reporting.handout import hand_out
from adaptive_pipeline.reporting.measures import SPEEDS
from adaptive_pipeline.reporting.report import draw_figures
from adaptive_pipeline.reporting.statistics.comparisons import compare
from adaptive_pipeline.reporting.tables.main import main_markdown
from adaptive_pipeline.reporting.text.recommendation import as_json, as_markdown
from adaptive_pipeline.runs.checksums import write_checksums

LAYERS, _, WALLCLOCK = SPEEDS


@pytest.fixture(scope="module")
def params():
    return invented_params()


@pytest.fixture(scope="module")
def runs(tmp_path_factory, params) -> Path:
    root = tmp_path_factory.mktemp("synthetic") / "runs"
    write_run(root, params)
    return root


@pytest.fixture(scope="module")
def results(runs, params):
    return collect(runs, params)


# ---- the recommendation ----------------------------------------------------------------------------------------------


def only(method: str, point: str, **changes):
    """Make an edit that leaves one operating point within the goal, on the calibration split."""

    def edit(cell, rows, timings):
        for row in rows:
            if row["method"] == "full":
                continue
            chosen = (row["method"], row["operating_point"]) == (method, point) and row[
                "rule"
            ] == "confidence"
            row["calibration_quality"] = 0.9 if chosen else 0.5
            if chosen:
                row.update(changes)

    return edit


def test_the_choice_is_made_on_calibration_and_not_on_evaluation(tmp_path, params):
    # on the evaluation split this point is by far the worst, all others are perfect
    def edit(cell, rows, timings):
        for row in rows:
            row["quality"] = row["quality"] if row["method"] == "full" else 1.0
        only("early_exit", "min_speedup_2", quality=0.3)(cell, rows, timings)

    write_run(tmp_path, params, edit=edit)
    results = collect(tmp_path, params)
    (choice,) = recommend(results)
    assert choice.faster
    assert (choice.row.method, choice.row.operating_point) == ("early_exit", "min_speedup_2")
    text = as_markdown([choice], results, "results", {"model"})
    assert "accuracy 0.3000" in text
    assert "On the evaluation split the loss is larger than the goal" in text
    assert "adaptive-inference predict results/model" in text


def test_none_qualifies_is_an_answer_and_names_the_full_model(tmp_path, params):
    write_run(tmp_path, params, edit=only("nobody", ""))
    results = collect(tmp_path, params)
    (choice,) = recommend(results)
    assert not choice.faster
    assert choice.row.method == "full"
    assert choice.qualifying == 0
    assert "**None qualifies**" in as_markdown([choice], results, "results", set())
    body = as_json([choice], results, "results", {"model"})["choices"][0]
    assert body["qualifies"] is False
    assert body["method"] == "full"
    assert body["command"] == "adaptive-inference predict results/model"


def test_a_static_model_can_win_and_an_oracle_cannot(tmp_path):
    body = invented_params().model_dump(mode="json")
    body["methods"]["sweet"]["rules"].append("oracle")
    params = invented_params(methods=body["methods"])

    def edit(cell, rows, timings):
        for row in rows:
            row["calibration_quality"] = (
                0.9 if row["rule"] == "oracle" or row["method"] in ("static_2", "full") else 0.5
            )

    write_run(tmp_path, params, edit=edit)
    results = collect(tmp_path, params)
    (choice,) = recommend(results)
    assert choice.row.method == "static_2"
    assert any(row.rule == "oracle" and not row.attainable for row in results.main.itertuples())


def test_the_fastest_by_wallclock_wins_and_layers_decide_where_it_was_not_measured(tmp_path):
    def edit(cell, rows, timings):
        for row in rows:
            row["calibration_quality"] = 0.9
        for row in timings:  # the multi-model runs most layers, and is timed fastest
            row["wallclock_speedup"] = 9.0 if row["method"] == "multi_model" else row["wallclock_speedup"]

    params = invented_params()
    write_run(tmp_path / "timed", params, edit=edit)
    (choice,) = recommend(collect(tmp_path / "timed", params))
    assert (choice.row.method, choice.measure) == ("multi_model", "wallclock_speedup")
    params = invented_params(evaluation={"timed_seeds": []})
    write_run(tmp_path / "untimed", params, edit=edit)
    (choice,) = recommend(collect(tmp_path / "untimed", params))
    assert (choice.row.method, choice.measure) == ("static_2", "calibration_layers_speedup")


def test_wallclock_comes_from_timed_seeds_only_and_names_the_machine(results):
    row = next(row for row in results.main.itertuples() if row.method == "static_2")
    assert row.timed_seeds == 1
    assert row.wallclock_speedup == pytest.approx(2.79)
    (timed,) = [point for point in results.of_row(row).itertuples() if point.timed]
    assert (row.timed_quality, row.timed_layers_speedup) == (timed.quality, timed.layers_speedup)
    assert row.timed_quality != row.quality_mean  # what is drawn against wall-clock is the timed seed's own
    assert quality_at(row, WALLCLOCK) == timed.quality
    assert quality_at(row, LAYERS) == row.quality_mean
    assert row.machine == "Test CPU, 2 cores, 1 thread, torch 2.13.0"


def test_figures_are_drawn_where_the_full_model_lacks_the_timed_seed(tmp_path, params):
    """In a slice of a long run the others may be timed before it is."""
    write_run(tmp_path / "runs", params)
    shutil.rmtree(tmp_path / "runs/tiers/minilm/seed0/full/evaluation")
    results = collect(tmp_path / "runs", params)
    rows = results.main
    full = rows[rows.method == "full"]
    assert full.quality_mean.notna().all()
    assert full.timed_quality.isna().all()
    assert rows.timed_quality.notna().any()
    assert draw_figures(results, recommend(results), compare(results), tmp_path / "figures")


def test_figures_show_the_rule_that_reached_the_most_speedups_and_of_equals_the_first_named(tmp_path, params):
    fast, slow = Goal("min_speedup", 2.0), Goal("max_loss", 1.0)
    assert shown_rule("abc", {("a", fast): 0, ("b", fast): 2, ("c", fast): 2, ("d", fast): 9}) == "b"
    assert (
        shown_rule("ab", {("a", fast): 2, ("b", fast): 2, ("b", slow): 2}) == "a"
    )  # a loss may be met slowly
    assert shown_rule("ab", {("a", slow): 1, ("b", fast): 0, ("b", slow): 2}) == "b"
    assert shown_rule("a", {("d", fast): 9}) is None
    first, second = params.method("sweet").rules[:2]

    def miss(cell, rows, timings):
        gone = {"sweet": "min_speedup_2", "early_exit": "max_loss_1"}.get(cell.method)
        if gone and cell.seed == 0:
            rows.remove(next(row for row in rows if (row["rule"], row["operating_point"]) == (first, gone)))
            timings.clear()

    write_run(tmp_path, params, edit=miss)
    results = collect(tmp_path, params)
    plot = SpeedPlot(results.each[0], recommend(results)[0])
    shown = typical_points(results.each[0])
    for method, rule in (("sweet", second), ("early_exit", first)):
        assert plot.rule(method) == rule
        points = {(point.rule, point.operating_point) for point in shown[method].itertuples()}
        assert points == {(rule, "min_speedup_1.5")}


def test_a_method_that_lacks_a_seed_is_no_candidate(tmp_path, params):
    write_run(tmp_path, params, edit=only("early_exit", "min_speedup_2"))
    shutil.rmtree(tmp_path / "tiers/minilm/seed1/early_exit/evaluation")
    (choice,) = recommend(collect(tmp_path, params))
    assert not choice.faster


def test_the_seeds_of_a_candidate_are_those_of_the_full_model_and_not_as_many(tmp_path, params):
    """A seed that only the candidate has is no harm; one that only the full model has is."""
    write_run(tmp_path, params, edit=only("early_exit", "min_speedup_2"))
    shutil.rmtree(tmp_path / "tiers/minilm/seed1/full/evaluation")
    (choice,) = recommend(collect(tmp_path, params))
    assert choice.row.method == "early_exit"
    shutil.rmtree(tmp_path / "tiers/minilm/seed0/early_exit/evaluation")  # one seed each, and not the same
    (choice,) = recommend(collect(tmp_path, params))
    assert not choice.faster
    assert as_json([choice], collect(tmp_path, params), "results", ())["choices"][0]["ranked_by"] is None


def test_without_the_full_model_nothing_is_recommended(tmp_path, runs, params):
    root = tmp_path / "runs"
    shutil.copytree(runs, root)
    for seed in params.seeds:
        shutil.rmtree(root / f"tiers/minilm/seed{seed}/full/evaluation")
    results = collect(root, params)
    (choice,) = recommend(results)
    assert choice.row is None
    assert "No answer yet" in as_markdown([choice], results, "results", set())
    assert "method" not in as_json([choice], results, "results", set())["choices"][0]


def test_each_task_gets_its_own_answer(tmp_path):
    body = invented_params().model_dump(mode="json")
    tasks = {"tiers": body["tasks"]["tiers"], "other": body["tasks"]["tiers"]}
    params = invented_params(tasks=tasks)
    write_run(tmp_path, params)
    choices = recommend(collect(tmp_path, params))
    assert [choice.model for choice in choices] == ["model/tiers", "model/other"]


# ---- the model that is handed out ------------------------------------------------------------------------------------


def hand_out_with_weights(root: Path, params, out: Path) -> Path | None:
    for seed in params.seeds:
        run = root / f"tiers/minilm/seed{seed}"
        save_model(run / "full/train/model", [6], f"full{seed}".encode())
        save_model(run / "sweet/train/model", [2, 4, 6], f"sweet{seed}".encode())
        save_model(run / "multi_model/train/model", [2, 4, 6])
        for layer in (2, 4, 6):
            save_model(run / f"multi_model/train/model/{layer}", [layer], f"member{layer}".encode())
    results = collect(root, params)
    (choice,) = recommend(results)
    done = hand_out(results, choice, root, out)
    return out / "model" if done else None


def test_the_recommended_model_is_handed_out_with_its_threshold_and_card(tmp_path, params):
    write_run(tmp_path / "runs", params)
    model = hand_out_with_weights(tmp_path / "runs", params, tmp_path / "out")
    assert (model / "model.safetensors").read_bytes() == b"sweet1"  # best on the calibration split
    recommended = OperatingPoint.from_json(read_json(model / "calibration.json")["recommended"])
    assert (recommended.setting.rule, recommended.goal) == ("confidence", Goal("min_speedup", 1.5))
    card = (model / "README.md").read_text()
    for text in (
        "tiers",
        "`negative`, `positive`",
        "after layers 2, 4, 6",
        f"{recommended.setting.threshold:.6g}",
        "accuracy 0.90",
        "SWEET",
        "`max_loss_1`",
    ):
        assert text in card
    data = ModelCard(card).data  # what a hub reads of it
    assert (data.license, data.base_model) == ("apache-2.0", "sentence-transformers/all-MiniLM-L6-v2")
    point = recommend(collect(tmp_path / "runs", params))[0].point
    assert data.eval_results[0].metric_value == round(point.quality, 4)
    assert data.eval_results[0].dataset_type == "generated"


def test_code_of_ones_own_that_the_recommended_model_needs_is_named_in_command_and_card(tmp_path):
    body = invented_params().model_dump(mode="json")
    body["methods"]["sweet"]["rules"] = ["margin", "own_code/renyi.py(order=3.0)"]
    body["backbones"]["minilm"]["adapter"] = "own_code/camembert.py"
    params = invented_params(methods=body["methods"], backbones=body["backbones"])

    def edit(cell, rows, timings):
        for row in rows:
            own = row["rule"] == "renyi(order=3.0)"
            row["calibration_quality"] = 0.9 if own or row["method"] == "full" else 0.5

    write_run(tmp_path / "runs", params, edit=edit)
    model = hand_out_with_weights(tmp_path / "runs", params, tmp_path / "out")
    (choice,) = recommend(collect(tmp_path / "runs", params))
    assert choice.row.rule == "renyi(order=3.0)"
    command = choice.command("results")
    assert command.endswith("model --own-code own_code/renyi.py --own-code own_code/camembert.py")
    assert "nor of this folder: exit rule `renyi`" in (model / "README.md").read_text()


@pytest.mark.parametrize("damaged", ["train/model/model.safetensors", "calibration/calibration.json"])
def test_a_model_that_was_damaged_is_not_handed_out(tmp_path, params, damaged):
    write_run(tmp_path / "runs", params)
    hand_out_with_weights(tmp_path / "runs", params, tmp_path / "out")
    sweet = tmp_path / "runs/tiers/minilm/seed1/sweet"
    for folder in (sweet / "train", sweet / "calibration"):
        write_checksums(folder)
    (sweet / damaged).write_bytes((sweet / damaged).read_bytes() + b" ")
    results = collect(tmp_path / "runs", params)
    with pytest.raises(UserError, match=f"{damaged} is damaged"):
        hand_out(results, recommend(results)[0], tmp_path / "runs", tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_a_static_model_is_handed_out_alone_with_its_own_temperature(tmp_path, params):
    def edit(cell, rows, timings):
        for row in rows:
            row["calibration_quality"] = 0.95 if row["method"] in ("static_4", "full") else 0.5

    write_run(tmp_path / "runs", params, edit=edit)
    model = hand_out_with_weights(tmp_path / "runs", params, tmp_path / "out")
    assert (model / "model.safetensors").read_bytes() == b"member4"
    assert (model / "schema.json").is_file()
    body = read_json(model / "calibration.json")
    assert body["temperatures"] == [2.5]
    assert body["exits"] == [4]
    recommended = OperatingPoint.from_json(body["recommended"])
    assert (recommended.setting, recommended.goal) == (Setting("fixed", 0.0), Goal("member", 4.0))
    assert body["operating_points"] == [body["recommended"]]
    assert "First 4 layers" in (model / "README.md").read_text()


def test_kept_records_have_no_model_to_hand_out(tmp_path, runs, results):
    (choice,) = recommend(results)
    assert not hand_out(results, choice, runs, tmp_path)
    assert "Only records were kept" in as_markdown([choice], results, "results", set())


def test_a_copy_of_the_full_model_is_no_recommendation_however_it_was_timed(tmp_path, params):
    """Both are the same weights: a ratio above 1 is noise."""

    def edit(cell, rows, timings):
        for row in rows:
            row["calibration_quality"] = 0.9 if row["method"] in ("full", "static_6") else 0.5
        for row in timings:
            if row["method"] == "static_6":
                row |= {"wallclock_speedup": 1.2, "wallclock_low": 1.1, "wallclock_high": 1.3}

    write_run(tmp_path, params, edit=edit)
    (choice,) = recommend(collect(tmp_path, params))
    assert not choice.faster
    assert choice.qualifying == 1


def test_a_point_that_may_be_slower_on_the_clock_is_no_recommendation(tmp_path, params):
    def edit(cell, rows, timings):
        only("early_exit", "min_speedup_2")(cell, rows, timings)
        for row in timings:
            row |= {"wallclock_speedup": 1.01, "wallclock_low": 0.98, "wallclock_high": 1.04}

    write_run(tmp_path, params, edit=edit)
    (choice,) = recommend(collect(tmp_path, params))
    assert not choice.faster


def test_thresholds_that_saw_the_reported_rows_are_told(tmp_path):
    calibration = {"calibrate_on": "evaluation"}
    params = invented_params(calibration=calibration)
    write_run(tmp_path, params)
    results = collect(tmp_path, params)
    assert "Calibrated on the evaluation split" in as_markdown(recommend(results), results, "results", set())


# ---- which records count ---------------------------------------------------------------------------------------------


def test_an_evaluation_of_a_model_trained_otherwise_is_not_reported(runs, params):
    """The evaluation's own params hold no learning rate: all that it stands on is asked."""
    body = params.model_dump(mode="json")
    body["training"]["learning_rate"] = 3e-5
    changed = invented_params(training=body["training"])
    missing = collect(runs, changed).missing
    assert len(missing) == len(params.seeds) * len(params.methods)
    assert all("training.learning_rate" in item.why for item in missing)


def test_an_evaluation_whose_training_record_is_gone_is_not_reported(tmp_path, runs, params):
    root = tmp_path / "runs"
    shutil.copytree(runs, root)
    shutil.rmtree(root / "tiers/minilm/seed0/sweet/train")
    (missing,) = collect(root, params).missing
    assert missing.cell.method == "sweet"
    assert "train" in missing.why


def test_an_evaluation_of_another_model_than_was_calibrated_is_not_reported(tmp_path, runs, params):
    root = tmp_path / "runs"
    shutil.copytree(runs, root)
    for stage, digest in (("calibration", "new"), ("evaluation", "old")):
        change_record(root / f"tiers/minilm/seed0/sweet/{stage}", inputs={"model": digest})
    (missing,) = collect(root, params).missing
    assert "another model" in missing.why


def test_a_certified_risk_is_shown_and_explained_but_no_candidate(tmp_path):
    params = invented_params(seeds=[0], goal={"max_loss": 1.0, "risk": {"delta": 0.05, "epsilon": 0.1}})

    def certify(cell, rows, timings):
        for row in [row for row in rows if row["operating_point"] == "max_loss_1"]:
            rows.append(row | {"operating_point": "risk_0.05", "calibration_layers_speedup": 9.0})

    write_run(tmp_path, params, edit=certify)
    results = collect(tmp_path, params)
    rows, (choice,) = results.main, recommend(results)
    others = rows[(rows.method != "full") & rows.attainable]
    certified = others.operating_point == "risk_0.05"
    assert certified.any()
    assert choice.row.operating_point != "risk_0.05"
    assert choice.candidates == len(others) - certified.sum()
    text = main_markdown(results, [choice], compare(results))
    assert "**risk ≤ 0.05**" in text
    assert "with probability 0.9 for each method, rule and seed by itself (accuracy loss" in text
