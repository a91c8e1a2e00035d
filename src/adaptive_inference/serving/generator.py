"""Write texts with a saved decoder: by which policy, and how deep each token went. Loads torch with a model only.

Shapes: N texts, T tokens of one, L decoder blocks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptive_inference.engine.stream import WINDOW_BATCHES
from adaptive_inference.errors import UserError
from adaptive_inference.serving.generator_dir import SavedGenerator, open_generator
from adaptive_inference.serving.predictor import Text, check_batch_size, check_text, device_of
from adaptive_inference.tasks.text_schema import TextSchema

if TYPE_CHECKING:
    from adaptive_inference.decoding import DecodingPolicy, EarlyExitDecoding
    from adaptive_inference.decoding.trace import Trace


@dataclass(frozen=True)
class Generated:
    """What was written for one text.

    Attributes
    ----------
    text
        Without special tokens.
    tokens, ids
        (T,), as the tokenizer spells and numbers them, the end token included where there is one. An id of the model's that
        the tokenizer has no token for is spelled as nothing.
    depth
        (T,), blocks that each token came from, of L.
    ended
        Whether it ended by itself, rather than at ``max_new_tokens``.
    cut
        Whether the text to read was longer than the model reads, so that its end was left out.
    blocks
        Decoder blocks computed per token, those of tokens that caught up later, were taken back or are padding included;
        of all texts of its batch together. L of the full model.
    flops_share
        FLOPs of encoder and decoder, over those of plain ``generate`` for the same tokens, one text at a time; of all
        texts of its batch together.
    """

    text: str
    tokens: list[str]
    ids: list[int]
    depth: list[int]
    ended: bool
    cut: bool
    blocks: float
    flops_share: float


@dataclass(frozen=True)
class _Source:
    """A text to read: its ids, and whether its end was left out."""

    ids: tuple[int, ...]
    cut: bool


class Generator:
    """A decoder with its policy, ready to write; `load_generator` makes it.

    Attributes
    ----------
    saved
        What its folder says.
    schema
        What it reads and writes.
    num_blocks
        L.

    Raises
    ------
    UserError
        A file of the folder is missing, damaged, or does not go with the others.
    """

    def __init__(self, saved: SavedGenerator, device: str = "cpu") -> None:
        from adaptive_inference.decoders.families import adapter_for
        from adaptive_inference.generation.cost import DecoderCost
        from adaptive_inference.generation.model_dir import load_decoder
        from adaptive_inference.generation.texts import check_context
        from adaptive_inference.generation.tokenizer import checked

        place = device_of(device)
        loaded = load_decoder(saved.home)
        self.saved, self.schema = saved, saved.schema
        self.model = loaded.model.to(place)
        self.tokenizer = checked(loaded.tokenizer, str(saved.home))
        decoder = adapter_for(self.model)
        self.encoder_decoder, self.num_blocks = decoder.encoder_decoder, decoder.num_blocks
        self._vocabulary = self.model.get_input_embeddings().num_embeddings
        check_context(self.schema, decoder.longest, encoder_decoder=self.encoder_decoder)
        self._cost = DecoderCost(self.model)
        self._own: EarlyExitDecoding | None = None

    def generate(
        self,
        texts: Sequence[Text],
        policy: str | DecodingPolicy | None = None,
        threshold: float | None = None,
        batch_size: int = 1,
        max_new_tokens: int | None = None,
    ) -> list[Generated]:
        """Write the answer to each text, greedily.

        Parameters
        ----------
        texts
            Strings, or as many strings for each as the task's template has columns.
        policy
            ``full``, ``static``, ``calm``, ``keep``, ``roll_back``, ``verify``, or a `DecodingPolicy`. Default: the
            folder's. Other than that needs a threshold, where the policy reads one.
        threshold
            In [0, 1]: a token leaves early where its confidence is greater. Default: the calibrated one. Where the folder's
            is estimated as texts are written, it goes on learning from one call to the next.
        batch_size
            Texts at once, of like length.
        max_new_tokens
            Default: the longest target in training.

        Raises
        ------
        UserError
            A text is missing, empty or of the wrong shape (then none is answered), or a setting cannot be used.
        """
        if isinstance(texts, str):
            raise UserError("`texts` is one string; give a list of them")
        for row, text in enumerate(texts):
            try:
                source_of(text, self.schema)
            except UserError as error:
                raise UserError(f"text {row}: {error}") from None
        return list(self.stream(texts, policy, threshold, batch_size, max_new_tokens))

    def stream(
        self,
        texts: Iterable[Text],
        policy: str | DecodingPolicy | None = None,
        threshold: float | None = None,
        batch_size: int = 1,
        max_new_tokens: int | None = None,
    ) -> Iterator[Generated]:
        """Answer texts as they come, in their order: each at once, or with larger batches some batches' worth together."""
        check_batch_size(batch_size)
        most = check_length(max_new_tokens, self.schema)
        decoding = self._decoding(policy, threshold)
        return self._answered(iter(texts), decoding, batch_size, most)

    def _answered(
        self, waiting: Iterator[Text], decoding: EarlyExitDecoding, batch_size: int, most: int
    ) -> Iterator[Generated]:
        while group := list(islice(waiting, batch_size if batch_size == 1 else WINDOW_BATCHES * batch_size)):
            sources = self._sources([source_of(text, self.schema) for text in group])
            order = sorted(range(len(sources)), key=lambda place: len(sources[place].ids))
            found: dict[int, Generated] = {}
            for start in range(0, len(order), batch_size):
                places = order[start : start + batch_size]
                written = self._write([sources[place] for place in places], decoding, most)
                found.update(zip(places, written, strict=True))
            yield from (found[place] for place in range(len(group)))

    def _decoding(self, policy: str | DecodingPolicy | None, threshold: float | None) -> EarlyExitDecoding:
        from adaptive_inference.decoding import EarlyExitDecoding
        from adaptive_inference.generation.classifier import CLASSIFIER_FILE, load_classifier

        chosen, adaptive = self.saved.asked(policy, threshold)
        if adaptive is not None and self._own is not None:
            return self._own
        classifier = None
        if chosen.measure == "classifier":
            classifier = load_classifier(self.saved.home)
            if classifier is None:
                raise UserError(
                    f"confidence 'classifier' needs one, and {self.saved.home} has no {CLASSIFIER_FILE}; train it, or take "
                    "another confidence"
                )
            classifier.to(self.model.device)
        if adaptive is None:
            return EarlyExitDecoding(chosen, classifier=classifier)
        from adaptive_inference.decoding import AdaptiveThreshold  # needs scipy, which a deployment may lack

        self._own = EarlyExitDecoding(chosen, AdaptiveThreshold(reference=adaptive == "reference"))
        return self._own

    def _sources(self, texts: list[str]) -> list[_Source]:
        from adaptive_inference.generation.texts import encode_sources

        most, kind = self.schema.max_source, self.encoder_decoder
        whole, _ = encode_sources(texts, self.tokenizer, _ANY_LENGTH, encoder_decoder=kind)
        known = self._vocabulary
        if any(max(ids, default=known) >= known for ids in whole):
            raise UserError(
                "the tokenizer gives no token, or one that the model does not know, and is of another model; put the "
                "model's own tokenizer files into its folder"
            )
        long = [place for place, ids in enumerate(whole) if len(ids) > most]
        short, _ = encode_sources(
            [texts[place] for place in long], self.tokenizer, most, encoder_decoder=kind
        )
        kept = dict(zip(long, short, strict=True))
        return [_Source(kept.get(place, ids), place in kept) for place, ids in enumerate(whole)]

    def _write(self, sources: list[_Source], decoding: EarlyExitDecoding, most: int) -> list[Generated]:
        """Answer the texts of one batch."""
        import torch

        from adaptive_inference.generation.texts import collate_sources, written_texts

        pad = self.tokenizer.pad_token_id
        batch = collate_sources([row.ids for row in sources], pad, encoder_decoder=self.encoder_decoder)
        with torch.inference_mode():
            ids_BC = self.model.generate(
                **{name: tensor.to(self.model.device) for name, tensor in batch.items()},
                max_new_tokens=most, do_sample=False, num_beams=1, pad_token_id=pad,
                custom_generate=decoding,
            )  # fmt: skip
        trace = decoding.trace
        columns = batch["input_ids"].shape[1]
        begin = 1 if self.encoder_decoder else columns
        rows = [
            ids[: len(row.depth)] for ids, row in zip(ids_BC[:, begin:].tolist(), trace.rows, strict=True)
        ]
        cost = self._costs(sources, trace, begin, columns, decoding)
        ends = self._ends()
        return [
            Generated(
                text, self._tokens(ids), ids, list(row.depth), ids[-1] in ends, source.cut, **cost
            )
            for text, ids, row, source in zip(
                written_texts(rows, self.tokenizer), rows, trace.rows, sources, strict=True
            )
        ]  # fmt: skip

    def _costs(
        self, sources: list[_Source], trace: Trace, begin: int, columns: int, decoding: EarlyExitDecoding
    ) -> dict[str, Any]:
        """Return blocks per token of a batch, and its share of the FLOPs of its texts by plain ``generate``."""
        from adaptive_inference.generation.cost import blocks_run

        cost = self._cost
        read = columns if self.encoder_decoder else 0
        own = cost.decoder(trace, read, decoding.classifier) + int(
            cost.encoder([columns] * len(sources)).sum()
        )
        full = int(cost.encoder([len(row.ids) for row in sources]).sum())
        for source, row in zip(sources, trace.rows, strict=True):
            length = len(source.ids)
            prompt, read = (1, length) if self.encoder_decoder else (length, 0)
            full += cost.decoder(cost.plain(prompt, len(row.depth)), read)
        blocks = blocks_run(trace, self.num_blocks, begin) / trace.tokens
        return {"blocks": blocks, "flops_share": own / full}

    def _tokens(self, ids: list[int]) -> list[str]:
        return [token or "" for token in self.tokenizer.convert_ids_to_tokens(ids)]

    def _ends(self) -> set[int]:
        own = self.model.generation_config.eos_token_id
        return set(own) if isinstance(own, list) else {own, self.tokenizer.eos_token_id}


def load_generator(folder: str | Path, device: str = "cpu", revision: str | None = None) -> Generator:
    """Load a saved decoder, ready to write texts.

    Parameters
    ----------
    folder
        An exported model's folder, a method's run folder, a training's model folder, or a model's id on a hub.
    device
        ``cpu``, ``cuda``, or ``auto``: CUDA where there is one.
    revision
        Of an id; see `hub.model_folder`.

    Raises
    ------
    UserError
        There is no decoder that this release can read, or there is no such device.

    Examples
    --------
    >>> generator = load_generator("exported")  # doctest: +SKIP
    >>> answer = generator.generate(["ein Hund im Schnee"])[0]  # doctest: +SKIP
    >>> answer.text, answer.depth  # doctest: +SKIP
    ('a dog in the snow', [2, 2, 6, 2, 2, 6])
    """
    from adaptive_inference.serving.hub import model_folder

    return Generator(open_generator(model_folder(folder, revision)), device)


#: More tokens than any text has.
_ANY_LENGTH = 2**62


def source_of(text: Text, schema: TextSchema) -> str:
    """Return what the model reads of a user's text or texts.

    Raises
    ------
    UserError
        They are not as many strings as the task reads, hold half a character, or are all empty.
    """
    texts = check_text(text, schema)
    if not any(item.strip() for item in texts):
        raise UserError("the text is empty; leave it out, or fill it")
    source = schema.source(texts)
    try:
        source.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"the text holds half a character ({error.reason}); mend it") from error
    return source


def check_length(max_new_tokens: int | None, schema: TextSchema) -> int:
    """Return how many tokens to write at most, or refuse what is no number of them."""
    if max_new_tokens is None:
        return schema.max_target
    if not isinstance(max_new_tokens, int) or isinstance(max_new_tokens, bool) or max_new_tokens < 1:
        raise UserError(f"max_new_tokens {max_new_tokens!r} must be a whole number from 1, e.g. 64")
    return max_new_tokens
