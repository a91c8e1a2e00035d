"""Which blocks a token takes, and what becomes of tokens that left early (FREE note, sections 1b, 1d, 1e)."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import Literal, get_args

from adaptive_inference.errors import UserError, nearest

Kind = Literal["full", "static", "calm", "keep", "roll_back", "verify"]
Measure = Literal["softmax_gap", "saturation", "classifier"]

SHALLOW_DEEP = ("keep", "roll_back", "verify")  #: tokens leave at one block, and the others catch up
EXITS_AT_ONE_BLOCK = ("static", *SHALLOW_DEEP)

#: Option -> the kinds that read it.
READ_BY = {
    "exit_layer": EXITS_AT_ONE_BLOCK,
    "min_layer": ("calm",),
    "confidence": ("calm",),
    "decay_tau": ("calm",),
    "rollback": ("roll_back",),
}


@dataclass(frozen=True)
class DecodingPolicy:
    """How a decoder of L blocks writes a token.

    A token leaves early where its confidence is *greater* than the threshold: at 1 none ever does.

    Attributes
    ----------
    kind
        ``full``: every block. ``static``: the first `exit_layer` blocks. ``calm``: leave after the first block that is
        confident; the blocks above get keys and values from the state at the exit. ``keep`` (FREE): leave after
        `exit_layer` blocks; tokens that left wait, and the blocks above take them all at once with the first that
        does not. ``roll_back`` (BiLD): as ``keep``, but tokens are taken back from the first on whose cross-entropy
        under all blocks exceeds `rollback`. ``verify``: tokens are taken back from the first on that all blocks
        would not have written; the text is that of all blocks, token for token.
    exit_layer
        Blocks of the shallow model, from 1 to L - 1 (``static``: to L).
    threshold
        In [0, 1].
    min_layer
        ``calm``: blocks before the first test, default 1.
    confidence
        ``calm``: ``softmax_gap`` (default), ``saturation`` (cosine to the block below, from block 2 on), or
        ``classifier``. The others always read the softmax gap.
    decay_tau
        ``calm``: rate at which the threshold falls with the position (`decay`); None: it does not.
    rollback
        ``roll_back``: greatest cross-entropy in nats at which a token is kept; may be infinite.
    max_pending
        Tokens that wait for the blocks above at most; None: any number.
    together
        Rows of a batch go through the blocks above together, when any of them is unsure; the text of a row then
        depends on its neighbours, ``verify`` and a threshold of 1 aside. Otherwise each row goes when it must.
    """

    kind: Kind
    exit_layer: int | None = None
    threshold: float = 1.0
    min_layer: int | None = None
    confidence: Measure | None = None
    decay_tau: float | None = None
    rollback: float | None = None
    max_pending: int | None = 16
    together: bool = False

    def __post_init__(self) -> None:
        self._check_names()
        for option, kinds in READ_BY.items():
            if getattr(self, option) is not None and self.kind not in kinds:
                raise UserError(f"{option} has no meaning for policy {self.kind!r}; leave it out")
        if not _is_number(self.threshold) or not 0.0 <= self.threshold <= 1.0:
            raise UserError(
                f"threshold {self.threshold!r}: a threshold is a number from 0 to 1; 1 never leaves early"
            )
        for option in ("exit_layer", "min_layer", "max_pending"):
            value = getattr(self, option)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise UserError(f"{option} {value!r}: give a whole number of 1 or more")
        if self.kind in EXITS_AT_ONE_BLOCK and self.exit_layer is None:
            raise UserError(f"policy {self.kind!r} needs exit_layer, the blocks of the shallow model")
        if self.decay_tau is not None and not (
            _is_number(self.decay_tau) and isfinite(self.decay_tau) and self.decay_tau >= 0
        ):
            raise UserError(f"decay_tau {self.decay_tau!r}: give a number of 0 or more")
        if self.kind == "roll_back" and not (_is_number(self.rollback) and self.rollback > 0):
            raise UserError(
                f"rollback {self.rollback!r}: policy 'roll_back' needs the cross-entropy above which a token is taken "
                "back, a number above 0"
            )

    def _check_names(self) -> None:
        for value, allowed in ((self.kind, Kind), (self.confidence, Measure)):
            names = [*get_args(allowed)]
            if value not in names and not (value is None and allowed is Measure):
                what = "policy" if allowed is Kind else "confidence"
                raise UserError(
                    f"unknown {what} {value!r}; allowed: {', '.join(names)}{nearest(str(value), names)}"
                )

    @property
    def measure(self) -> Measure:
        """What is held against the threshold."""
        return self.confidence or "softmax_gap"

    @property
    def first_test(self) -> int:
        """``calm``: block after which a token may leave first."""
        return self.min_layer or 1

    def check(self, num_blocks: int, sampling: bool = False) -> None:
        """Refuse what this policy cannot do with a decoder.

        Parameters
        ----------
        num_blocks
            L.
        sampling
            Whether tokens are drawn, and not the most probable ones.

        Raises
        ------
        UserError
            An exit is not below L, or tokens shall be drawn where they are compared with those of all blocks.
        """
        last = num_blocks if self.kind == "static" else num_blocks - 1
        for option in ("exit_layer", "min_layer"):
            value = getattr(self, option)
            if value is not None and value > last:
                raise UserError(
                    f"{option} {value}: the decoder has {num_blocks} blocks, so policy {self.kind!r} takes 1 to {last}"
                )
        if self.kind == "calm" and num_blocks < 2:
            raise UserError("policy 'calm' needs a decoder of 2 blocks or more; this one has 1")
        if self.measure == "saturation" and self.first_test < 2:
            raise UserError(
                "confidence 'saturation' compares a block with the block below it; set min_layer to 2 or more"
            )
        if sampling and self.kind in ("roll_back", "verify"):
            raise UserError(
                f"policy {self.kind!r} compares tokens with the most probable ones of all blocks, and cannot serve "
                "do_sample=True; sample with 'keep', 'calm', 'static' or 'full', or set do_sample=False"
            )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
