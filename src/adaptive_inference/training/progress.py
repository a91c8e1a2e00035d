"""What a training has measured so far, and its form on disk.

A resumed run must write the history of the unbroken one, so everything that a later row depends on is saved with the
checkpoint: the rows, the losses not yet in a row, and the best epoch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adaptive_inference.files import read_json, write_json, write_jsonl
from adaptive_inference.training.loss_weights import weight_figures

Row = dict[str, float]
OnLog = Callable[[Row, int], None]

_FILE = "progress.json"
_SAVED = (
    "history",
    "trajectory",
    "pending",
    "best_epoch",
    "ranking",
    "quality",
    "steps_run",
    "seconds",
)


@dataclass
class Progress:
    """History of one training, and what it came to.

    Attributes
    ----------
    exits
        Layers that name the columns.
    on_log
        Called with each row and its step, as soon as there is one.
    history
        Rows of ``history.jsonl``: ``step``, ``epoch``, ``loss`` (sum over exits), ``exitK_loss``,
        ``learning_rate``; after an epoch that is scored also ``developmentK_quality`` and their mean,
        ``development_quality``.
        Losses are means over the steps since the row before.
    observe
        What else is worth keeping at each row; None: nothing.
    figures
        More columns of a row, by name.
    trajectory
        What `observe` returned, with its step.
    pending
        Losses per exit of each optimiser step since the last row.
    learning_rate
        Of the backbone, in the last step.
    best_epoch, quality
        Epoch (from 1) of the greatest merit (`Objective.merit`), and its development quality per exit.
    ranking
        Merit and epoch of each scoring, the best first, the earlier of two equal ones.
    steps_run, seconds
        Optimiser steps and wall-clock of all processes that worked on this training.
    """

    exits: tuple[int, ...]
    on_log: OnLog
    history: list[Row] = field(default_factory=list)
    observe: Callable[[], dict[str, Any] | None] = lambda: None
    figures: Callable[[], Row] = dict
    trajectory: list[dict[str, Any]] = field(default_factory=list)
    pending: list[list[float]] = field(default_factory=list)
    learning_rate: float = 0.0
    best_epoch: int = 0
    ranking: list[tuple[list[float], int]] = field(default_factory=list)
    quality: list[float] = field(default_factory=list)
    steps_run: int = 0
    seconds: float = 0.0
    _since: float = field(default_factory=time.perf_counter)
    _open: bool = False  #: an optimiser step is being accumulated

    def add(self, losses: Sequence[float], share: float) -> None:
        """Take the losses per exit of one batch, which is ``share`` of an optimiser step."""
        if not self._open:
            self.pending.append([0.0] * len(losses))
            self._open = True
        self.pending[-1] = [
            total + share * loss for total, loss in zip(self.pending[-1], losses, strict=True)
        ]

    def end_step(self) -> None:
        """Note that the optimiser has stepped."""
        self._open = False
        self.steps_run += 1

    def write_row(
        self, step: int, epoch: float, quality: Sequence[float] = (), verdict: Row | None = None
    ) -> None:
        """Close a row: mean losses since the last one and, where it was scored, what that gave."""
        row: Row = {"step": step, "epoch": round(epoch, 6), "learning_rate": self.learning_rate}
        row |= self.figures()
        if self.pending:
            means = [sum(column) / len(self.pending) for column in zip(*self.pending, strict=True)]
            row |= {"loss": sum(means)}
            row |= {f"exit{layer}_loss": mean for layer, mean in self._by_layer(means)}
            self.pending = []
        if quality:
            row |= {f"development{layer}_quality": value for layer, value in self._by_layer(quality)}
            row["development_quality"] = sum(quality) / len(quality)
            row |= verdict or {}
        self.history.append(row)
        self._report(row)
        if (observed := self.observe()) is not None:
            self.trajectory.append({"step": step} | observed)

    def is_best(self, quality: Sequence[float], epoch: int, merit: Sequence[float]) -> bool:
        """Compare an epoch's merit with the best so far; the earlier epoch wins a tie."""
        self.ranking = sorted([*self.ranking, (list(merit), epoch)], key=lambda entry: entry[0], reverse=True)
        if self.ranking[0][1] != epoch:
            return False
        self.best_epoch, self.quality = epoch, list(quality)
        return True

    def exhausted(self, patience: int | None) -> bool:
        """Return whether so many scorings in a row were no better than the best."""
        scored = [row["epoch"] for row in self.history if "development_quality" in row]
        return patience is not None and sum(epoch > self.best_epoch for epoch in scored) >= patience

    @property
    def best_merit(self) -> list[float]:
        """Merit of the best epoch; empty before the first scoring."""
        return self.ranking[0][0] if self.ranking else []

    def best_epochs(self, count: int) -> list[int]:
        """Return the epochs of greatest merit, the best first."""
        return [epoch for _, epoch in self.ranking[:count]]

    @property
    def train_loss(self) -> float:
        """Mean total loss over the steps of the last epoch."""
        rows = [row for row in self.history if "loss" in row]
        before = [0, *(row["step"] for row in rows[:-1])]
        weighted = [(row, row["step"] - start) for row, start in zip(rows, before, strict=True)]
        last = [
            (row["loss"], steps) for row, steps in weighted if row["epoch"] > rows[-1]["epoch"] - 1 + 1e-4
        ]
        return sum(loss * steps for loss, steps in last) / sum(steps for _, steps in last)

    @property
    def steps(self) -> int:
        """Optimiser steps of the training."""
        return int(self.history[-1]["step"])

    @property
    def development_quality(self) -> dict[int, float]:
        """Layer of each exit -> quality on the development split at the best epoch."""
        return dict(self._by_layer(self.quality))

    @property
    def metrics(self) -> dict[str, float]:
        """The record's metrics: deterministic figures by their names; no loss where no step was made."""
        named = {f"development{layer}_quality": value for layer, value in self._by_layer(self.quality)}
        loss = {"train_loss": self.train_loss} if self.steps else {}
        return named | {"best_epoch": self.best_epoch} | loss

    @property
    def loss_weights(self) -> dict[str, float] | None:
        """Where the learned weights of the losses are when training ends; None where none are learned."""
        return weight_figures(self.trajectory) if self.trajectory else None

    @property
    def timings(self) -> dict[str, float]:
        """The figures that depend on the clock."""
        return {"seconds": self.seconds, "steps_per_second": self.steps_run / max(self.seconds, 1e-9)}

    def write(self, folder: Path) -> None:
        """Write ``history.jsonl`` and, where weights of the losses are learned, their trajectory, ``weights.jsonl``."""
        write_jsonl(folder / "history.jsonl", self.history)
        if self.trajectory:
            write_jsonl(folder / "weights.jsonl", self.trajectory)

    def save(self, folder: Path) -> None:
        """Write into a checkpoint folder."""
        self.stop_clock()
        write_json(folder / _FILE, {name: getattr(self, name) for name in _SAVED})

    def stop_clock(self) -> None:
        """Bring ``seconds`` up to date."""
        now = time.perf_counter()
        self.seconds, self._since = self.seconds + now - self._since, now

    def restore(self, folder: Path) -> None:
        """Take over what `save` wrote, and report its rows again: the tracker of a killed run is gone."""
        body: dict[str, Any] = read_json(folder / _FILE)
        for name in _SAVED:
            setattr(self, name, body[name])
        self.ranking = [(merit, epoch) for merit, epoch in self.ranking]
        for row in self.history:
            self._report(row)

    def _by_layer(self, values: Sequence[float]) -> Iterable[tuple[int, float]]:
        return zip(self.exits, values, strict=True)

    def _report(self, row: Row) -> None:
        self.on_log({name: value for name, value in row.items() if name != "step"}, int(row["step"]))
