"""The smoke preset, and copies of it with one value changed."""

import copy
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
SMOKE = yaml.safe_load((ROOT / "presets/smoke.yaml").read_text())


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
