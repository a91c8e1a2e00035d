"""Leave after the shallow blocks; those above take the waiting tokens all at once (FREE note, section 1b).

A step runs the shallow blocks on one token of every row. Sure rows go on, and their states wait; unsure rows take all
that wait through the blocks above. What these say may be read with the next step's confidences and not at once: a step
then costs one read, and a row that turns out to have stopped, or to be taken back, did that step for nothing.

Shapes: R rows that go on, A of them that go deep, T new columns, V vocabulary, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from adaptive_inference.decoding.confidence import softmax_gap
from adaptive_inference.decoding.policy import DecodingPolicy
from adaptive_inference.decoding.state import Texts

if TYPE_CHECKING:
    from adaptive_inference.decoding.adaptive import AdaptiveThreshold


@dataclass
class _Answer:
    """What the blocks above said of some rows, on the device still.

    Attributes
    ----------
    rows
        A rows of the batch.
    starts
        Column of the first token of each that went through the blocks above.
    drafts
        What the shallow model wrote there; empty for a prompt.
    stops_A
        Whether a row stops at the token that was written last.
    tokens_AT
        What all blocks write from ``starts`` on; ``(A, 1)``, the last one, where the others were not asked for.
    doubt_AT
        Cross-entropy of the drafts under all blocks; ``(A, 0)`` where nothing depends on it.
    """

    rows: list[int]
    starts: list[int]
    drafts: list[list[int]]
    stops_A: Tensor
    tokens_AT: Tensor
    doubt_AT: Tensor


class ShallowDeep:
    """The loop of ``keep``, ``roll_back`` and ``verify``.

    Parameters
    ----------
    texts
        What is written.
    policy, threshold
        How; the threshold in force.
    adaptive
        Told what agreed; may be None.
    observe
        Whether the tokens that waited are compared with those of all blocks, also where nothing depends on it.
    defer
        Whether the blocks above are read with the next step, and not at once.
    """

    def __init__(
        self,
        texts: Texts,
        policy: DecodingPolicy,
        threshold: float,
        adaptive: AdaptiveThreshold | None,
        observe: bool,
        defer: bool,
    ) -> None:
        self.texts, self.policy, self.threshold, self.adaptive = texts, policy, threshold, adaptive
        self.shallow, self.deep = policy.exit_layer, texts.decoder.num_blocks
        self.defer = defer
        self.judges = observe or adaptive is not None or policy.kind != "keep"
        self.waiting = [0] * texts.batch  #: tokens of each row that wait
        self.drafts: list[list[int]] = [
            [] for _ in range(texts.batch)
        ]  #: shallow tokens since the last catch-up
        self._states: list[
            Tensor
        ] = []  #: states of the last steps, (R, 1, D) each; a row waits with its last ones
        self._answers: list[_Answer] = []

    def write(self) -> None:
        """Write all texts to their ends."""
        texts = self.texts
        hidden_B1D = texts.prefill(self.deep)
        if hidden_B1D is not None:
            for row in texts.rows:
                texts.ends[row] += 1
                texts.trace.rows[row].add(self.deep, None)
            self._hear(texts.rows, hidden_B1D)
        while texts.rows:
            full = [row for row in texts.rows if texts.ends[row] >= texts.limit]
            if full and not self.judges:
                self._leave(full)  # whatever the blocks above said of them: it is written, and not waited for
            # Where no column is left to step into, the blocks above are heard first.
            elif self._answers and (full or not self.defer):
                self._leave(self._settle(texts.read(*self._unread()))[0])
            else:
                self._step()

    # ---- one step -----------------------------------------------------------------------------------------------

    def _step(self) -> None:
        texts, trace = self.texts, self.texts.trace
        rows = list(texts.rows)
        ends = [texts.ends[row] for row in rows]
        hidden_R1D = texts.run(texts.embed_last(), 1, self.shallow)
        logits_RV = texts.logits(hidden_R1D)[:, -1]
        tokens_R = texts.choose(logits_RV, rows, ends)
        stops_R = texts.put(tokens_R, rows, ends)
        drafted, sure, stops, *answers = texts.read(
            tokens_R, softmax_gap(logits_RV), stops_R, *self._unread()
        )
        trace.tests += len(rows)
        self._states.append(hidden_R1D)
        finished, void = self._settle(answers)
        trace.void_steps += len(finished) + len(void)

        unsure: list[int] = []
        for place, row in enumerate(rows):
            if row in finished or row in void:
                continue
            leaves = self._leaves(row, sure[place], bool(stops[place]))
            self.drafts[row].append(int(drafted[place]))
            trace.rows[row].add(self.shallow if leaves else self.deep, sure[place])
            texts.ends[row] += 1
            if not leaves:
                unsure.append(row)
        if self.policy.together and unsure:
            unsure = [row for row in rows if row not in finished and row not in void]
            for row in unsure:
                trace.rows[row].depth[-1] = self.deep
        for place, row in enumerate(rows):
            if row in finished or row in void or row in unsure:
                continue
            self.waiting[row] += 1
            if stops[place]:
                finished.append(row)
                trace.left_waiting += self.waiting[row]
        self._leave(finished)
        if unsure:
            self._go_deep(unsure)
        longest = max((self.waiting[row] for row in texts.rows), default=0)
        del self._states[: len(self._states) - longest]

    def _leaves(self, row: int, confidence: float, stops: bool) -> bool:
        """Say whether a row goes on from the shallow blocks. A text that is verified ends with a token that is."""
        most = self.policy.max_pending
        full = most is not None and self.waiting[row] >= most
        return confidence > self.threshold and not full and not (stops and self.policy.kind == "verify")

    def _leave(self, finished: Sequence[int]) -> None:
        if finished:
            stay = self.texts.finish(finished)
            self._states = [hidden_R1D[stay] for hidden_R1D in self._states]

    # ---- the blocks above ---------------------------------------------------------------------------------------

    def _go_deep(self, rows: list[int]) -> None:
        """Take what waits of some rows, and their newest token, through the blocks above."""
        texts = self.texts
        waiting = [self.waiting[row] for row in rows]
        width = max(waiting) + 1
        texts.trace.syncs += any(waiting)
        places = [texts.rows.index(row) for row in rows]
        hidden_ATD = torch.cat(self._states[-width:], 1)
        if len(rows) < len(texts.rows):
            hidden_ATD = hidden_ATD[places]
        ragged = min(waiting) + 1 < width
        if ragged:  # shorter ones begin at the left as well; what fills them up on the right is cut off again
            shift_A1 = torch.tensor([[width - 1 - count] for count in waiting], device=hidden_ATD.device)
            index_AT = (torch.arange(width, device=hidden_ATD.device) + shift_A1).clamp_max(width - 1)
            hidden_ATD = hidden_ATD.take_along_dim(index_AT[..., None], 1)
        deep_ATD = texts.run(hidden_ATD, self.shallow + 1, self.deep, places)
        if ragged:
            texts.cache.crop(places, [texts.ends[row] - 1 for row in rows])
        self._hear(rows, deep_ATD)

    def _hear(self, rows: Sequence[int], deep_ATD: Tensor) -> None:
        """Ask the head what all blocks write, put each row's newest token, and leave the rest for the next read."""
        texts = self.texts
        waiting = [self.waiting[row] for row in rows]
        before = [texts.ends[row] - 1 for row in rows]  # columns before the newest token
        drafts = [self.drafts[row] for row in rows]
        if not self.judges:
            deep_ATD = _each(deep_ATD, waiting)[:, None]
        logits_ATV = texts.logits(deep_ATD)
        steps = logits_ATV.shape[1]
        if self.judges:
            ends = [
                [end - max(0, count - step) for end, count in zip(before, waiting, strict=True)]
                for step in range(steps)
            ]
        else:
            ends = [before]  # the one state is that of the newest token
        tokens_AT = texts.choose_each(logits_ATV, rows, ends)
        doubt_AT = tokens_AT[:, :0]
        if self.policy.kind == "roll_back" and steps > 1:
            filled = [row_drafts + [0] * (steps - len(row_drafts)) for row_drafts in drafts]
            drafts_AT1 = torch.tensor(filled, device=logits_ATV.device)[..., None]
            doubt_AT = -logits_ATV.float().log_softmax(-1).gather(-1, drafts_AT1)[..., 0]
        newest_A = _each(tokens_AT, waiting) if self.judges else tokens_AT[:, 0]
        stops_A = texts.put(newest_A, rows, before)
        starts = [end - count for end, count in zip(before, waiting, strict=True)]
        self._answers.append(_Answer(list(rows), starts, drafts, stops_A, tokens_AT, doubt_AT))
        for row in rows:
            self.waiting[row], self.drafts[row] = 0, []

    def _unread(self) -> list[Tensor]:
        return [part for heard in self._answers for part in (heard.stops_A, heard.tokens_AT, heard.doubt_AT)]

    def _settle(self, values: list[list[float]]) -> tuple[list[int], list[int]]:
        """Take in what was read of the blocks above: return rows that stopped, and rows that were taken back."""
        finished: list[int] = []
        taken_back: list[int] = []
        answers, self._answers = self._answers, []
        parts = iter(values)
        for heard in answers:
            stops, tokens, doubt = next(parts), next(parts), next(parts)
            for place, row in enumerate(heard.rows):
                said = _row(tokens, place, heard.tokens_AT.shape[1])
                kept = self._kept(row, heard, place, said, _row(doubt, place, heard.doubt_AT.shape[1]))
                if kept < len(heard.drafts[place]) - 1:
                    self._take_back(row, heard.starts[place] + kept, heard.tokens_AT[place, kept : kept + 1])
                    taken_back.append(row)
                elif stops[place] and row in self.texts.rows:
                    finished.append(row)
        return finished, taken_back

    def _kept(self, row: int, heard: _Answer, place: int, said: list[float], doubt: list[float]) -> int:
        """Note what agreed, and return how many of the tokens that waited stay."""
        drafts = heard.drafts[place]
        if not drafts:
            return 0
        trace = self.texts.trace.rows[row]
        first = heard.starts[place] - self.texts.prompt
        waited = len(drafts) - 1
        if self.texts.sampling:  # tokens that are drawn differ by chance
            return waited
        if not self.judges:
            trace.agreed[first + waited] = drafts[-1] == said[0]
            return waited
        agreed = [draft == token for draft, token in zip(drafts, said, strict=False)]
        trace.agreed[first : first + len(drafts)] = agreed
        if self.adaptive is not None and waited:
            self.adaptive.observe(trace.confidence[first : first + len(drafts)], agreed)
        if self.policy.kind == "verify":
            faults = [not same for same in agreed[:waited]]
        elif self.policy.kind == "roll_back":
            faults = [value > self.policy.rollback for value in doubt[:waited]]
        else:
            return waited
        return faults.index(True) if True in faults else waited

    def _take_back(self, row: int, column: int, token_1: Tensor) -> None:
        """Put the token of all blocks into a column, and forget the row's later ones and the step made from them."""
        texts = self.texts
        texts.trace.taken_back += texts.ends[row] - column - 1
        trace = texts.trace.rows[row]
        trace.cut(column - texts.prompt + 1)
        trace.depth[-1] = self.deep
        texts.ends[row] = column + 1
        texts.cache.crop([texts.rows.index(row)], column)
        stops_1 = texts.put(token_1, [row], [column])
        none_10 = token_1[None, :0]
        self._answers.append(_Answer([row], [column], [[]], stops_1, none_10, none_10))


def _each(states_AT: Tensor, places: list[int]) -> Tensor:
    """Return one column of each row, ``(A, T, ...) -> (A, ...)``: a view where it is the same one."""
    if min(places) == max(places):
        return states_AT[:, places[0]]
    device = states_AT.device
    return states_AT[torch.arange(len(places), device=device), torch.tensor(places, device=device)]


def _row(values: list[float], place: int, width: int) -> list[float]:
    return values[place * width : (place + 1) * width]
