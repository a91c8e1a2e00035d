"""What the settings of an encoder tell without torch, which takes seconds to load: enough to pass most params."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adaptive_inference.backbones._tiny import tiny_settings
from adaptive_inference.backbones.packaged import packaged
from adaptive_inference.by_name import module_names
from adaptive_inference.files import read_object
from adaptive_inference.settings.inputs import weights_kind

#: Positions that a family may keep for itself, beyond the one of its padding.
KEPT = 2
#: Families of `Backbone.reduces_tokens`.
REDUCE_TOKENS = ("albert", "bert", "distilbert", "mpnet", "roberta")


def surely_fits(
    weights: str,
    exits: Sequence[int],
    max_length: int,
    blockwise: bool,
    lasts: Sequence[int] = (),
    reduces: bool = False,
) -> bool:
    """Say whether an encoder has these exits, positions and blocks, whatever its family does with its settings.

    No more than a short cut: where it does not answer yes, `load.check_fit` and `load.check_gradient` decide.

    Parameters
    ----------
    weights
        As the params name them, no hub id.
    exits
        Exit layers, at least one.
    max_length
        Longest input, in tokens.
    blockwise
        Blocks need layers of their own.
    lasts
        Exits that must follow the last layer.
    reduces
        Rows must be able to lose tokens of their own.
    """
    try:
        settings = _settings(weights)
        layers, positions = int(settings["num_hidden_layers"]), int(settings["max_position_embeddings"])
        longest = positions - int(settings["pad_token_id"]) - KEPT
        family = settings["model_type"].replace("-", "_")
        known = family in (REDUCE_TOKENS if reduces else module_names("backbones"))
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError, OSError):
        return False
    shares = blockwise and "num_hidden_groups" in settings
    known = known and not shares and all(last == layers for last in lasts)
    return known and min(exits) >= 1 and max(exits) <= layers and max_length <= longest


def _settings(weights: str) -> dict[str, Any]:
    kind = weights_kind(weights)
    if kind == "random":
        family = weights.removeprefix("random:")
        return tiny_settings(family) | {"model_type": family}
    folder = packaged(weights).place() if kind == "packaged" else Path(weights)
    return read_object(folder / "config.json")
