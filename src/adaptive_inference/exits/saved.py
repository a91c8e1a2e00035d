"""Models on disk.

A model folder holds ``config.json`` (its ``kind`` says what it is), ``model.safetensors``, ``schema.json``, the
tokenizer's files, ``README.md`` (the model card) and, once thresholds are calibrated, ``calibration.json``. It names
no path, host or time: equal models give equal bytes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import safetensors
import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedTokenizerBase

from adaptive_inference.backbones._heads import head_counts, keep_heads
from adaptive_inference.backbones.base import Backbone
from adaptive_inference.backbones.load import WEIGHT_FILE, adapter
from adaptive_inference.errors import UserError
from adaptive_inference.exits.head import AttentionHead, make_heads
from adaptive_inference.exits.layout import CALIBRATION_FILE, CARD_FILE, MULTI_EXIT, MULTI_MODEL, locate
from adaptive_inference.exits.model import ExitModule, MultiExitModel
from adaptive_inference.exits.weights import load_weights, save_weights
from adaptive_inference.files import read_json, write_json, write_text
from adaptive_inference.tasks.schema import SCHEMA_FILE, Schema

if TYPE_CHECKING:
    from adaptive_inference.exits.cascade import MultiModel

Model = TypeVar("Model", bound=ExitModule)


def load_model(folder: str | Path, expected: type[Model] = ExitModule) -> Model:
    """Load a model folder, or a method's run folder (``train/model`` and ``calibration/calibration.json``).

    Raises
    ------
    UserError
        The folder holds no model of this project, or one of another kind than ``expected``.
    """
    folder = Path(folder)
    home, calibration = locate(folder)
    body = read_json(home / "config.json")
    kind = body.get("kind")
    if kind == MULTI_EXIT:
        model: ExitModule = _load_multi_exit(home, body)
    elif kind == MULTI_MODEL:
        model = _load_multi_model(home, body)
    else:
        raise UserError(
            f"{home}/config.json is of kind {kind!r}; a model saved by this project is {MULTI_EXIT} or {MULTI_MODEL}"
        )
    if not isinstance(model, expected):
        raise UserError(
            f"{home} holds a {type(model).__name__}, not a {expected.__name__}; load it as what it is"
        )
    model.calibration = read_json(calibration) if calibration else None
    return model.eval()


def save_multi_exit(model: MultiExitModel, folder: Path, card: bool = True) -> None:
    """Write one multi-exit model; files of an earlier model in the folder are replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    head = model.heads[-1]
    attentive = isinstance(model.heads[0], AttentionHead)
    body = {
        "kind": MULTI_EXIT,
        "exits": list(model.exits),
        "num_layers": model.backbone.num_layers,
        "outputs": head.classifier.out_features,
        "pooler": head.pooler,
        "read": head.read,
        "inner_head": "attention" if attentive else "as_backbone",
        "certainty": model.certainty_heads is not None,
        "backbone": _plain_config(model.backbone),
    }
    if counts := head_counts(model.backbone):
        body["attention_heads"] = counts  # of each layer; absent: all that the backbone's configuration says
    write_json(folder / "config.json", body)
    save_weights(model, folder / WEIGHT_FILE)
    save_companions(model, folder, card)


def save_companions(model: ExitModule, folder: Path, card: bool = True) -> None:
    """Write what goes with any model: schema, tokenizer, calibration, card; what it lacks is no earlier model's."""
    for name in (SCHEMA_FILE, CALIBRATION_FILE, CARD_FILE):
        (folder / name).unlink(missing_ok=True)
    if model.schema is not None:
        model.schema.save(folder)
    if model.tokenizer is not None:
        save_tokenizer(model.tokenizer, folder)
    if model.calibration is not None:
        write_json(folder / CALIBRATION_FILE, model.calibration)
    if card and model.schema is not None:
        from adaptive_inference.serving.card import model_card

        write_text(folder / CARD_FILE, model_card(model))


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write the tokenizer's files without the path that it was loaded from."""
    if hasattr(tokenizer, "backend_tokenizer"):  # each call leaves its padding and truncation behind
        tokenizer.backend_tokenizer.no_padding()
        tokenizer.backend_tokenizer.no_truncation()
    tokenizer.save_pretrained(folder)
    file = folder / "tokenizer_config.json"
    body = read_json(file)
    for key in ("name_or_path", "is_local", "local_files_only", "tokenizer_file", "special_tokens_map_file"):
        body.pop(key, None)
    write_json(file, body)


def _plain_config(backbone: Backbone) -> dict[str, Any]:
    """Return the stock configuration without the path that it was loaded from, and without a stock head's labels."""
    body = json.loads(backbone.config.to_json_string(use_diff=False))
    dropped = ("architectures", "id2label", "label2id", "problem_type", "transformers_version")
    return {key: value for key, value in body.items() if not key.startswith("_") and key not in dropped}


def _load_multi_exit(home: Path, body: dict[str, Any]) -> MultiExitModel:
    try:
        with torch.random.fork_rng(devices=[]):
            model = _empty_model(home, body)
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{home}/config.json lacks or mistypes {error}; train or export the model again"
        ) from error
    file = home / WEIGHT_FILE
    try:
        load_weights(model, file)
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"{file} is missing or damaged ({error}); train or export the model again") from error
    except RuntimeError as error:
        raise UserError(
            f"{file} does not fit config.json beside it: {str(error).splitlines()[-1].strip()}"
        ) from error
    return model


def _empty_model(home: Path, body: dict[str, Any]) -> MultiExitModel:
    """Make the model that the configuration describes; its weights are overwritten next."""
    settings = dict(body["backbone"])
    family = settings.pop("model_type")
    stock = AutoModel.from_config(AutoConfig.for_model(family, **settings))
    backbone = adapter(family)(stock, body["num_layers"])
    if counts := body.get("attention_heads"):
        for layer, count in zip(backbone.layers, counts, strict=True):
            keep_heads(layer, range(count))
    width, recipe = backbone.hidden_size, backbone.head_recipe
    heads = make_heads(
        len(body["exits"]), width, body["outputs"], body["pooler"], body["read"], recipe, body["inner_head"]
    )
    pooler = torch.nn.Linear(width, width) if body["pooler"] == "shared" else None
    sure = [torch.nn.Linear(width, 1) for _ in body["exits"]] if body["certainty"] else None
    return MultiExitModel(backbone, body["exits"], heads, pooler, sure, *load_companions(home))


def load_companions(home: Path) -> tuple[Schema | None, PreTrainedTokenizerBase | None]:
    """Read schema and tokenizer where the folder holds them."""
    schema = Schema.load(home) if (home / SCHEMA_FILE).is_file() else None
    has_tokenizer = (home / "tokenizer_config.json").is_file()
    if not has_tokenizer:
        return schema, None
    # Not asked for, transformers would ask on standard input whether to run the folder's code.
    return schema, AutoTokenizer.from_pretrained(home, local_files_only=True, trust_remote_code=False)


def save_multi_model(model: MultiModel, folder: Path) -> None:
    """Write a cascade: ``config.json`` and one folder per member, named by its layers."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", {"kind": MULTI_MODEL, "exits": list(model.exits)})
    for member in model.members:
        save_multi_exit(member, folder / str(member.exits[0]), card=False)
    save_companions(model, folder)


def _load_multi_model(home: Path, body: dict[str, Any]) -> MultiModel:
    from adaptive_inference.exits.cascade import MultiModel

    return MultiModel([load_model(home / str(layer), MultiExitModel) for layer in body["exits"]])
