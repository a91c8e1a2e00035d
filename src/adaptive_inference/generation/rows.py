"""The splits of a text task as rows to train on."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from adaptive_inference.decoders.families import adapter_for
from adaptive_inference.generation.texts import (
    Pair,
    collate_pairs,
    collate_sources,
    encode_pairs,
    written_texts,
)
from adaptive_inference.generation.trainer import TextFeature, TextRows
from adaptive_inference.tasks.text_quality import score_texts
from adaptive_inference.tasks.text_schema import TextSchema, load_text_split

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def training_rows(
    folder: Path, tokenizer: PreTrainedTokenizerBase, encoder_decoder: bool, batch_size: int
) -> TextRows:
    """Return what a training may see of a task: its training and development rows.

    The best epoch is that of the best development quality, of texts written with all blocks.

    Parameters
    ----------
    folder
        A ``splits`` folder.
    tokenizer, encoder_decoder
        Of the model.
    batch_size
        Development rows that are written together.
    """
    schema = TextSchema.load(folder)
    development = load_text_split(folder, "development")
    encode = partial(encode_pairs, tokenizer=tokenizer, schema=schema, encoder_decoder=encoder_decoder)
    rows, scored = encode(load_text_split(folder, "train")).pairs, encode(development).pairs

    def collate(features: list[TextFeature]) -> dict[str, Tensor]:
        pairs = [Pair(row["id"], row["input_ids"], row["labels"]) for row in features]
        return collate_pairs(pairs, tokenizer.pad_token_id, encoder_decoder=encoder_decoder)

    def quality(model: PreTrainedModel) -> float:
        texts = write_plain(model, tokenizer, [pair.source for pair in scored], schema.max_target, batch_size)
        return score_texts(schema.metric, texts, [example.accepted for example in development]).quality

    return TextRows(_features(rows), _features(scored), collate, (schema.metric, quality))


@torch.inference_mode()
def write_plain(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sources: Sequence[Sequence[int]],
    max_target: int,
    batch_size: int,
) -> list[str]:
    """Return what plain greedy ``generate`` writes for sources, in their order.

    Parameters
    ----------
    sources
        Ids, see `texts.encode_sources`.
    max_target
        Tokens written at most.
    batch_size
        Sources of like length that are written together.
    """
    decoder = adapter_for(model)
    order = sorted(range(len(sources)), key=lambda place: len(sources[place]))
    texts = [""] * len(sources)
    for start in range(0, len(order), batch_size):
        places = order[start : start + batch_size]
        batch = collate_sources(
            [sources[place] for place in places],
            tokenizer.pad_token_id,
            encoder_decoder=decoder.encoder_decoder,
        )
        ids_BC = model.generate(
            **{name: tensor.to(model.device) for name, tensor in batch.items()},
            max_new_tokens=max_target,
            do_sample=False,
            num_beams=1,
            past_key_values=decoder.plain_cache(),
        )
        begin = 1 if decoder.encoder_decoder else batch["input_ids"].shape[1]
        for place, text in zip(places, written_texts(ids_BC[:, begin:].tolist(), tokenizer), strict=True):
            texts[place] = text
    return texts


def _features(pairs: Sequence[Pair]) -> list[TextFeature]:
    return [{"id": pair.id, "input_ids": pair.source, "labels": pair.target} for pair in pairs]
