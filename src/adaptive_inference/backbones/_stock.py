"""What transformers makes of files that a stranger may have written: a configuration, a tokenizer.

A checkpoint's and a saved model's both pass here. Nothing that comes with them is run, and nothing is fetched for them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from adaptive_inference.backbones.packaged import WEIGHT_FILE
from adaptive_inference.errors import UserError, blamed_on
from adaptive_inference.files import read_object

TOKENIZER_CONFIG = "tokenizer_config.json"
#: How a layer may attend: any other name makes transformers fetch a kernel, or need a library, and runs its code.
ATTENTION = ("eager", "sdpa")
#: Keys by which a configuration does more than describe an encoder, or asks what inputs cannot meet: why none is followed.
_REFUSED = {
    "quantization_config": "only weights that are plain numbers are read",
    "fusion_config": "layers are run as they are, not swapped for others",
    "chunk_size_feed_forward": "it need not divide the length of inputs",
    "transformers_weights": f"weights are read from {WEIGHT_FILE} alone",
}
_TOKENIZER_FIX = "save it there again by AutoTokenizer.from_pretrained(...).save_pretrained(FOLDER)"


def stock_config(body: Mapping[str, Any], file: Path) -> PreTrainedConfig:
    """Return the configuration of an encoder that a file describes.

    Parameters
    ----------
    body
        What the file says of it, ``model_type`` included.
    file
        For messages.

    Raises
    ------
    UserError
        A key is missing, of no use, or asks for more than an encoder.
    """
    fix = "train or export the model again, or fetch its folder again"
    with blamed_on(file, fix):
        config = AutoConfig.for_model(**body)
        # Asked of the object, which transformers will ask too: several keys of a file can set one attribute.
        for key, why in _REFUSED.items():
            if getattr(config, key, None):
                raise UserError(f"{file}: {key!r} cannot be followed, since {why}; use a model without it")
        if config._attn_implementation not in (None, *ATTENTION):
            raise UserError(
                f"{file} asks for the attention {config._attn_implementation!r}, which may run code from elsewhere; "
                f"allowed: {', '.join(ATTENTION)}: take attn_implementation out of the file"
            )
        if config.dtype is not None:
            config.dtype = torch.float32  # what layers compute in, whatever the weights are kept in
    return config


def stock_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a folder.

    Raises
    ------
    UserError
        There is none, it is damaged, or it needs a library that is missing or code of its own.
    """
    if (folder / TOKENIZER_CONFIG).is_file():
        read_object(folder / TOKENIZER_CONFIG, _TOKENIZER_FIX)
    with quiet(), blamed_on(f"the tokenizer of {folder}", _TOKENIZER_FIX):
        # Not refused, transformers would ask on standard input whether to run the folder's code.
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        files = {"tokenizer.json", *tokenizer.vocab_files_names.values()}
    # transformers makes an empty one where a folder holds no vocabulary, and every word would be unknown
    if not any((folder / name).is_file() for name in files):
        raise UserError(f"{folder} holds no tokenizer; {_TOKENIZER_FIX}")
    return tokenizer


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence the loading report: layers and heads left out on purpose are no news."""
    level, bar = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bar:
            transformers_logging.enable_progress_bar()
