"""The parts of a model on disk; `model` and `cascade` put them together.

A model folder holds ``config.json`` (its ``kind`` says what it is), ``model.safetensors``, ``schema.json``, the
tokenizer's files and, once thresholds are calibrated, ``calibration.json``. It names no path, host or time: equal models
give equal bytes.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import nn
from transformers import AutoModel, PreTrainedTokenizerBase
from transformers.tokenization_utils_base import (
    ADDED_TOKENS_FILE,
    FULL_TOKENIZER_FILE,
    SPECIAL_TOKENS_MAP_FILE,
)

from adaptive_inference.backbones._heads import head_counts, keep_heads
from adaptive_inference.backbones._stock import TOKENIZER_CONFIG, stock_config, stock_tokenizer
from adaptive_inference.backbones.base import Backbone
from adaptive_inference.backbones.load import WEIGHT_FILE, adapter
from adaptive_inference.errors import UserError, blamed_on
from adaptive_inference.exits.head import AttentionHead, ExitHead, make_heads
from adaptive_inference.exits.layout import (
    CALIBRATION_FILE,
    CONFIG_FILE,
    FIX,
    FORMAT,
    MULTI_EXIT,
    open_model,
)
from adaptive_inference.exits.weights import load_weights
from adaptive_inference.files import read_json, write_json
from adaptive_inference.tasks.schema import SCHEMA_FILE, Schema
from adaptive_inference.token_reduction.reduction import TokenReduction

#: All that a tokenizer may be made of, whoever saved it, but the vocabulary files of its family.
_TOKENIZER_FILES = (
    TOKENIZER_CONFIG,
    FULL_TOKENIZER_FILE,
    SPECIAL_TOKENS_MAP_FILE,
    ADDED_TOKENS_FILE,
)


def save_config(folder: Path, kind: str, body: dict[str, Any]) -> None:
    """Write ``config.json``, in place of whatever model the folder held."""
    _remove_earlier(folder)
    write_json(folder / CONFIG_FILE, {"kind": kind, "format": FORMAT, **body})


def _remove_earlier(folder: Path) -> None:
    """Remove what an earlier model left in the folder; files of another origin stay, such as a checkpoint's tokenizer."""
    for name in (SCHEMA_FILE, CALIBRATION_FILE):  # names of our own
        (folder / name).unlink(missing_ok=True)
    if not (folder / CONFIG_FILE).is_file():
        return
    with contextlib.suppress(UserError):  # a configuration of another origin: what belongs to it is not known
        earlier = open_model(folder).config
        for name in _TOKENIZER_FILES:
            (folder / name).unlink(missing_ok=True)
        if earlier["kind"] == MULTI_EXIT:
            (folder / WEIGHT_FILE).unlink(missing_ok=True)
        else:
            for layer in earlier["exits"]:
                shutil.rmtree(folder / str(layer), ignore_errors=True)


def save_companions(
    folder: Path,
    schema: Schema | None,
    tokenizer: PreTrainedTokenizerBase | None,
    calibration: dict[str, Any] | None,
) -> None:
    """Write what goes with any model."""
    if schema is not None:
        schema.save(folder)
    if tokenizer is not None:
        save_tokenizer(tokenizer, folder)
    if calibration is not None:
        write_json(folder / CALIBRATION_FILE, calibration)


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write the tokenizer's files without the path that it was loaded from."""
    if hasattr(tokenizer, "backend_tokenizer"):  # each call leaves its padding and truncation behind
        tokenizer.backend_tokenizer.no_padding()
        tokenizer.backend_tokenizer.no_truncation()
    tokenizer.save_pretrained(folder)
    file = folder / TOKENIZER_CONFIG
    body = read_json(file)
    for key in ("name_or_path", "is_local", "local_files_only", "tokenizer_file", "special_tokens_map_file"):
        body.pop(key, None)
    write_json(file, body)


def describe(
    backbone: Backbone,
    exits: Sequence[int],
    heads: Sequence[ExitHead | AttentionHead],
    certainty: bool,
    reduces: bool,
) -> dict[str, Any]:
    """Return what ``config.json`` says of a multi-exit model: all that `empty_parts` needs."""
    last = heads[-1]
    body = {
        "exits": list(exits),
        "num_layers": backbone.num_layers,
        "outputs": last.classifier.out_features,
        "pooler": last.pooler,
        "read": last.read,
        "inner_head": "attention" if isinstance(heads[0], AttentionHead) else "as_backbone",
        "certainty": certainty,
        "backbone": _plain_config(backbone),
    }
    if counts := head_counts(backbone):
        body["attention_heads"] = counts  # of each layer; absent: all that the backbone's configuration says
    if reduces:
        body["token_reduction"] = True
    return body


def _plain_config(backbone: Backbone) -> dict[str, Any]:
    """Return the stock configuration without the path that it was loaded from, and without a stock head's labels."""
    body = json.loads(backbone.config.to_json_string(use_diff=False))
    dropped = ("architectures", "id2label", "label2id", "problem_type", "transformers_version")
    return {key: value for key, value in body.items() if not key.startswith("_") and key not in dropped}


def empty_parts(home: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of the `MultiExitModel` that a folder describes; `fill` overwrites its weights.

    Raises
    ------
    UserError
        The configuration describes no model, or one that does not answer the task of the schema beside it.
    """
    file = home / CONFIG_FILE
    with blamed_on(file, FIX), torch.random.fork_rng(devices=[]):
        parts = _modules(config, file)
    companions = load_companions(home)
    if companions["schema"] is not None:
        _check_schema(companions["schema"], config["outputs"], parts["backbone"], home / SCHEMA_FILE)
    return parts | companions


def _check_schema(schema: Schema, outputs: int, backbone: Backbone, file: Path) -> None:
    if schema.outputs != outputs:
        raise UserError(
            f"{file} is of a task with {schema.outputs} outputs, and the model has {outputs}; {FIX}"
        )
    longest = backbone.longest(backbone.config)
    if schema.max_length > longest:
        raise UserError(
            f"{file}: max_length {schema.max_length} is beyond the {longest} positions of the model; {FIX}"
        )


def _modules(config: dict[str, Any], file: Path) -> dict[str, Any]:
    kind, layers = adapter(config["backbone"]["model_type"]), config["num_layers"]
    stock = stock_config(config["backbone"], file)
    total = stock.num_hidden_layers
    if layers > total or (layers < total and not kind.shares_layers):  # ALBERT cut short stays as it is
        raise UserError(f"num_layers is {layers}, and the backbone has {total}; {FIX}")
    backbone = kind(AutoModel.from_config(stock, trust_remote_code=False), layers)
    if counts := config.get("attention_heads"):
        for layer, count in zip(backbone.layers, counts, strict=True):
            keep_heads(layer, range(count))
    exits, width, pooler = config["exits"], backbone.hidden_size, config["pooler"]
    recipe, inner = backbone.head_recipe, config["inner_head"]
    return {
        "backbone": backbone,
        "exits": exits,
        "heads": make_heads(len(exits), width, config["outputs"], pooler, config["read"], recipe, inner),
        "pooler": nn.Linear(width, width) if pooler == "shared" else None,
        "certainty_heads": [nn.Linear(width, 1) for _ in exits] if config["certainty"] else None,
        "reduction": TokenReduction(exits[-1], width) if config.get("token_reduction") else None,
    }


def load_companions(home: Path) -> dict[str, Any]:
    """Read schema and tokenizer where the folder holds them."""
    schema = Schema.load(home) if (home / SCHEMA_FILE).is_file() else None
    tokenizer = stock_tokenizer(home) if (home / TOKENIZER_CONFIG).is_file() else None
    return {"schema": schema, "tokenizer": tokenizer}


def fill(model: nn.Module, home: Path) -> None:
    """Read a model's weights.

    Raises
    ------
    UserError
        The file is missing, damaged or of another model.
    """
    file = home / WEIGHT_FILE
    try:
        load_weights(model, file)
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"{file} is missing or damaged ({error}); {FIX}") from error
    except RuntimeError as error:
        raise UserError(
            f"{file} does not fit config.json beside it: {str(error).splitlines()[-1].strip()}"
        ) from error
