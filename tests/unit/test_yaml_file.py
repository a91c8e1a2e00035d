"""Params files that are none, told in one sentence."""

from pathlib import Path

import pytest

from adaptive_inference.errors import UserError
from adaptive_pipeline.params import load_params

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"tasks: {caf\xe9: 1}", "is not UTF-8"), (b"? [a, b]\n: 1\n", "is no key; write a name")],
)
def test_a_file_that_is_no_params_file_is_refused_in_one_sentence(tmp_path, content, message):
    (tmp_path / "params.yaml").write_bytes(content)
    with pytest.raises(UserError, match=message):
        load_params(tmp_path / "params.yaml")


def test_a_key_given_twice_is_refused(tmp_path):
    text = (ROOT / "presets/smoke.yaml").read_text()
    (tmp_path / "params.yaml").write_text(
        text.replace("backbones:", "  tiers: {source: generated}\n\nbackbones:", 1)
    )
    with pytest.raises(UserError, match="'tiers' is given twice"):
        load_params(tmp_path / "params.yaml")
