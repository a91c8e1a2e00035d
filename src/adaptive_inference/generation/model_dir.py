"""A trained decoder on disk: stock files, and what it was trained for.

A folder holds ``config.json``, ``generation_config.json``, ``model.safetensors`` and the tokenizer's files as
transformers reads them, ``trained_for.json``, which is written last, and, where there are any, ``projection.safetensors``
(of the distillation; nothing needs it) and ``classifier.safetensors``. It names no path, host or time: equal models give
equal bytes.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from adaptive_inference.backbones._stock import stock_config, stock_tokenizer
from adaptive_inference.backbones.load import WEIGHT_FILE
from adaptive_inference.errors import UserError, blamed_on
from adaptive_inference.exits.saved import fill, save_tokenizer
from adaptive_inference.exits.weights import save_weights
from adaptive_inference.files import read_object, write_json
from adaptive_inference.generation.classifier import CLASSIFIER_FILE
from adaptive_inference.generation.layer_states import LayerStates
from adaptive_inference.generation.trained_for import FIX, TRAINED_FOR_FILE, TrainedFor, read_trained_for

PROJECTION_FILE = "projection.safetensors"
_CONFIG_FILE, _GENERATION_FILE = "config.json", "generation_config.json"


@dataclass(frozen=True)
class SavedDecoder:
    """What a folder holds; the model is in evaluation mode."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    trained_for: TrainedFor


def save_decoder(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    trained_for: TrainedFor,
    projection: nn.Module | None = None,
) -> None:
    """Write a model folder, in place of the decoder that it held; see the module's head.

    Raises
    ------
    OSError
        The disk is full.
    """
    for name in (TRAINED_FOR_FILE, PROJECTION_FILE, CLASSIFIER_FILE):
        (folder / name).unlink(missing_ok=True)
    config = _without_origin(model.config.to_json_string(use_diff=False))
    write_json(folder / _CONFIG_FILE, config | {"architectures": [type(model).__name__]})
    write_json(folder / _GENERATION_FILE, _without_origin(model.generation_config.to_json_string()))
    save_weights(model, folder / WEIGHT_FILE)
    save_tokenizer(tokenizer, folder)
    if projection is not None:
        save_weights(projection, folder / PROJECTION_FILE)
    write_json(folder / TRAINED_FOR_FILE, asdict(trained_for))


def _without_origin(body: str) -> dict[str, Any]:
    """Return a stock configuration without the path that it was loaded from and the version that wrote it."""
    kept = json.loads(body).items()
    return {key: value for key, value in kept if key != "transformers_version" and not key.startswith("_")}


def load_decoder(folder: Path) -> SavedDecoder:
    """Read what `save_decoder` wrote, on the CPU and in fp32; no code that comes with it runs, and no pickle is read.

    Raises
    ------
    UserError
        A file is missing, damaged, of a later version, or does not go with the others.
    """
    trained_for = read_trained_for(folder)
    config = stock_config(read_object(folder / _CONFIG_FILE, FIX), folder / _CONFIG_FILE)
    if config.model_type != trained_for.family:
        raise UserError(
            f"{folder / TRAINED_FOR_FILE} is of family {trained_for.family!r}, and config.json beside it describes "
            f"{config.model_type!r}; {FIX}"
        )
    pickles = sorted(file.name for ending in ("*.bin", "*.pt", "*.pth") for file in folder.glob(ending))
    if pickles and not (folder / WEIGHT_FILE).is_file():
        raise UserError(
            f"{folder} holds {pickles[0]}, a pickle, which may run code when read; save it as {WEIGHT_FILE} "
            "(model.save_pretrained does)"
        )
    kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    with blamed_on(folder / _CONFIG_FILE, FIX):
        model = kind.from_config(config, trust_remote_code=False)
        model.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    fill(model, folder)
    if (blocks := LayerStates(model).blocks) != trained_for.blocks:
        raise UserError(
            f"{folder / TRAINED_FOR_FILE} is of a decoder of {trained_for.blocks} blocks, and config.json beside it "
            f"describes {blocks}; {FIX}"
        )
    return SavedDecoder(model.eval(), stock_tokenizer(folder), trained_for)
