"""Models that were saved in a format answer as they did when they were saved: what docs/compatibility.md promises.

The folders below ``saved_models`` are never written again: a new format gets a folder of its own. Their weights are random,
their thresholds far from every score, so that no processor's rounding moves a row to another exit.
"""

from pathlib import Path

import numpy as np
import pytest

from adaptive_inference import load_predictor
from adaptive_inference.exits.layout import FORMAT, MULTI_EXIT, MULTI_MODEL, open_model
from adaptive_inference.files import read_json

HOME = Path(__file__).parent / f"saved_models/format{FORMAT}"
SAVED = read_json(HOME / "answers.json")


@pytest.mark.parametrize("answer", SAVED["answers"], ids=lambda answer: f"{answer['model']}-{answer['rule']}")
def test_a_saved_model_still_gives_the_labels_and_exits_that_it_gave(answer):
    predictor = load_predictor(HOME / answer["model"], answer["rule"], answer["threshold"])
    found = predictor.predict(SAVED["texts"])
    assert found.labels == answer["labels"]
    assert found.exit_layers.tolist() == answer["exit_layers"]
    np.testing.assert_allclose(found.probabilities, answer["probabilities"], rtol=0, atol=1e-4)


def test_the_saved_models_are_one_of_each_kind_and_use_all_their_exits():
    kinds = {name: open_model(HOME / name).config for name in ("model", "cascade")}
    assert [config["kind"] for config in kinds.values()] == [MULTI_EXIT, MULTI_MODEL]
    for name, config in kinds.items():
        own = [answer["exit_layers"] for answer in SAVED["answers"] if answer["model"] == name]
        assert {layer for layers in own for layer in layers} == set(config["exits"])
