"""Members of a multi-model: independent models of growing depth, each trained alone (sweet.md 1.4)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adaptive_inference.exits.build import build_model
from adaptive_inference.exits.model import MultiExitModel
from adaptive_inference.files import read_json, write_json
from adaptive_inference.objectives.base import Objective
from adaptive_inference.settings.inputs import Backbone
from adaptive_inference.training.fit import fit
from adaptive_inference.training.progress import OnLog, Row
from adaptive_inference.training.recipe import Recipe
from adaptive_inference.training.rows import Rows
from adaptive_inference.training.score import exit_qualities

_RESULT = "result.json"


@dataclass(frozen=True)
class Member:
    """One member and what its training measured; names carry its layer, so that members can be merged.

    Attributes
    ----------
    layer, model
        The first so many layers with one head.
    metrics, history
        Figures for the record, rows of ``history.jsonl``.
    steps
        Optimiser steps of its own training; None: a copy of the full model.
    steps_run, seconds
        Steps and wall-clock, all processes of a resumed run together.
    """

    layer: int
    model: MultiExitModel
    metrics: dict[str, float]
    history: list[Row] = field(default_factory=list)
    steps: int | None = None
    steps_run: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Family:
    """All members, the shallowest first."""

    members: list[Member]

    @property
    def metrics(self) -> dict[str, float]:
        """Return the record's metrics: each member's, and the weights of all together."""
        named = {name: value for member in self.members for name, value in member.metrics.items()}
        total = sum(member.model.parameter_count for member in self.members)
        return named | {"parameters": total}

    @property
    def history(self) -> list[Row]:
        """Return the rows of one member after the other."""
        return [row for member in self.members for row in member.history]

    @property
    def timings(self) -> dict[str, Any]:
        """Return the figures that depend on the clock; copied members took no time."""
        seconds, steps = (
            sum(getattr(item, name) for item in self.members) for name in ("seconds", "steps_run")
        )
        each = {str(member.layer): member.seconds for member in self.members if member.seconds}
        return {"seconds": seconds, "steps_per_second": steps / max(seconds, 1e-9), "members": each}


@dataclass
class MemberTrainer:
    """Trains members one after the other; each resumes by itself, and a finished one is kept in ``scratch``.

    ``backbone`` is a section of ``backbones`` in the params; the other fields are those of `training.fit.fit`.
    """

    backbone: Backbone
    objective: Objective
    rows: Rows
    recipe: Recipe
    scratch: Path
    on_log: OnLog
    identity: str

    def train_all(self, layers: Sequence[int], full: MultiExitModel, full_recipe: Recipe) -> Family:
        """Train a member for each layer; one that would be trained as the full model was is its copy."""
        same = self.recipe.trains_as(full_recipe)
        members = [
            self.copy(full) if same and full.exits == (layer,) else self.train(layer) for layer in layers
        ]
        return Family(members)

    def train(self, layer: int) -> Member:
        """Fine-tune the first ``layer`` layers with one head, or return the member that a killed run finished."""
        finished = self.scratch / f"finished_{layer}"
        if (finished / _RESULT).is_file() and read_json(finished / _RESULT)["identity"] == self.identity:
            return self._restore(finished, layer)
        certainty = self.objective.needs_certainty
        model = build_model(self.backbone, self.recipe.schema, self.recipe.seed, certainty, exits=[layer])
        scratch = self.scratch / f"member_{layer}"
        result = fit(
            model,
            self.objective,
            self.rows,
            self.recipe,
            scratch,
            on_log=lambda row, step: self.on_log(own_columns(row, layer), step),
            identity=self.identity,
        )
        body = {
            "metrics": {
                f"development{layer}_quality": result.development_quality[layer],
                f"exit{layer}_best_epoch": result.best_epoch,
                f"exit{layer}_train_loss": result.train_loss,
            },
            "history": [own_columns(row, layer) for row in result.history],
            "steps": result.steps,
            "steps_run": result.steps_run,
            "seconds": result.seconds,
        }
        partial = self.scratch / "partial"
        shutil.rmtree(partial, ignore_errors=True)
        model.save_pretrained(partial)
        write_json(partial / _RESULT, body | {"identity": self.identity})
        shutil.rmtree(finished, ignore_errors=True)
        os.replace(partial, finished)
        shutil.rmtree(scratch, ignore_errors=True)
        return Member(layer, model, **body)

    def copy(self, full: MultiExitModel) -> Member:
        """Take the full model as the last member: it was trained just as this member would be."""
        (layer,) = full.exits
        (quality,) = exit_qualities(full, self.rows.development, self.recipe.schema)
        return Member(layer, full, {f"development{layer}_quality": quality})

    def _restore(self, finished: Path, layer: int) -> Member:
        body = read_json(finished / _RESULT)
        body.pop("identity")
        member = Member(layer, MultiExitModel.from_pretrained(finished), **body)
        for row in member.history:
            self.on_log({name: value for name, value in row.items() if name != "step"}, int(row["step"]))
        return member


def own_columns(row: Row, layer: int) -> Row:
    """Keep the columns that name the member's layer, and where the row stands."""
    names = ("step", "epoch", f"exit{layer}_loss", f"development{layer}_quality")
    return {name: row[name] for name in names if name in row}
