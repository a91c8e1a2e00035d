"""What decoding costs: exact matrix-multiplication FLOPs of what a run did, and blocks run.

Counted as the classifiers' are (`cost.flops`): the stock modules work on the meta device under
`torch.utils.flop_counter.FlopCounterMode`, two FLOPs per multiply-add; norms, softmax and look-ups count nothing. A pass
of T new columns over n keys and a source of S columns costs a sum of multiples of T, T n and T S, so counts of single
columns give every pass exactly. A pass pays for all its keys, those included that a mask hides from some of its columns:
the kernels multiply them. Columns that waited and are caught up later are a pass like any other, counted as what it costs.

Shapes: L decoder blocks, N requests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from adaptive_inference.cost.flops import by_length, meta_twin
from adaptive_inference.decoders.families import adapter_for
from adaptive_inference.decoding.trace import Pass, RowTrace, Trace

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module
    from transformers import PreTrainedModel

    from adaptive_inference.decoders.base import Decoder
    from adaptive_inference.decoders.cache import RaggedCache


@dataclass(frozen=True)
class BlockCost:
    """FLOPs of one decoder block."""

    column: int  #: of a new column, whatever it sees
    key: int  #: of a new column, for each key of its own text
    source: int  #: of a new column, for each column of the source
    made: int  #: once in a run, for each column of the source: its keys and values
    propagated: int  #: of a column that is given keys and values only


class DecoderCost:
    """Counts what runs of a decoder cost.

    Parameters
    ----------
    model
        A model with an LM head that `decoders.families.adapter_for` serves; nothing of it is changed.

    Attributes
    ----------
    blocks
        `BlockCost` of each of the L blocks.
    embedding, head
        FLOPs of a column where it enters, and of a state through final norm and vocabulary projection.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        twin = meta_twin(model)
        self._twin, self._decoder = twin, adapter_for(twin)
        self.encoder_decoder = self._decoder.encoder_decoder
        self.num_blocks = self._decoder.num_blocks
        self.embedding = _count(lambda: _embed(self._decoder))
        self.blocks = [_block_cost(self._decoder, block) for block in range(1, self.num_blocks + 1)]
        self._state_11D = _embed(self._decoder)
        self.head = _count(lambda: self._decoder.logits(self._state_11D))

    def encoder(self, lengths: Sequence[int]) -> np.ndarray:
        """Return the FLOPs of the encoder at source lengths, ``(N,)`` int64; 0 of a decoder-only model."""
        if not self.encoder_decoder:
            return np.zeros(len(lengths), dtype=np.int64)
        counts = by_length(lambda length: [self._encoder(length)], sorted(set(lengths)))
        return np.array([counts[length][0] for length in lengths], dtype=np.int64)

    def decoder(self, trace: Trace, source: int = 0, classifier: Module | None = None) -> int:
        """Return the FLOPs of everything but the encoder in a run.

        Parameters
        ----------
        trace
            What the run did.
        source
            Columns of the source, padding included; 0 of a decoder-only model.
        classifier
            CALM's, where it made the tests; None where they cost nothing but a head.
        """
        total = trace.head_rows * self.head
        if classifier is not None:
            twin = meta_twin(classifier)
            total += trace.tests * _count(lambda: twin(self._state_11D))
        started: set[int] = set()
        for step in trace.passes:
            keys = max(step.past) + step.new
            if step.first == 1 and not step.propagated:
                total += step.columns * self.embedding
            for number in range(step.first, step.last + 1):
                block = self.blocks[number - 1]
                if step.propagated:
                    total += step.columns * block.propagated
                    continue
                total += step.columns * (block.column + keys * block.key + source * block.source)
                if number not in started:
                    started.add(number)
                    total += len(trace.rows) * source * block.made
        return total

    def plain(self, prompt: int, tokens: int) -> Trace:
        """Return what ``model.generate`` does, greedily and one token at a time, for one row.

        Only what is read: the stock OPT, where it projects its states for the head, does so for the whole prompt.

        Parameters
        ----------
        prompt
            Columns that the decoder starts from: 1 of an encoder-decoder.
        tokens
            Tokens that it writes, at least 1.
        """
        depth, passes = self.num_blocks, [Pass(1, self.num_blocks, (0,), prompt)]
        passes += [Pass(1, depth, (prompt + i,), 1) for i in range(tokens - 1)]
        row = RowTrace([depth] * tokens, [None] * tokens, [None] * tokens)
        return Trace([row], 1.0, passes, head_calls=tokens, head_rows=tokens)

    def _encoder(self, length: int) -> int:
        import torch

        encoder = self._twin.get_encoder()
        ids_1S = torch.zeros(1, length, dtype=torch.long, device="meta")
        return _count(lambda: encoder(input_ids=ids_1S))


def blocks_run(trace: Trace, num_blocks: int, prompt: int) -> int:
    """Return how many blocks were run for the tokens written: shallow rows x s + deep rows x (L - s).

    Blocks of columns that were caught up, padded or taken back are in; those of the prompt are not, but for its last
    column, which writes the first token. So the full model has L for each token. Propagated blocks are not run.

    Parameters
    ----------
    trace
        What the run did.
    num_blocks
        L.
    prompt
        Columns that the decoder starts from, padding included: 1 of an encoder-decoder.
    """
    through_L = np.array([trace.columns(block) for block in range(1, num_blocks + 1)])
    given = (prompt - 1) * len(trace.rows)
    return int((through_L - given * (through_L > 0)).sum())


def block_calls(trace: Trace) -> int:
    """Return how many blocks were run one after another, the prompt's pass included: what a batch of one waits for.

    A call counts once, however many waiting tokens go through it, so FREE's catch-up of five tokens costs L - s and not
    5 (L - s). The full model has L for each token. Propagated blocks are not run.
    """
    return sum(done.last - done.first + 1 for done in trace.passes if not done.propagated)


def published_blocks(trace: Trace, exit_layer: int = 0) -> int:
    """Return the papers' count: the depth that each token came from, and ``exit_layer`` for each one taken back.

    Not a cost: a token that left early counts ``exit_layer`` blocks, though the others run for it later (FREE note,
    section 3).
    """
    return sum(sum(row.depth) for row in trace.rows) + exit_layer * trace.taken_back


def _block_cost(decoder: Decoder, block: int) -> BlockCost:
    state_11D = _embed(decoder)
    begun, steady, one_key_more = _columns(decoder, block, state_11D, source=1)
    _, one_source_more, _ = _columns(decoder, block, state_11D, source=2)
    key, source = one_key_more - steady, one_source_more - steady
    cache = _start(decoder, 1)
    propagated = _count(lambda: decoder.propagate(state_11D, block, block, cache))
    return BlockCost(steady - key - source, key, source, begun - steady, propagated)


def _columns(decoder: Decoder, block: int, state_11D: Tensor, source: int) -> tuple[int, int, int]:
    """Count a text's first column where the source's keys and values are to be made, and where they are; and its second."""
    cache = _start(decoder, source)

    def column() -> int:
        return _count(lambda: decoder.run(state_11D, block, block, cache))

    begun = column()
    cache.crop(None, 0)
    return begun, column(), column()


def _start(decoder: Decoder, source: int) -> RaggedCache:
    import torch

    if not decoder.encoder_decoder:
        return decoder.start(1, capacity=4)
    states_1SD = torch.zeros(1, source, decoder.width, device="meta", dtype=decoder.model.dtype)
    return decoder.start(1, capacity=4, encoder_hidden=states_1SD)


def _embed(decoder: Decoder) -> Tensor:
    """Return one column."""
    import torch

    ids_11 = torch.zeros(1, 1, dtype=torch.long, device="meta")
    with torch.inference_mode():
        return decoder.embed(ids_11, ids_11)


def _count(run: Callable[[], object]) -> int:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()
