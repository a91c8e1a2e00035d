"""The smoke preset, and copies of it with one value changed."""

import copy
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
SMOKE = yaml.safe_load((ROOT / "presets/smoke.yaml").read_text())


def without_removal():
    """Return the smoke preset without the methods that remove tokens."""
    body = copy.deepcopy(SMOKE)
    stages = body["trained_by"]
    for name in stages["train_adapler"] + stages["train_adapler_exits"]:
        del body["methods"][name]
    stages |= {"train_adapler": [], "train_adapler_exits": []}
    return body | {"token_scores": [], "pruned_body": "", "explanations": {}}


def changed(path, value):
    """Return the smoke preset with one value set (or removed, for None)."""
    body = copy.deepcopy(SMOKE)
    *parents, last = path.split(".")
    at = body
    for part in parents:
        at = at[part]
    if value is None:
        del at[last]
    else:
        at[last] = value
    return body
