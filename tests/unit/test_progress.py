"""The estimate of the time left."""

import json
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest

from adaptive_inference.files import write_json
from adaptive_pipeline import progress
from adaptive_pipeline.dvc_graph import StageNode
from adaptive_pipeline.families import FAMILIES
from adaptive_pipeline.params import load_params, parse_params
from adaptive_pipeline.progress import Entry, Plan

DEFAULT = load_params(Path(__file__).parents[2] / "presets/default.yaml")


def entry(name, seconds, *upstream, threads=1, known=False, examples=None):
    return Entry(name, name, seconds, examples, known, threads, upstream)


def plan(*entries, cores=1):
    return Plan({item.name: item for item in entries}, cores)


TRAINED = "runs/t/b/seed0/{}/train_timings.json"


def trained(name, stale=False, upstream=(), **versions):
    """A training in the current folder that was made with these versions."""
    out = Path(TRAINED.format(name))
    write_json(out, {"environment": {"versions": versions}})
    return StageNode(f"train_sweet@t-b-{name}-0", "", upstream, "", {out.as_posix(): "md5"}, stale, False)


def test_a_run_says_which_trainings_were_made_with_other_versions(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    here = {name: version(name) for name in ("torch", "transformers", "tokenizers", "numpy")}
    same = trained("same", **here | {"torch": f"{version('torch').partition('+')[0]}+cu999", "numpy": "0.1"})
    stages = [same, trained("unknown"), trained("runs_again", stale=True, torch="0.1")]
    stages.append(trained("after_it", upstream=("train_sweet@t-b-runs_again-0",), torch="0.1"))
    stages.append(replace(same, name="gone", outs={TRAINED.format("gone"): "md5"}))
    progress.tell_of_other_versions(stages)
    assert capsys.readouterr().err == ""
    stages += [trained(name, **here | {"torch": "0.1"}) for name in "abc"]
    stages.append(trained("d", **here | {"transformers": "0.2"}))
    progress.tell_of_other_versions(stages)
    said = capsys.readouterr().err
    some = "train_sweet@t-b-a-0, train_sweet@t-b-b-0 and 1 more"
    assert (
        f": {some} with torch 0.1 (here {here['torch']}); train_sweet@t-b-d-0 with transformers 0.2" in said
    )
    assert said.count("\n") == 1


def test_the_estimate_respects_order_and_cores():
    chain = [entry("a", 10), entry("b", 20, "a"), entry("c", 30, "b")]
    assert plan(*chain, cores=4).left({}) == 60
    fork = [entry("a", 10), entry("b", 20, "a"), entry("c", 30, "a")]
    assert plan(*fork, cores=2).left({}) == 40
    assert plan(*fork, cores=1).left({}) == 60
    assert plan(*fork, cores=1).left({"b": 5.0, "a": 99.0}) == 45


def test_a_stage_that_takes_all_cores_leaves_none_to_others():
    timed = [entry("a", 10, threads=8), entry("b", 10, threads=8), entry("c", 4)]
    assert plan(*timed, cores=2).left({}) == 22


def test_what_reads_from_a_failed_stage_is_not_waited_for():
    run = plan(entry("a", 10), entry("b", 20, "a"), entry("c", 30, "b"), entry("d", 5))
    run.failed.add("a")
    assert run.left({}) == 5


def timed(folder, name, seconds):
    (folder / "logs/durations").mkdir(parents=True, exist_ok=True)
    (folder / f"logs/durations/{name}.json").write_text(json.dumps({"seconds": seconds}))


@pytest.mark.parametrize(
    ("name", "better"), [("train@b", 50), ("test@b", 5), ("tables", 390 / 18), ("old", 10)]
)
def test_guesses_follow_their_own_family_first_and_all_stages_else(name, better):
    ended = [entry("train@a", 60), entry("test@a", 60), entry("train@c", 60, known=True)]
    run = plan(*ended, entry(name, 10, known=name == "old"))
    for stage, seconds in (("train@a", 300), ("test@a", 30), ("train@c", 6000)):
        run.end(stage, seconds, executed=True)
    assert run.left({}) == pytest.approx(better)


def test_a_stage_that_dvc_skipped_is_done_and_teaches_nothing():
    run = plan(entry("a", 60), entry("b", 60))
    run.end("a", 1.0, executed=False)
    assert run.state({}) == "1 of 2 stages done, about 60 s left"


def node(family, method="full", task="tiers", stale=True):
    command = f"python pipeline_steps/{family}.py --task {task} --backbone minilm --seed 0 --method {method}"
    return StageNode(f"{family}@{task}-minilm-{method}-0", command, (), "s", {}, stale, False)


def test_a_training_is_estimated_by_its_own_rows_and_epochs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/mine.csv").write_text("text,label\n" + "good,1\nbad,0\n" * 500)
    body = DEFAULT.model_dump(mode="json")
    mine = {"source": "local", "train": "mine.csv", "development_rows": 50, "calibration_rows": 100}
    body["tasks"] |= {"mine": mine, "gone": mine | {"train": "gone.csv"}}
    body["methods"]["sweet"]["train"]["epochs"] = 7
    params = parse_params(body)
    rows = {name: progress.training_rows(task) for name, task in params.tasks.items()}
    assert rows == {"tiers": 2740 - 200 - 500, "mine": 1000 - 200 - 50 - 100, "gone": progress.ROWS_OF_A_HUB}
    epochs = params.training.epochs
    assert progress.examples(node("finetune_backbone"), params, rows) == 2040 * epochs
    assert progress.examples(node("train_sweet", "sweet", "mine"), params, rows) == 650 * 7
    # the network of LeeBERT reads half of the rows in an epoch
    own = params.methods["leebert"].train.epochs
    assert progress.examples(node("train_leebert", "leebert"), params, rows) == 2040 * own // 2
    assert progress.examples(node("evaluate_batch1"), params, rows) is None


def test_what_a_stage_took_before_is_scaled_to_what_it_reads_now(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    reference = FAMILIES["train_sweet"].seconds
    assert progress.guess("train_sweet@a", progress.REFERENCE_EXAMPLES) == pytest.approx(reference)
    assert progress.guess("train_sweet@a", 3 * progress.REFERENCE_EXAMPLES) == pytest.approx(
        progress.START + 3 * (reference - progress.START)
    )
    timed(tmp_path, "train_sweet@a", 210.0)  # as earlier versions wrote it: without the examples
    assert progress.guess("train_sweet@a", 1000) == 210.0
    (tmp_path / "logs/durations/train_sweet@a.json").write_text('{"seconds": 210.0, "examples": 1000}')
    assert progress.guess("train_sweet@a", 1000) == pytest.approx(210.0)
    assert progress.guess("train_sweet@a", 2000) == pytest.approx(410.0)
    assert progress.guess("finetune_backbone@a", 0) == progress.START  # `epochs: 0`
    assert progress.guess("evaluate_batch1@a", None) == FAMILIES["evaluate_batch1"].seconds


def test_chains_end_with_what_takes_longest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data, full, answers, end = (
        node(family) for family in ("prepare_data", "finetune_backbone", "collect_answers", "recommend")
    )
    stages = [
        data,
        replace(full, upstream=(data.name,)),
        replace(answers, upstream=(full.name,)),
        replace(end, upstream=(data.name, answers.name)),
    ]
    for stage, seconds in zip(stages, (1.0, 50.0, 8.0, 2.0), strict=True):
        progress.remember(entry(stage.name, seconds), seconds)
    chains = progress.longest_chains(stages, DEFAULT)
    assert [chains[stage.name] for stage in stages] == [61.0, 60.0, 10.0, 2.0]


def test_while_an_earlier_runs_stage_still_works_nothing_is_called_computed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stages = [node("finetune_backbone"), node("prepare_data", stale=False)]
    assert progress.plan_run(stages, DEFAULT, 2).announcement.startswith(
        "1 of 2 stages to run, about 2 min on 2"
    )
    told = progress.plan_run([*stages, node("make_tables", stale=None)], DEFAULT, 2).announcement
    assert "a stage of an earlier run is still working" in told
    assert "up to 3 of 3 stages to run" in told
    done = progress.plan_run(stages[1:], DEFAULT, 2)
    assert "all stages are computed" in done.announcement
    assert not done.entries


def test_a_stage_notes_what_it_trained_on_beside_its_seconds(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = progress.plan_run([node("train_sweet", "sweet")], DEFAULT, 2)
    (name,) = run.entries
    assert run.entries[name].label == "train_sweet tiers/minilm/sweet seed 0"
    progress.remember(run.entries[name], 50.0)
    noted = json.loads((tmp_path / f"logs/durations/{name}.json").read_text())
    assert noted == {"seconds": 50.0, "examples": 2040 * DEFAULT.training.epochs}
    assert progress.plan_run([node("train_sweet", "sweet")], DEFAULT, 2).entries[name].known


def test_what_another_version_built_is_named_before_it_runs_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stages = [node("prepare_data"), node("finetune_backbone"), node("train_sweet", "sweet")]
    told = progress.plan_run(stages, DEFAULT, 2, [stage.name for stage in stages[:2]]).announcement
    assert "version of this project that had other files" in told
    assert "1 finetune_backbone, 1 prepare_data. To keep" in told
    assert "make keep" in told
    assert "version" not in progress.plan_run(stages, DEFAULT, 2).announcement
