"""The stages of texts, one after the other on a tiny model: what they write, share, resume and refuse."""

import json
import shutil

import pytest
from safetensors.numpy import load_file
from smoke_params import ROOT, SMOKE

import answer_texts
import assign_model
import calibrate_decoding
import evaluate_decoding
import prepare_texts
import train_free
from adaptive_inference import load_generator
from adaptive_inference.errors import UserError
from adaptive_inference.files import read_json, read_jsonl
from adaptive_inference.generation import measure
from adaptive_inference.generation.model_dir import load_decoder
from adaptive_inference.serving.generator_export import export_generator
from adaptive_inference.tasks.text_schema import load_text_split
from adaptive_pipeline.grid import Cell
from adaptive_pipeline.params import parse_params
from adaptive_pipeline.runs.digests import digest_path
from adaptive_pipeline.runs.records import Record
from adaptive_pipeline.runs.text_records import Confidences, TimedRow
from adaptive_pipeline.stage import Stage

GENERATION = SMOKE["generation"]
#: Hardly trained: its texts are short, and those of the fixed length are not.
TEXTS = GENERATION | {
    "trainings": {
        "ce": {"loss": "ce"},
        "shallow_deep": {"loss": "shallowdeep_kd_dyna", "exit_layer": 2, "classifier": "linear"},
    },
    "trained_by": {"train_free": ["ce"], "continue_free": ["shallow_deep"]},
    "pretrained": "ce",
    "methods": {
        "full": {"training": "ce", "policy": "full"},
        "calm": {"training": "shallow_deep", "policy": "calm", "confidence": "classifier"},
        "free": {"training": "shallow_deep", "policy": "keep"},
        "free_adaptive": {"training": "shallow_deep", "policy": "keep", "adaptive": "corrected"},
        "free_verify": {"training": "shallow_deep", "policy": "verify"},
    },
    "calibration": {"thresholds": [0.0, 0.3, 1.0], "prompts": 30},
    "evaluation": {
        "grid_prompts": 6,
        "prompts": 9,
        "timed_prompts": 2,
        "repeats": 1,
        "fixed_length": 5,
    },
}
#: Hardly moves.
BRIEF = {"training": {"epochs": 1, "batch_size": 32, "learning_rate": 1.0e-6}}
PARAMS = parse_params(SMOKE | {"generation": TEXTS})


class Runs:
    """A `runs` folder of one seed, whose stages run in this process."""

    def __init__(self, root):
        self.root = root

    def run(self, script, name="", params=PARAMS, **inputs):
        """Run a stage script's main; return its stage, its folder in place."""
        folders = {
            prepare_texts: "data",
            train_free: f"trainings/{name}/train",
            assign_model: f"{name}/assigned",
            calibrate_decoding: f"{name}/calibration",
            answer_texts: f"{name}/texts",
            evaluate_decoding: f"{name}/evaluation",
        }
        out = self.root / folders[script]
        out.mkdir(parents=True, exist_ok=True)
        stage = Stage(
            script.__name__, Cell("transduce", "t5_tiny", 0, name), params, inputs, out, out.parent / ".scratch", {},
            str(ROOT / f"pipeline_steps/{script.__name__}.py"),
        )  # fmt: skip
        script.main(stage)
        stage.record.save(out)
        shutil.rmtree(stage.scratch, ignore_errors=True)
        return stage

    @property
    def splits(self):
        return self.root / "data/splits"

    def train(self, name, **more):
        return self.run(train_free, name, data=self.splits, tokenizer=self.root / "data/tokenizer", **more)

    def assign(self, name):
        return self.run(assign_model, name, trainings=self.root / "trainings")

    def calibrate(self, name, **more):
        assigned = self.root / name / "assigned/model.json"
        return self.run(calibrate_decoding, name, data=self.splits, assigned=assigned, **more)

    def answer(self, name):
        return self.run(answer_texts, name, **self._of_texts(name))

    def evaluate(self, name):
        texts = self.root / name / "texts/answers.jsonl"
        return self.run(evaluate_decoding, name, texts=texts, **self._of_texts(name))

    def _of_texts(self, name):
        home = self.root / name
        return {
            "data": self.splits,
            "assigned": home / "assigned/model.json",
            "decoding": home / "calibration/metrics.json",
        }


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    made = Runs(tmp_path_factory.mktemp("texts"))
    made.run(prepare_texts, data_folder=ROOT / "data")
    for training in TEXTS["trainings"]:
        made.train(training)
    return made


@pytest.fixture(scope="module")
def evaluated(runs):
    """Stages of each method: calibration and evaluation."""
    found = {}
    for method in TEXTS["methods"]:
        runs.assign(method)
        calibrated = runs.calibrate(method)
        runs.answer(method)
        found[method] = calibrated, runs.evaluate(method)
    return found


def test_splits_are_described_and_a_trained_tokenizer_has_a_token_for_each_word(runs):
    record = Record.load(runs.root / "data")
    assert {name: body["rows"] for name, body in record.splits.items()} == {
        "train": 340,
        "development": 40,
        "calibration": 60,
        "evaluation": 60,
    }
    assert record.metrics["shared_texts"] == 0
    rows = read_jsonl(runs.splits / "train.jsonl")
    longest = max(len(row["target"].split()) + 1 for row in rows)  # the end token too
    assert record.splits["train"]["target_tokens"]["100"] == longest
    assert record.tokenizer["eos_token"] == "</s>"


def test_a_training_tells_what_it_was_and_its_folder_is_a_decoder(runs):
    record, saved = Record.load(runs.root / "trainings/shallow_deep/train"), None
    saved = load_decoder(runs.root / "trainings/shallow_deep/train/model")
    assert (record.loss, record.exit_layer, record.blocks, record.classifier) == (
        "shallowdeep_kd_dyna",
        2,
        4,
        "linear",
    )
    assert (saved.trained_for.exit_layer, saved.trained_for.blocks) == (2, 4)
    assert record.metrics["parameters"] == sum(item.numel() for item in saved.model.parameters())
    assert record.metrics["classifier_development_loss"] < 1
    assert (runs.root / "trainings/shallow_deep/train/history.jsonl").is_file()


def test_a_continued_training_begins_with_what_another_left(runs):
    ce, deep = (Record.load(runs.root / f"trainings/{name}/train") for name in ("ce", "shallow_deep"))
    assert (ce.built_on, deep.built_on) == ("", "ce")
    assert "start" not in ce.inputs
    assert deep.inputs["start"] == digest_path(runs.root / "trainings/ce/train/model")
    assert deep.params["generation.pretrained"] == "ce"
    params = parse_params(SMOKE | {"generation": TEXTS | BRIEF})
    more = Runs(runs.root.parent / "continued")
    more.run(prepare_texts, params=params, data_folder=ROOT / "data")
    for name in ("ce", "shallow_deep"):
        more.train(name, params=params)
    begun, left = (
        load_file(more.root / f"trainings/{name}/train/model/model.safetensors")
        for name in ("ce", "shallow_deep")
    )
    apart = max(float(abs(left[name] - begun[name]).max()) for name in begun)
    assert 0 < apart < 1e-3  # one epoch of steps of 1e-6: nowhere near other random weights


def test_what_is_assigned_changes_with_the_methods_own_model_alone(runs):
    runs.assign("free")
    file = runs.root / "free/assigned/model.json"
    before = file.read_bytes()
    more = runs.root / "trainings/more/train/model"
    shutil.copytree(runs.root / "trainings/ce/train/model", more)
    try:
        runs.assign("free")
        assert file.read_bytes() == before
    finally:
        shutil.rmtree(runs.root / "trainings/more")
    assert read_json(file)["training"] == "shallow_deep"


def test_never_leaving_early_and_verify_write_what_the_full_model_writes(evaluated):
    for method in ("full", "free", "calm", "free_verify"):
        calibrated = evaluated[method][0].record
        exact = calibrated.grid if method in ("full", "free_verify") else calibrated.grid[-1:]
        for row in exact:
            assert (row.agreement, row.same_texts, row.loss) == (1.0, 1.0, 0.0)
            assert row.quality == calibrated.full.quality
    early = evaluated["free"][0].record.grid[0]
    assert early.shallow_share > 0.5  # tokens do leave
    assert early.paper_blocks < 4


def test_thresholds_are_chosen_on_calibration_rows_and_measured_on_others(evaluated):
    for method in ("free", "calm", "free_verify"):
        calibrated, measured = (stage.record for stage in evaluated[method])
        assert [item.goal for item in calibrated.chosen] == ["certified", "min_quality"]
        assert [row.choice for row in measured.chosen] == calibrated.chosen
        assert {row.rows for row in calibrated.grid} == {30}
        assert {row.rows for row in measured.grid} == {6}
        assert {row.decoded.rows for row in measured.chosen} == {9}
        kept = [row for row in calibrated.grid if row.quality >= 0.95 * calibrated.full.quality]
        assert calibrated.chosen[1].threshold == min(kept, key=lambda row: row.flops).threshold
    for method in ("full", "free_adaptive"):  # which read no fixed threshold
        (choice,) = evaluated[method][0].record.chosen
        assert (choice.goal, choice.threshold) == ("none", None)


def test_an_exit_layer_that_the_method_leaves_out_is_the_trained_models(evaluated):
    assert evaluated["free"][0].record.exit_layer == 2
    assert evaluated["calm"][0].record.exit_layer is None


def test_chosen_thresholds_are_timed_in_both_modes_and_depths_are_drawn(evaluated, runs):
    for method, (calibrated, measured) in evaluated.items():
        rows = [TimedRow(**row) for row in measured.timings["rows"]]
        assert [(row.mode, row.goal) for row in rows] == [
            (mode, item.goal) for mode in ("free", "fixed") for item in calibrated.record.chosen
        ]
        page = (runs.root / method / "evaluation/pictures/depths.html").read_text()
        assert "<script" not in page
        assert page.count("<section>") == 6


def test_a_run_and_what_is_exported_of_it_write_at_the_chosen_threshold(evaluated, runs, tmp_path):
    sources = [example.source for example in load_text_split(runs.splits, "evaluation")[:4]]
    for method in ("free", "free_adaptive", "calm", "full"):
        run, record = runs.root / method, evaluated[method][1].record
        export_generator(run, tmp_path / method)
        assert "# transduce: a decoder with early exit" in (tmp_path / method / "README.md").read_text()
        generator = load_generator(tmp_path / method)
        policy, adaptive = generator.saved.asked()
        assert policy.kind == record.policy
        assert adaptive == ("corrected" if method == "free_adaptive" else None)
        chosen = generator.saved.decoding.default
        shown = record.shown
        assert (chosen.goal, chosen.threshold) == (shown.choice.goal, shown.choice.threshold)
        assert chosen.measured.quality == shown.decoded.quality
        if chosen.threshold is not None:
            assert policy.threshold == chosen.threshold
        assert generator.generate(sources) == load_generator(run).generate(sources)


def test_confidences_are_counted_where_all_blocks_looked(evaluated, runs):
    file = runs.root / "free/evaluation/confidences.json"
    counted = Confidences(**json.loads(file.read_text()))
    assert sum(counted.agreeing) > 0
    assert counted.threshold == evaluated["free"][1].record.shown.choice.threshold
    assert counted.trajectory == []
    estimated = json.loads((runs.root / "free_adaptive/evaluation/confidences.json").read_text())
    assert len(estimated["trajectory"]) == 6
    assert not (runs.root / "full/evaluation/confidences.json").exists()


def test_a_killed_calibration_goes_on_with_the_requests_that_are_left(evaluated, runs, monkeypatch):
    before = told(runs.root / "free/calibration/metrics.json")
    real, asked = measure._answer, []

    def dies(*given):
        asked.append(given)
        if len(asked) == 40:
            raise KeyboardInterrupt
        return real(*given)

    monkeypatch.setattr(measure, "_answer", dies)
    with pytest.raises(KeyboardInterrupt):
        runs.calibrate("free")
    asked.clear()
    monkeypatch.setattr(measure, "_answer", lambda *given: asked.append(given) or real(*given))
    runs.calibrate("free")
    assert len(asked) == 4 * 30 - 39  # plain and three thresholds
    assert told(runs.root / "free/calibration/metrics.json") == before


def test_texts_that_a_killed_run_wrote_in_another_order_are_the_same_bytes(evaluated, runs, monkeypatch):
    file = runs.root / "free/texts/answers.jsonl"
    before, real, asked = file.read_bytes(), measure._answer, []

    def dies(*given):
        asked.append(given)
        if len(asked) == 20:
            raise KeyboardInterrupt
        return real(*given)

    with monkeypatch.context() as patch:
        patch.setattr(measure, "_answer", dies)
        with pytest.raises(KeyboardInterrupt):
            runs.answer("free")
    asked.clear()
    monkeypatch.setattr(measure, "_answer", lambda *given: asked.append(given) or real(*given))
    runs.answer("free")
    ways = 1 + len({item.threshold for item in evaluated["free"][0].record.chosen})
    # the grid, then plain and the chosen ones on the rows that are left, and what is seen
    assert len(asked) == 4 * 6 + 3 * ways + 6 - 19
    assert file.read_bytes() == before


def test_texts_of_another_model_are_refused(evaluated, runs):
    file = runs.root / "free/texts/metrics.json"
    text = file.read_text()
    body = json.loads(text)
    body["inputs"]["model"] = "0" * 32
    try:
        file.write_text(json.dumps(body))
        with pytest.raises(UserError, match=r"written by another model of free; run answer_texts again"):
            runs.evaluate("free")
    finally:
        file.write_text(text)


def told(file):
    """Return a record without the digest of code, which is of all that this process has imported by then."""
    body = json.loads(file.read_text())
    return {name: value for name, value in body.items() if name not in ("code", "record_id")}


def test_a_model_that_was_trained_again_since_it_was_assigned_is_refused(evaluated, runs):
    file = runs.root / "trainings/shallow_deep/train/model/generation_config.json"
    text = file.read_text()
    try:
        file.write_text(text.replace("{", "{ ", 1))
        with pytest.raises(UserError, match=r"made from another model .* run assign_model again"):
            runs.calibrate("free")
    finally:
        file.write_text(text)
