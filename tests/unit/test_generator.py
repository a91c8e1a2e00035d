"""A saved decoder, loaded and written with: as the engine writes, by its stored policy or another one."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from saved_generators import BLOCKS, EXIT, METHOD, SCHEMA, WORDS, save_run, save_tiny

from adaptive_inference import load_generator, load_predictor
from adaptive_inference.decoding import DecodingPolicy, EarlyExitDecoding
from adaptive_inference.errors import UserError
from adaptive_inference.generation.answers import Answering
from adaptive_inference.generation.classifier import AgreementClassifier, save_classifier
from adaptive_inference.generation.texts import collate_sources, encode_sources
from adaptive_inference.serving.generator_dir import open_generator
from adaptive_inference.tasks.text_schema import TextSchema

TEXTS = ["w1 w2 w3", "w9", "w4 w5 w6 w7 w8 w9 w10", "w11 w12", "w30 w31 w32 w33 w34"]


#: At which some tokens of these random models leave early, and some do not.
SOME_LEAVE = {"t5": 0.55, "llama": 0.05, "gpt2": 0.05}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return {
        family: save_run(tmp_path_factory.mktemp(family), family, chosen=(threshold, True))
        for family, threshold in SOME_LEAVE.items()
    }


@pytest.fixture(scope="module")
def generators(runs):
    return {family: load_generator(run) for family, run in runs.items()}


def engine(generator, text, decoding, most=SCHEMA.max_target):
    """Write one text with the engine itself, or with plain ``generate``; return the ids."""
    kind, pad = generator.encoder_decoder, generator.tokenizer.pad_token_id
    ids, _ = encode_sources([text], generator.tokenizer, SCHEMA.max_source, encoder_decoder=kind)
    batch = collate_sources(ids, pad, encoder_decoder=kind)
    with torch.inference_mode():
        return Answering("engine", generator.model, decoding)(batch, most)


@pytest.mark.parametrize("family", ["t5", "llama", "gpt2"])
def test_texts_are_what_the_engine_writes_at_the_stored_point(generators, family):
    generator = generators[family]
    decoding = EarlyExitDecoding(DecodingPolicy("keep", exit_layer=EXIT, threshold=SOME_LEAVE[family]))
    depths = set()
    for text, answer in zip(TEXTS, generator.generate(TEXTS), strict=True):
        assert answer.ids == engine(generator, text, decoding)
        assert answer.depth == decoding.trace.rows[0].depth
        assert len(answer.tokens) == len(answer.ids) == len(answer.depth)
        assert answer.ended == (answer.ids[-1] == generator.tokenizer.eos_token_id)
        words = [token for token in answer.tokens if token in WORDS]
        assert answer.text == " ".join(words)
        depths |= set(answer.depth)
    assert depths == {EXIT, BLOCKS}, "otherwise this compares nothing of the policy"


@pytest.mark.parametrize("family", ["t5", "llama", "gpt2"])
@pytest.mark.parametrize("threshold", [0.0, 0.1, 1.0])
def test_verify_and_full_write_what_plain_generate_writes(generators, family, threshold):
    generator = generators[family]
    plain = [engine(generator, text, None) for text in TEXTS]
    assert [answer.ids for answer in generator.generate(TEXTS, "verify", threshold)] == plain
    assert [answer.ids for answer in generator.generate(TEXTS, "full")] == plain


@given(
    st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=14), min_size=1, max_size=7),
    st.integers(2, 4),
)
@settings(max_examples=4, deadline=None)
def test_a_batch_answers_each_text_as_alone_and_in_order(generators, words, size):
    texts = [" ".join(row) for row in words]
    for family in ("t5", "gpt2"):
        generator = generators[family]
        alone = generator.generate(texts, "verify", 0.1)
        together = generator.generate(texts, "verify", 0.1, batch_size=size)
        assert [answer.ids for answer in together] == [answer.ids for answer in alone]
        assert [answer.cut for answer in together] == [answer.cut for answer in alone]
        assert list(generator.stream(iter(texts), "verify", 0.1, size)) == together


@pytest.mark.parametrize("family", ["t5", "llama"])
def test_costs_are_those_of_the_blocks_that_ran(generators, family):
    generator = generators[family]
    full, static = (generator.generate(TEXTS, policy) for policy in ("full", "static"))
    assert {answer.blocks for answer in full} == {BLOCKS}
    assert {answer.flops_share for answer in full} == {1.0}
    assert {answer.blocks for answer in static} == {EXIT}
    assert all(0 < answer.flops_share < 1 for answer in static)
    for answer in generator.generate(TEXTS, "keep", 0.0):
        assert set(answer.depth) <= {
            EXIT,
            BLOCKS,
        }  # a decoder-only model's first token comes from the prompt's pass
        assert answer.blocks < BLOCKS
    # the test itself costs: a head after the exit layer for each token
    assert all(answer.flops_share > 1 for answer in generator.generate(TEXTS, threshold=1.0))


def test_a_long_text_is_cut_and_says_so(generators):
    long = " ".join(["w1"] * 11)
    for family, room in (("t5", 11), ("gpt2", 11), ("llama", 11)):
        generator = generators[family]
        fits, cut = generator.generate([long, long + " w2 w3"])
        assert (fits.cut, cut.cut) == (False, True)
        assert (fits.ids, fits.depth) == (cut.ids, cut.depth)
        assert len(long.split()) == room


def test_new_tokens_are_bounded(generators):
    generator = generators["t5"]
    longest = max(generator.generate(TEXTS, "full"), key=lambda answer: len(answer.ids))
    assert len(longest.ids) == SCHEMA.max_target
    short = generator.generate(TEXTS, "full", max_new_tokens=3)
    assert max(len(answer.ids) for answer in short) == 3
    for bad in (0, -1, 2.5, True):
        with pytest.raises(UserError, match=r"max_new_tokens .* must be a whole number from 1"):
            generator.generate(TEXTS, max_new_tokens=bad)
    with pytest.raises(UserError, match=r"positions are needed and gpt2 has 64"):
        generators["gpt2"].generate(TEXTS, max_new_tokens=100)


def test_bad_texts_and_settings_are_told(generators):
    generator = generators["t5"]
    for texts, message in (
        ("w1 w2", "`texts` is one string; give a list"),
        (["w1", "  "], "text 1: the text is empty; leave it out"),
        (["w1", 3], "text 1: 3 does not fit task copying, which reads one string"),
        ([("w1", "w2")], "text 0: .* which reads one string"),
        (["w1 \ud800"], "text 0: the text holds half a character"),
    ):
        with pytest.raises(UserError, match=message):
            generator.generate(texts)
    for policy, threshold, message in (
        ("keeep", 0.5, "unknown policy 'keeep'.*did you mean 'keep'"),
        ("keep", 1.5, "threshold 1.5: a threshold is a number from 0 to 1"),
        (None, -0.1, "threshold -0.1"),
        (None, float("nan"), "threshold nan"),
        ("verify", None, "policy 'verify' needs a threshold from 0 to 1: none was calibrated for it"),
        ("full", 0.5, "policy 'full' reads none; leave it out"),
        ("roll_back", 0.5, "rollback None"),
        (DecodingPolicy("static", exit_layer=9), None, "exit_layer 9: the decoder has 4 blocks"),
    ):
        with pytest.raises(UserError, match=message):
            generator.generate(TEXTS, policy, threshold)
    with pytest.raises(UserError, match="batch size 0"):
        generator.generate(TEXTS, batch_size=0)
    with pytest.raises(UserError, match="no device 'gpu'"):
        load_generator(generator.saved.home, "gpu")
    assert generator.generate([]) == []


def test_what_is_asked_takes_the_place_of_what_is_stored(runs):
    saved = open_generator(runs["t5"])
    own = DecodingPolicy("keep", exit_layer=EXIT, threshold=SOME_LEAVE["t5"])
    assert saved.asked() == saved.asked("keep") == (own, None)
    assert saved.asked(threshold=0.7) == (replace(own, threshold=0.7), None)
    assert saved.asked("verify", 0.5) == (DecodingPolicy("verify", exit_layer=EXIT, threshold=0.5), None)
    assert saved.asked("static", exit_layer=1) == (DecodingPolicy("static", exit_layer=1), None)
    assert saved.asked("full") == (DecodingPolicy("full"), None)
    assert saved.asked("calm", 0.5) == (DecodingPolicy("calm", threshold=0.5), None)
    given = DecodingPolicy("roll_back", exit_layer=1, rollback=2.0)
    assert saved.asked(given, 0.3) == (replace(given, threshold=0.3), None)
    bare = open_generator(saved.home)
    assert bare.asked() == (DecodingPolicy("full"), None)
    assert bare.asked("keep", 0.5)[0].exit_layer == EXIT, "the one that it was trained for"


def test_a_goal_that_is_not_reached_lets_no_token_leave(tmp_path):
    policy, _ = open_generator(save_run(tmp_path, chosen=(1.0, False))).asked()
    assert policy == DecodingPolicy("keep", exit_layer=EXIT, threshold=1.0)


def test_an_estimated_threshold_goes_on_learning_until_one_is_given(tmp_path):
    run = save_run(tmp_path, method=METHOD | {"adaptive": "reference"}, chosen=(None, True))
    generator = load_generator(run)
    assert generator.saved.asked()[1] == "reference"
    generator.generate(TEXTS[:2])
    generator.generate(TEXTS[2:])
    assert len(generator._own.adaptive.trajectory) == len(TEXTS)
    generator.generate(TEXTS, threshold=0.5)
    assert len(generator._own.adaptive.trajectory) == len(TEXTS)


def test_a_classifier_is_read_where_the_policy_asks_for_it(tmp_path):
    run = save_run(
        tmp_path, method={"training": "shallow_deep", "policy": "calm", "confidence": "classifier"}
    )
    home = tmp_path / "trainings/shallow_deep/train/model"
    generator = load_generator(run)
    with pytest.raises(UserError, match=r"needs one, and .* has no classifier\.safetensors"):
        generator.generate(TEXTS)
    save_classifier(AgreementClassifier(32), home)
    assert set(generator.generate(TEXTS, threshold=0.0)[0].depth) == {1}
    assert set(generator.generate(TEXTS, threshold=1.0)[0].depth) == {BLOCKS}


def test_texts_of_several_columns_fill_the_template(tmp_path):
    schema = TextSchema("qa", "squad_f1", 12, 8, None, "w1 {question} w2 {context} {question}")
    assert schema.text == ("question", "context")
    assert TextSchema.from_dict(schema.to_dict()) == schema
    generator = load_generator(save_tiny(tmp_path / "qa", schema=schema))
    plain = load_generator(save_tiny(tmp_path / "plain"))
    asked, same = (
        generator.generate([("w3 w4", "w5 {question}")]),
        plain.generate(["w1 w3 w4 w2 w5 {question} w3 w4"]),
    )
    assert asked == same
    for texts in (["w3"], [("w3", "w4", "w5")]):
        with pytest.raises(UserError, match=r"which reads 2 strings \(question, context\)"):
            generator.generate(texts)
    with pytest.raises(UserError, match="the text is empty"):
        generator.generate([("", " ")])


# ---- folders -------------------------------------------------------------------------------------------------------


def test_folders_that_are_no_decoder_are_told_apart(runs, tmp_path):
    home = open_generator(runs["t5"]).home
    classifier = tmp_path / "classifier"
    classifier.mkdir()
    (classifier / "config.json").write_text(json.dumps({"kind": "multi_exit", "format": 1}))
    with pytest.raises(UserError, match=r"holds a classifier, which writes no texts; use .*predict"):
        load_generator(classifier)
    with pytest.raises(UserError, match="holds no decoder"):
        load_generator(tmp_path)
    with pytest.raises(UserError):
        load_predictor(home)

    def changed(name, change):
        copy = tmp_path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(home, copy)
        change(copy / name)
        with pytest.raises(UserError) as told:
            load_generator(copy)
        return str(told.value)

    assert "model.safetensors is missing or damaged" in changed(
        "model.safetensors", lambda f: f.write_bytes(b"x")
    )
    pickled = changed("model.safetensors", lambda f: f.rename(f.with_name("pytorch_model.bin")))
    assert "a pickle, which may run code" in pickled
    assert "not valid JSON" in changed("trained_for.json", lambda f: f.write_text("{"))
    assert "'metric' is missing" in changed("trained_for.json", lambda f: edit(f, "texts", {"task": "t"}))
    assert "format 9" in changed("decoding.json", lambda f: f.write_text('{"format": 9}'))
    assert "tokenizer" in changed("tokenizer.json", lambda f: f.write_text("{"))
    other = json.dumps(
        {"format": 1, "policy": {"kind": "keep", "exit_layer": 7}, "adaptive": None, "choices": []}
    )
    assert "exit_layer 7: the decoder has 4 blocks" in changed("decoding.json", lambda f: f.write_text(other))
    wild = other.replace('"exit_layer": 7', '"exit_layer": 2, "threshold": 1.5')
    assert "threshold 1.5" in changed("decoding.json", lambda f: f.write_text(wild))


def edit(file, key, value):
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))


def test_a_tokenizer_of_another_model_is_told(tmp_path):
    generator = load_generator(save_tiny(tmp_path))
    generator.tokenizer.add_tokens([f"x{number}" for number in range(20)])
    with pytest.raises(UserError, match="the tokenizer gives no token, or one that the model does not know"):
        generator.generate(["w1 x19"])


def test_runs_that_are_not_whole_are_told(tmp_path):
    run = save_run(tmp_path)
    for name, message in (
        ("calibration/metrics.json", "calibrate the method first"),
        ("../trainings/shallow_deep/train/model/trained_for.json", "the model of .* is missing"),
    ):
        kept = (run / name).read_bytes()
        (run / name).unlink()
        with pytest.raises(UserError, match=message):
            open_generator(run)
        (run / name).write_bytes(kept)
    edit(run / "calibration/metrics.json", "version", 1)
    with pytest.raises(UserError, match="is a record of version 1"):
        open_generator(run)
    edit(run / "calibration/metrics.json", "version", 2)
    edit(run / "calibration/metrics.json", "params", {})
    with pytest.raises(UserError, match="its params name no method"):
        open_generator(run)
    edit(run / "assigned/model.json", "training", "../elsewhere")
    with pytest.raises(UserError, match="names no training"):
        open_generator(run)
