"""What a run did: depth and confidence of each token, and each pass through blocks with its size."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Pass:
    """One call of blocks `first` to `last`, on `new` columns of each of some rows.

    Attributes
    ----------
    first, last
        Blocks, from 1.
    past
        Columns that these blocks had of each row before.
    new
        Columns of each row that were computed, those included that only fill up shorter rows.
    propagated
        Whether only keys and values were made, as CALM does for blocks that are skipped.
    """

    first: int
    last: int
    past: tuple[int, ...]
    new: int
    propagated: bool = False

    @property
    def columns(self) -> int:
        """Columns of all rows."""
        return len(self.past) * self.new


@dataclass
class RowTrace:
    """One row's generated tokens, in order; the lists have one entry each per token.

    Attributes
    ----------
    depth
        Blocks that the token came from.
    confidence
        Confidence of the last test of the token; None where it was not tested.
    agreed
        Whether all blocks wrote the same token as the shallow model; None where nobody looked, or tokens
        are drawn.
    """

    depth: list[int] = field(default_factory=list)
    confidence: list[float | None] = field(default_factory=list)
    agreed: list[bool | None] = field(default_factory=list)

    def add(self, depth: int, confidence: float | None) -> None:
        """Add a token."""
        self.depth.append(depth)
        self.confidence.append(confidence)
        self.agreed.append(None)

    def cut(self, tokens: int) -> None:
        """Forget all but the first tokens."""
        del self.depth[tokens:], self.confidence[tokens:], self.agreed[tokens:]


@dataclass
class Trace:
    """What one call of ``generate`` did.

    Attributes
    ----------
    rows
        One `RowTrace` per row of the batch.
    passes
        Calls of blocks, in order.
    head_calls, head_rows
        Calls of final norm and vocabulary projection, and states that went through them.
    syncs
        Catch-ups: passes of the blocks above that took at least one waiting token.
    left_waiting
        Tokens that left early and that the blocks above never saw.
    taken_back
        Tokens that were written and then taken back.
    void_steps
        Shallow steps of a row that were begun before it was known that the row had stopped, or was taken back.
    tests
        Confidences that were computed.
    host_reads
        Times that the host waited for the device.
    threshold
        Threshold of this call.
    """

    rows: list[RowTrace]
    threshold: float
    passes: list[Pass] = field(default_factory=list)
    head_calls: int = 0
    head_rows: int = 0
    syncs: int = 0
    left_waiting: int = 0
    taken_back: int = 0
    void_steps: int = 0
    tests: int = 0
    host_reads: int = 0

    def columns(self, block: int) -> int:
        """Return how many columns went through a block, propagated ones aside."""
        return sum(p.columns for p in self.passes if p.first <= block <= p.last and not p.propagated)

    @property
    def tokens(self) -> int:
        """Tokens of all rows."""
        return sum(len(row.depth) for row in self.rows)
