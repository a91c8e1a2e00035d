"""The three tools together, on the smoke preset."""

import json
import re
import time
from pathlib import Path

import pytest
import yaml

from adaptive_pipeline.dvc_graph import CHECK
from adaptive_pipeline.grid import Cell
from adaptive_pipeline.runs.store import open_runs, read_kept, write_kept

pytestmark = pytest.mark.pipeline
#: Read by all stages, and no dependency of those that train, calibrate or evaluate: most of it has no influence on a
#: result. What `settings`, `params` and `grid` make of a key that params.yaml leaves out has, and is not seen: DVC compares
#: the values that stand there (docs/orchestration.md, Known limits).
COMMON = (
    "src/adaptive_inference/__init__.py",
    "src/adaptive_inference/by_name.py",
    "src/adaptive_inference/calibration/__init__.py",
    "src/adaptive_inference/calibration/operating_point.py",  # for the form of records
    "src/adaptive_inference/errors.py",
    "src/adaptive_inference/evaluation/__init__.py",
    "src/adaptive_inference/evaluation/explained.py",  # as operating_point.py
    "src/adaptive_inference/files.py",
    "src/adaptive_inference/machine.py",  # of what is told of a machine
    "src/adaptive_inference/own_code.py",
    "src/adaptive_inference/settings",
    "src/adaptive_pipeline/__init__.py",
    "src/adaptive_pipeline/grid.py",
    "src/adaptive_pipeline/one_run.py",  # for where locks lie
    "src/adaptive_pipeline/params",
    "src/adaptive_pipeline/prefork.py",  # for how a stage starts
    "src/adaptive_pipeline/presets.py",  # for the preset's name in MLflow
    "src/adaptive_pipeline/tracking",
)
#: Common too, but to the stages that read records.
RECORDS = "src/adaptive_pipeline/runs"
READ_RECORDS = ("make_tables", "choose_point")
#: Used where params ask for it, which those of the run do not: a tokenizer that comes with weights.
ASKED_FOR = {"prepare_texts": ("src/adaptive_inference/decoders",)}
#: A stage that the run lacks -> those that import what it does.
SEEN_IN = {"train_fold": ("train_sweet", "train_leebert", "choose_point"), "continue_free": ("train_free",)}


#: Stages of a whole seed, from the choice among its methods on.
OF_A_SEED = ("recommend", "evaluate_recommended", "export_model", "choose_deployment")


def stages_of(built):
    return {name.partition("@")[0] for name in built.first_executed}


def planned(output):
    """Return the stages in Snakemake's job table."""
    table = output.partition("Job stats:")[2].partition("\ntotal")[0]
    jobs = {line.split()[0] for line in table.splitlines()[3:] if line.strip()}
    return jobs - {"all", "publish_records"}


def direct(status):
    """Return the stages that `dvc status` names, but the one that is no part of Snakemake's graph."""
    return set(json.loads(status)) - {CHECK}


def closure(edges, names):
    """Return the named stages and all downstream of them."""
    found = set(names)
    while more := {down for up, down in edges if up in found} - found:
        found |= more
    return found


@pytest.fixture(scope="module")
def edges(built):
    """Return the edges of DVC's graph, but those of the stage that all depend on."""
    edges = re.findall(r'"(.+?)" -> "(.+?)"', built.run("dvc", "dag", "--dot"))
    return {(up, down) for up, down in edges if up != CHECK}


def test_one_run_executes_every_stage_once_and_shows_the_result(built):
    stages = yaml.safe_load((built.root / "dvc.yaml").read_text())["stages"]
    assert stages_of(built) == set(stages) - {CHECK}
    assert len(built.first_executed) <= 65
    assert "65 of 65 stages to run, about" in built.output
    assert "65 of 65 stages done" in built.output
    assert "\nRecommended for tiers with tiny: " in built.output
    assert "Select jobs" not in built.output
    assert len(built.output.splitlines()) < 120
    assert not list((built.root / "runs").rglob(".*.partial")) + list(
        (built.root / "runs").rglob(".*.scratch")
    )


def test_a_second_run_has_nothing_to_do(built):
    began = time.monotonic()
    assert "Nothing to be done" in built.run("snakemake", "--cores", "2")
    assert time.monotonic() - began < 20
    assert built.run("dvc", "status", "--json").strip().endswith("{}")


def test_the_two_graphs_are_equal(built, edges):
    dot = built.run("snakemake", "--rulegraph", "--forceall", "--quiet", "all")
    labels = dict(re.findall(r'(\d+)\[label = "(.+?)"', dot))
    shown = {(labels[up], labels[down]) for up, down in re.findall(r"(\d+) -> (\d+)", dot)}
    on_top = {"all", "publish_records"}
    assert {edge for edge in shown if not on_top.intersection(edge)} == edges


def test_a_changed_hyper_parameter_makes_the_same_stages_stale_and_the_change_back_none(built, edges):
    params = built.root / "params.yaml"
    text = params.read_text()
    try:
        params.write_text(
            text.replace("backward: block_local}", "backward: block_local, learning_rate: 2.0e-3}")
        )
        assert params.read_text() != text
        status = direct(built.run("dvc", "status", "--json"))
        assert status - {"make_tables"} == {"train_sweet@tiers-tiny-sweet-0"}
        expected = {
            f"{family}@tiers-tiny-sweet-0"
            for family in ("train_sweet", "collect_answers", "calibrate_thresholds", "evaluate_batch1")
        } | {f"{family}@tiers-tiny-0" for family in OF_A_SEED}
        assert closure(edges, status) == expected | {"make_tables"}
        assert planned(built.run("snakemake", "-n")) == expected | {"make_tables"}
    finally:
        params.write_text(text)
    assert "Nothing to be done" in built.run("snakemake", "-n")
    assert built.run("dvc", "status", "--json").strip().endswith("{}")


def test_another_deployment_of_all_methods_makes_exports_and_their_choice_stale_and_nothing_else(
    built, edges
):
    params = built.root / "params.yaml"
    text = params.read_text()
    try:
        params.write_text(text.replace("deployments: [torch]", "deployments: [torch, onnx_int8]"))
        status = direct(built.run("dvc", "status", "--json"))
        stale = {"export_model@tiers-tiny-0", "choose_deployment@tiers-tiny-0"}
        assert status - {"make_tables"} == stale
        assert planned(built.run("snakemake", "-n")) == closure(edges, stale)
    finally:
        params.write_text(text)


ADAPLER = "adapler: {train: {objective: adapler, epochs: 3, removal: {phi: 0.01, start: fine_tuned}}, rules: [fixed]}"


def test_another_weight_of_the_length_term_makes_no_saliencies_again(built):
    params = built.root / "params.yaml"
    text = params.read_text()
    try:
        params.write_text(text.replace("phi: 0.01", "phi: 0.02"))
        status = direct(built.run("dvc", "status", "--json"))
        assert status - {"make_tables"} == {"train_adapler@tiers-tiny-adapler-0"}
        again = {name.partition("@")[0] for name in planned(built.run("snakemake", "-n"))}
        assert {"train_adapler", "train_adapler_exits", "score_rationales"} < again
        assert not again & {"extract_saliencies", "finetune_backbone", "train_sweet", "train_leebert"}
    finally:
        params.write_text(text)


def test_a_method_more_that_removes_tokens_makes_no_cell_of_another_stale(built):
    """Only what is chosen among all methods, and what shows them all, is made again."""
    params = built.root / "params.yaml"
    text = params.read_text()
    assert ADAPLER in text
    more = text.replace(
        ADAPLER, f"{ADAPLER}\n  {ADAPLER.replace('adapler:', 'longer:').replace('0.01', '0.001')}"
    )
    try:
        params.write_text(more.replace("train_adapler: [adapler]", "train_adapler: [adapler, longer]"))
        status = direct(built.run("dvc", "status", "--json"))
        assert {name for name in status if "longer" not in name} == {"recommend@tiers-tiny-0", "make_tables"}
        assert {name.partition("@")[0] for name in status if "longer" in name} == {
            "train_adapler", "collect_answers", "calibrate_thresholds", "evaluate_batch1",
        }  # fmt: skip
    finally:
        params.write_text(text)


FREE = "free: {training: shallow_deep, policy: keep}"
STOCK = "    stock: {loss: final_ce}"


def test_a_method_of_decoding_more_makes_no_other_stale_and_one_with_a_training_of_its_own_none_that_decodes(
    built,
):
    params = built.root / "params.yaml"
    text = params.read_text()
    assert FREE in text
    assert STOCK in text
    more = text.replace(FREE, f"{FREE}\n    more: {{training: shallow_deep, policy: keep, max_pending: 4}}")
    own = text.replace(FREE, f"{FREE}\n    more: {{training: other, policy: full}}")
    own = own.replace(STOCK, f"{STOCK}\n    other: {{loss: ce, epochs: 1}}")
    own = own.replace("train_free: [stock]", "train_free: [stock, other]")
    try:
        params.write_text(more)
        status = direct(built.run("dvc", "status", "--json"))
        assert {name for name in status if "-more-" not in name} == {"make_tables"}
        params.write_text(own)
        status = direct(built.run("dvc", "status", "--json"))
        assert {name for name in status if "-more-" not in name} == {
            "train_free@transduce-t5_tiny-other-0",
            "make_tables",
        }
    finally:
        params.write_text(text)


def test_a_new_exit_rule_and_a_new_objective_make_no_stage_stale(built):
    files = [
        built.root / "src/adaptive_inference" / name
        for name in ("exit_rules/dummy.py", "objectives/dummy.py")
    ]
    try:
        for file in files:
            file.write_text('"""A new idea."""\n')
        assert built.run("dvc", "status", "--json").strip().endswith("{}")
        assert "Nothing to be done" in built.run("snakemake", "-n")
    finally:
        for file in files:
            file.unlink()


@pytest.mark.parametrize(
    ("edited", "families"),
    [
        (
            "adaptive_inference/calibration/temperature.py",
            {"calibrate_thresholds", "export_model", "choose_deployment"},
        ),
        (
            "adaptive_inference/exit_rules/entropy.py",
            {"calibrate_thresholds", "evaluate_batch1", *OF_A_SEED[1:], "make_tables"},
        ),
        ("adaptive_inference/selection/promise.py", {"recommend", "choose_deployment"}),
        ("adaptive_inference/selection/families.py", {"calibrate_thresholds", "choose_deployment"}),
        ("adaptive_inference/selection/drift.py", {"evaluate_recommended"}),
        ("adaptive_inference/serving/__init__.py", {"export_model", "choose_deployment", "make_tables"}),
        ("adaptive_pipeline/deployments/choice.py", {"choose_deployment"}),
        ("adaptive_pipeline/reporting/__init__.py", {"make_tables", "score_rationales", "evaluate_decoding"}),
        ("adaptive_inference/decoding/decay.py", {"calibrate_decoding", "answer_texts", "evaluate_decoding"}),
        ("adaptive_inference/generation/losses.py", {"train_free", "continue_free"}),
        ("adaptive_pipeline/decoding/times.py", {"evaluate_decoding"}),
        (
            "adaptive_inference/evaluation/faithfulness.py",
            {"score_rationales", "evaluate_batch1", "evaluate_recommended"},
        ),
        ("adaptive_pipeline/runs/validity.py", {"make_tables"}),
        ("adaptive_pipeline/runs/layout.py", set()),
        ("adaptive_pipeline/params/messages.py", set()),
    ],
)
def test_an_edited_file_makes_the_stages_that_use_it_stale_in_both_and_no_other(
    built, edges, edited, families
):
    file = built.root / "src" / edited
    text = file.read_text()
    try:
        file.write_text(text + "\n# edited\n")
        status = direct(built.run("dvc", "status", "--json"))
        assert {name.partition("@")[0] for name in status} == families
        assert planned(built.run("snakemake", "-n")) == closure(edges, status)
    finally:
        file.write_text(text)


@pytest.mark.parametrize(
    "family", ["check_params", "prepare_data", "finetune_backbone", "train_sweet", "train_leebert", "train_multi_model",
               "extract_saliencies", "train_adapler", "train_adapler_exits", "score_rationales",
               "collect_answers", "calibrate_thresholds", "evaluate_batch1", *OF_A_SEED,
               "prepare_texts", "train_free", "continue_free", "assign_model", "calibrate_decoding",
               "answer_texts", "evaluate_decoding",
               "make_tables", "train_fold", "choose_point"],
)  # fmt: skip
def test_a_stage_declares_the_modules_that_its_script_imports(built, family):
    imported = set()
    for seen_in in SEEN_IN.get(family, (family,)):
        files = list(built.imports.glob(f"{seen_in}-*.json"))
        assert files
        imported.update(*(json.loads(file.read_text()) for file in files))
    definitions = [
        yaml.safe_load((built.root / name).read_text()) for name in ("dvc.yaml", "search/dvc.yaml")
    ]
    stages = definitions[0]["stages"] | definitions[1]["stages"]
    declared = [dep for dep in stages[family]["deps"] if dep.startswith("src/")]
    known = (*declared, *COMMON, *([] if family in READ_RECORDS else [RECORDS]))
    undeclared = [file for file in imported if not any(Path(file).is_relative_to(dep) for dep in known)]
    unused = [dep for dep in declared if not any(Path(file).is_relative_to(dep) for file in imported)]
    named = ("src/adaptive_inference/exit_rules/", "src/adaptive_inference/objectives/")
    if family == "check_params":  # which lists no rule and no objective, so that a new one leaves it as it is
        undeclared = [file for file in undeclared if not file.startswith(named)]
    assert not undeclared
    # a rule or an objective is used where a method names it
    assert [dep for dep in unused if not dep.startswith((*named, *ASKED_FOR.get(family, ())))] == []


def test_a_fresh_clone_with_pulled_results_executes_nothing_and_fills_an_empty_store(built, tmp_path):
    store, clone = tmp_path / "remote", tmp_path / "clone"
    built.run("dvc", "remote", "add", "--local", "-f", "-d", "local", str(store))
    built.run("dvc", "push", "-q")
    built.run("git", "add", "dvc.lock")
    built.run("git", "commit", "-qm", "results")
    built.run("git", "clone", "-q", ".", str(clone))
    there = type(built)(clone)
    there.run("dvc", "remote", "add", "--local", "-d", "local", str(store))
    there.run("dvc", "pull", "-q")
    assert there.run("dvc", "status", "--json").strip().endswith("{}")
    there.run("snakemake", "--cores", "2")
    assert there.executed() == []
    assert there.run("git", "status", "--porcelain", "dvc.lock") == ""
    assert there.digests() == built.digests()
    live, published = runs_in(built.root), runs_in(clone)
    assert len(live) == len(open_runs(built.root / "runs").records)
    assert published == live
    assert "0 of them new" in there.run("python", "-m", "adaptive_pipeline.tracking.publish")
    assert runs_in(clone) == live


def runs_in(root):
    """Return all that a store shows of its runs apart from when they were made: record id -> contents."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{root / 'mlflow.db'}")
    ids = {experiment.name: experiment.experiment_id for experiment in client.search_experiments()}
    (results,) = client.search_runs([ids.pop("results")])
    assert results.data.tags["preset"] == "smoke"
    assert "recommendation.md" in {item.path for item in client.list_artifacts(results.info.run_id)}
    (registered,) = client.search_runs([ids.pop("models")])  # the recommended model, from which it is served
    assert registered.info.run_name == "adaptive-inference-tiers"
    found = {}
    for run in client.search_runs(list(ids.values()), max_results=1000):
        tags = {key: value for key, value in run.data.tags.items() if not key.startswith("mlflow.")}
        commit = tags.pop("git_commit")
        assert tags["preset"] == "smoke"
        assert re.fullmatch("[0-9a-f]{40}", commit)
        history = {
            name: sorted(
                (metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, name)
            )
            for name in run.data.metrics
        }
        files = sorted(item.path for item in client.list_artifacts(run.info.run_id))
        assert tags["record_id"] not in found, "two runs of one record"
        found[tags["record_id"]] = (run.info.run_name, run.info.status, tags, run.data.params, history, files)
    return found


def test_the_report_and_dvcs_own_commands_show_the_result(built):
    page = (built.root / "results/report.html").read_text()
    assert page.index("<h1>Recommendation</h1>") < page.index("<table>") < page.index("<img")
    metrics = json.loads(built.run("dvc", "metrics", "show", "--json"))
    (data,) = [
        files["results/metrics.json"]["data"] for revision in metrics.values() for files in revision.values()
    ]
    assert "tiers.tiny.recommended.method" in data
    assert "tiers-tiny-overview.png" in built.run("dvc", "plots", "show", "--json")


def test_results_are_rebuilt_from_kept_records_alone(built):
    out = built.root / "docs/results/smoke"
    assert "46 records kept" in built.run("python", "-m", "adaptive_pipeline.runs.keep")
    built.run("python", "-m", "adaptive_pipeline.presets", "results", "smoke")
    for name in ("tables/main.csv", "tables/main.md", "recommendation.json"):
        assert (out / name).is_file()
    for name in ("tables/main.csv", "tables/generation.csv"):
        assert (out / name).read_text() == (built.root / "results" / name).read_text()
    kept, texts = sorted((out / "records").iterdir())
    assert (kept.name, texts.name) == ("tiers-tiny-seed0.jsonl.gz", "transduce-t5_tiny-seed0.jsonl.gz")
    assert max(kept.stat().st_size, texts.stat().st_size) < 200_000
    gone = ("evaluate_batch1", Cell("tiers", "tiny", 0, "sweet"))
    write_kept(kept, [item for item in read_kept(kept) if item.key != gone])
    built.run("python", "-m", "adaptive_pipeline.presets", "results", "smoke")
    assert "sweet" in (out / "tables/missing.csv").read_text()
    listed = built.run("snakemake", "-n", "missing_cells", "--forceall")
    assert {name for name in planned(listed) if name.startswith("evaluate")} == {
        "evaluate_batch1@tiers-tiny-sweet-0"
    }
