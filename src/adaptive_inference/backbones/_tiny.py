"""Tiny random encoders and a small tokenizer, made from code alone: for tests and the smoke preset.

Loads torch with the first of them, not before: the check of the params reads `tiny_settings`.
"""

from __future__ import annotations

import string
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

LAYERS, WIDTH, HEADS, POSITIONS = 4, 32, 4, 512
NO_TYPES = ("deberta", "mpnet")  #: families whose embeddings have no types of tokens
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

#: Frequent words that make one piece each; anything else falls into letters.
WORDS = """
the a an and or but not no never nor of to in on at by for from with as it its is was are were be been this that
these those he she they we you i his her their our your my me him them who which what when where while if so than
then there here very too quite really also just only even still all any some more most much many few one two three
good great fine nice best better excellent wonderful lovely brilliant superb amazing happy love loved like liked
bad poor awful terrible worst worse horrible dull boring weak sad hate hated dislike slow fast
film movie story plot actor acting scene music book food service place room meal show song game product phone
said says thought think felt found made make had has have do did does could would should will can critic friend
although though however yet because after before until about again always often sometimes day time people
first last next other own same new old big small long short
""".split()  # noqa: SIM905 - a list literal would be 150 lines
SUFFIXES = ("s", "ed", "ing", "ly", "er", "est", "n", "t", "al", "ful", "less", "ness", "able")


def vocabulary() -> dict[str, int]:
    """Return piece -> id: special tokens, characters, words, then continuations."""
    characters = string.ascii_lowercase + string.digits + string.punctuation
    pieces = [*SPECIAL, *characters, *WORDS]
    pieces += [f"##{piece}" for piece in (*characters, *SUFFIXES)]
    return {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}


def takes_token_types(family: str) -> bool:
    """Say whether the family embeds which of two texts a token belongs to."""
    return family in ("bert", "albert")


def tiny_tokenizer(family: str) -> PreTrainedTokenizerBase:
    """Return a lower-casing word-piece tokenizer that knows every ASCII text."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocab = vocabulary()
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, vocab[name]) for name in ("[CLS]", "[SEP]")],
    )
    names = ["input_ids", "token_type_ids", "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=POSITIONS,
        model_input_names=names if takes_token_types(family) else [names[0], names[2]],
    )


def tiny_config(family: str, **changes: object) -> PreTrainedConfig:
    """Return a configuration of 4 layers, 32 wide; ``changes`` override any key."""
    from transformers import AutoConfig

    return AutoConfig.for_model(family, **(tiny_settings(family) | changes))


def tiny_settings(family: str) -> dict[str, object]:
    """Return what a tiny encoder of a family says otherwise than the family's own defaults."""
    size = len(vocabulary())
    if family == "distilbert":
        settings: dict[str, object] = {
            "dim": WIDTH,
            "n_layers": LAYERS,
            "n_heads": HEADS,
            "hidden_dim": 2 * WIDTH,
        }
    else:
        settings = {
            "hidden_size": WIDTH,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "intermediate_size": 2 * WIDTH,
            "type_vocab_size": 2 if takes_token_types(family) else int(not family.startswith(NO_TYPES)),
        }
    if family == "albert":
        settings |= {"embedding_size": WIDTH // 2, "num_hidden_groups": 1}
    if family.startswith("deberta"):
        settings |= {
            "relative_attention": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_biased_input": False,
        }
    if family == "deberta-v2":
        settings |= {"position_buckets": 16, "norm_rel_ebd": "layer_norm", "share_att_key": True}
    settings |= {"vocab_size": size, "max_position_embeddings": POSITIONS + 2, "pad_token_id": 0}
    # A wider spread than BERT's 0.02, so that untrained logits differ from row to row.
    return settings | {"initializer_range": 0.1, "bos_token_id": 2, "eos_token_id": 3}
