"""A batch on its way through an encoder: one cursor for training, evaluation, engines and FLOP counting.

Shape suffixes: B rows, N tokens, T tokens of all rows, H hidden width, C outputs.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
import torch
from torch import Tensor, nn

from adaptive_inference.backbones._packed import Segments
from adaptive_inference.backbones.base import Batch, Context, Layers
from adaptive_inference.errors import UserError


class ExitAnswer(NamedTuple):
    """What an exit says of a batch.

    Attributes
    ----------
    layer
        Layers before the exit, 1 to L.
    logits
        (B, C), before temperature.
    certainty
        (B,) in (0, 1), the estimated probability that this exit is right (LTE); None without certainty heads.
    """

    layer: int
    logits: Tensor
    certainty: Tensor | None = None


#: Runs the head of an exit, by its index, on a state (B, N, H) with its token mask (B, N) or None, or on a packed state
#: (T, H) with its segments; the last argument says whether certainty heads are run too.
Read = Callable[[int, Tensor, Tensor | Segments | None, bool], ExitAnswer]


class Forward(ABC):
    """Moves a batch from exit to exit; nothing beyond the exit last asked for is computed.

    Exits are named by their index in ``exits``, from 0.

    Attributes
    ----------
    exits
        Layers before each exit, 1 to L.
    survivors
        Where tokens are removed on the way, for each layer run, the tokens of each row that it ran on, (B,) int64.
    """

    exits: tuple[int, ...]
    survivors: Sequence[np.ndarray] = ()

    @abstractmethod
    def advance(self, index: int) -> None:
        """Run on to an exit; no head is run. The states of all exits passed are held until they are released."""

    @abstractmethod
    def answer(self, index: int, certainty: bool = True) -> ExitAnswer:
        """Run the head of an exit that was passed and not released; late or early, the answer is the same.

        Parameters
        ----------
        index
            Of the exit.
        certainty
            False leaves the certainty head out.
        """

    @abstractmethod
    def release(self, index: int) -> None:
        """Let go of the state that an exit passed would answer from."""

    @abstractmethod
    def select(self, rows: Tensor, length: int | None = None) -> None:
        """Keep some rows of all that is held; the others have left.

        Parameters
        ----------
        rows
            (B',) indices, in the order wanted.
        length
            Columns kept: no token of these rows lies behind them. None keeps all.
        """

    def take(self, rows: Tensor, length: int | None = None) -> Self:
        """Return some rows as a batch of their own; this one is left as it is. See `select`."""
        taken = copy.copy(self)  # `select` puts new objects in the place of what the two share
        taken.select(rows, length)
        return taken

    @abstractmethod
    def merge(self, others: Sequence[Self]) -> None:
        """Take in all rows of other batches of the same model, behind one's own; they are then used up.

        All stand at the same exit, and every exit passed has been released.

        Raises
        ------
        UserError
            The batches are of a form that cannot be merged.
        """

    def reach(self, index: int, certainty: bool = True) -> ExitAnswer:
        """Advance to an exit, answer there and let its state go."""
        self.advance(index)
        answer = self.answer(index, certainty)
        self.release(index)
        return answer

    def answers(self, certainty: bool = True) -> list[ExitAnswer]:
        """Reach one exit after the other, to the last."""
        return [self.reach(index, certainty) for index in range(len(self.exits))]


class Removal(Protocol):
    """What acts on a batch before each layer's attention, such as removing tokens; one per batch."""

    def before_layer(self, index: int, forward: EncoderForward) -> None:
        """Change the state that layer ``index`` (0-based) is about to read."""

    def detach(self) -> None:
        """Cut the gradient of what is carried from layer to layer beside the state."""


class EncoderForward(Forward):
    """A batch in one encoder.

    At each exit the state forks once, by the gradient's route, into what the head reads and what the next layer reads.

    Parameters
    ----------
    layers
        Embeds the batch and runs its layers.
    exits
        Layers before each exit, ascending.
    read
        Runs the heads.
    batch
        See `Backbone.embed`.
    gradient
        How gradients run backwards; no value changes. ``shared``: as usual. ``blockwise``: each block's state is handed
        to the next one without its gradient (SWEET, sweet.md 1.3), while the head reads it with its gradient, so that
        a loss trains its own block and head, and nothing else but a shared pooler. Its backward pass may be run as
        soon as the exit has answered: nothing that follows needs its graph. ``equilibrium``: what enters a state is
        the mean of the gradients of all exits above it, rather than their sum: with n exits from here on, 1 / n of
        its own head's and (n - 1) / n of the deeper layers' (ElasticBERT, pabee_leebert.md 1.5).
    removal
        Acts before each layer; None: nothing does.
    packed
        Compute no padding: the tokens of all rows are one matrix, for an encoder of `Backbone.reduces_tokens`. The
        answers are the same.

    Attributes
    ----------
    hidden_BNH, context
        What the next layer reads; the state is (T, H) where it is packed.
    layers_run
        Layers run so far.
    """

    def __init__(
        self,
        layers: Layers,
        exits: Sequence[int],
        read: Read,
        batch: Batch,
        gradient: str = "shared",
        removal: Removal | None = None,
        packed: bool = False,
    ) -> None:
        self.exits, self.layers_run = tuple(exits), 0
        self._layers, self._read, self._gradient, self._removal = layers, read, gradient, removal
        self._passed = 0
        # Of each exit passed and not released: the state that its head reads, and which of it are tokens.
        self._own: dict[int, tuple[Tensor, Tensor | Segments | None]] = {}
        self.hidden_BNH, self.context = layers.embed(batch)
        self.survivors: list[np.ndarray] = []
        self._lengths_B = None if removal is None else _lengths(self.hidden_BNH, self.context)
        if packed:
            self.hidden_BNH, self.context = self.context.pack(self.hidden_BNH)

    def advance(self, index: int) -> None:
        """See `Forward.advance`."""
        while self._passed <= index:
            while self.layers_run < self.exits[self._passed]:
                if self._removal is not None:
                    self._removal.before_layer(self.layers_run, self)
                    self.survivors.append(self._lengths_B)
                self.hidden_BNH = self._layers.run_layer(self.layers_run, self.hidden_BNH, self.context)
                self.layers_run += 1
            self._fork()
            self._passed += 1

    def _fork(self) -> None:
        own_BNH, tokens_BN = self.hidden_BNH, self.context.segments or self.context.tokens_BN
        if self._gradient == "equilibrium":
            share = 1 / (len(self.exits) - self._passed)
            own_BNH = scale_gradient(self.hidden_BNH, share)
            self.hidden_BNH = scale_gradient(self.hidden_BNH, 1 - share)
        elif self._gradient == "blockwise":
            self.hidden_BNH, self.context = self.hidden_BNH.detach(), self.context.detach()
            if self._removal is not None:
                self._removal.detach()
        self._own[self._passed] = own_BNH, tokens_BN

    def keep_tokens(self, keep_BN: Tensor) -> None:
        """Keep some tokens of each row, in their order; the others do not come back.

        Unless packed, what remains is cut to the longest row. One row needs no mask any more.

        Parameters
        ----------
        keep_BN
            (B, N) bool, False for padding; at least one token of each row. Where the state is packed, the columns are
            those of `Segments.pad`.
        """
        count_B = keep_BN.sum(1)
        kept_B = count_B.cpu().numpy()
        if self._lengths_B is not None and (kept_B == self._lengths_B).all():
            return
        self._lengths_B = kept_B
        if self.context.segments is not None:
            segments, index_T = self.context.segments.keep(keep_BN.cpu().numpy())
            self.hidden_BNH, self.context = self.hidden_BNH[index_T], replace(self.context, segments=segments)
            return
        longest = int(self._lengths_B.max())
        # Stable: the kept ones come first, in order; what follows them is padding.
        columns_BK = keep_BN.logical_not().to(torch.uint8).argsort(dim=1, stable=True)[:, :longest]
        rows_B1 = torch.arange(len(columns_BK), device=columns_BK.device)[:, None]
        self.hidden_BNH = self.hidden_BNH[rows_B1, columns_BK]
        tokens_BK = None
        if (self._lengths_B < longest).any():
            tokens_BK = torch.arange(longest, device=columns_BK.device) < count_B[:, None]
        self.context = self.context.keep(columns_BK, tokens_BK, self.hidden_BNH.dtype)

    def answer(self, index: int, certainty: bool = True) -> ExitAnswer:
        """See `Forward.answer`."""
        return self._read(index, *self._own[index], certainty)

    def release(self, index: int) -> None:
        """See `Forward.release`."""
        del self._own[index]

    def select(self, rows: Tensor, length: int | None = None) -> None:
        """See `Forward.select`."""
        if self._lengths_B is not None:  # the caller knows the lengths at the start alone
            self._lengths_B = self._lengths_B[rows.cpu().numpy()]
            self.survivors = [item_B[rows.cpu().numpy()] for item_B in self.survivors]
            length = int(self._lengths_B.max())
        if self.context.segments is not None:
            self._select_packed(rows.cpu().numpy())
            return
        before_BNH, self.hidden_BNH = self.hidden_BNH, self.hidden_BNH[rows, :length]
        self.context = self.context.select(rows, length)
        held: dict[int, tuple[Tensor, Tensor | Segments | None]] = {}
        for index, (own_BNH, tokens_BN) in self._own.items():
            if own_BNH is before_BNH:
                held[index] = self.hidden_BNH, self.context.tokens_BN
            else:
                # With a removal, an earlier exit may hold more tokens than are left now: these keep their columns.
                cut = None if self._lengths_B is not None else length
                held[index] = own_BNH[rows, :cut], None if tokens_BN is None else tokens_BN[rows, :cut]
        self._own = held

    def _select_packed(self, rows: np.ndarray) -> None:
        before, selected = self.hidden_BNH, self.context.segments.select(rows)
        self.context = replace(self.context, segments=selected[0])
        self.hidden_BNH = before[selected[1]]
        held: dict[int, tuple[Tensor, Tensor | Segments | None]] = {}
        for index, (own, own_segments) in self._own.items():
            if own is before:
                held[index] = self.hidden_BNH, selected[0]
            else:
                kept, index_T = own_segments.select(rows)
                held[index] = own[index_T], kept
        self._own = held

    def merge(self, others: Sequence[Self]) -> None:
        """See `Forward.merge`: packed states stay packed, others are padded to the longest."""
        every = [self, *others]
        assert not any(item._own for item in every), "exits are held"
        assert len({item.layers_run for item in every}) == 1, "batches stand at different layers"
        packed = {item.context.segments is not None for item in every}
        if self._lengths_B is not None and packed != {True}:
            raise UserError(
                "batches that lose tokens on the way can only be merged where all are packed; start them with packed=True, "
                "of two rows or more"
            )
        if packed == {True}:
            segments, index_T = Segments.merge([item.context.segments for item in every])
            self.hidden_BNH = torch.cat([item.hidden_BNH for item in every])[index_T]
            self.context = replace(_longest(every).context, segments=segments)
        else:
            assert packed == {False}, "some batches are packed and some are not"
            self.hidden_BNH, tokens_BN = merge_columns(
                [(item.hidden_BNH, item.context.tokens_BN) for item in every]
            )
            self.context = self._layers.context(self.hidden_BNH, tokens_BN)
        if self._lengths_B is not None:
            self._lengths_B = np.concatenate([item._lengths_B for item in every])
            self.survivors = [
                np.concatenate(parts) for parts in zip(*(item.survivors for item in every), strict=True)
            ]


def merge_columns(
    parts: Sequence[tuple[Tensor, Tensor | None]],
) -> tuple[Tensor, Tensor | None]:
    """Put batches below each other, padded with zeros on the right to the longest.

    Parameters
    ----------
    parts
        Values (B, N, ...) of each batch, and which of its columns are tokens, (B, N) or None where all are.

    Returns
    -------
    values : Tensor
    tokens : Tensor or None
        None where there is no padding.
    """
    longest = max(values.shape[1] for values, _ in parts)
    padded, tokens = [], []
    for values, tokens_BN in parts:
        missing = longest - values.shape[1]
        padded.append(nn.functional.pad(values, (0, 0) * (values.dim() - 2) + (0, missing)))
        if tokens_BN is None:
            tokens_BN = torch.ones(values.shape[:2], dtype=torch.long, device=values.device)
        tokens.append(nn.functional.pad(tokens_BN.long(), (0, missing)))
    whole = all(tokens_BN is None and values.shape[1] == longest for values, tokens_BN in parts)
    return torch.cat(padded), None if whole else torch.cat(tokens)


def _longest(forwards: Sequence[EncoderForward]) -> EncoderForward:
    """Return the one whose pairs of tokens reach farthest, and so hold those of the others."""
    return max(
        forwards, key=lambda item: max((pair.shape[-1] for pair in item.context.pairs.values()), default=0)
    )


def _lengths(hidden_BNH: Tensor, context: Context) -> np.ndarray:
    """Return the tokens of each row, (B,) int64."""
    rows, columns = hidden_BNH.shape[:2]
    if context.tokens_BN is None:
        return np.full(rows, columns, dtype=np.int64)
    return context.tokens_BN.sum(1).cpu().numpy().astype(np.int64)


class _ScaledGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.factor, None


def scale_gradient(values: Tensor, factor: float) -> Tensor:
    """Return the values themselves; the gradient that flows back through them is multiplied by a factor."""
    return _ScaledGradient.apply(values, factor)
