"""Members of a multi-model: independent models of growing depth, each trained alone (sweet.md 1.4)."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from adaptive_inference.exits.build import build_model
from adaptive_inference.exits.model import MultiExitModel
from adaptive_inference.files import read_json, write_json
from adaptive_inference.objectives.base import Objective
from adaptive_inference.settings.inputs import Backbone
from adaptive_inference.settings.protocol import Runtime
from adaptive_inference.settings.training import MethodTraining, Training
from adaptive_inference.tasks.schema import Schema
from adaptive_inference.training.cell import Rows
from adaptive_inference.training.fit import DEVELOPMENT_BATCH, fit
from adaptive_inference.training.progress import OnLog, Row
from adaptive_inference.training.trainer import development_qualities

_RESULT = "result.json"


@dataclass
class Member:
    """One trained member and what its training measured; names carry its layer, so that members can be merged."""

    layer: int
    model: MultiExitModel
    metrics: dict[str, float]
    details: dict[str, Any]
    history: list[Row] = field(default_factory=list)
    seconds: float = 0.0
    steps_run: int = 0


@dataclass
class MemberTrainer:
    """Trains members one after the other; each resumes by itself, and a finished one is kept in ``scratch``.

    Fields are those of `training.fit.fit`, and ``data``, the folder of the splits.
    """

    backbone: Backbone
    objective: Objective
    schema: Schema
    training: Training
    method: MethodTraining
    runtime: Runtime
    seed: int
    data: Path
    scratch: Path
    on_log: OnLog
    identity: str

    @cached_property
    def rows(self) -> Rows:
        """Rows of the splits, tokenised once for all members."""
        from adaptive_inference.backbones.load import load_tokenizer

        tokenizer = load_tokenizer(self.backbone.weights, self.backbone.revision)
        return Rows.load(self.data, self.schema, tokenizer)

    def train(self, layer: int) -> Member:
        """Fine-tune the first ``layer`` layers with one head, or return the member that a killed run finished."""
        finished = self.scratch / f"finished_{layer}"
        if (finished / _RESULT).is_file() and read_json(finished / _RESULT)["identity"] == self.identity:
            return self._restore(finished, layer)
        model = build_model(
            self.backbone, self.schema, self.seed, self.objective.needs_certainty, exits=[layer]
        )
        scratch = self.scratch / f"member_{layer}"
        result = fit(
            model,
            self.objective,
            self.rows.train,
            self.rows.development,
            self.schema,
            self.training,
            self.method,
            self.runtime,
            self.seed,
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
            "details": {"copied_from_full": False, "steps": result.steps},
            "history": [own_columns(row, layer) for row in result.history],
            "seconds": result.seconds,
            "steps_run": result.steps_run,
        }
        partial = self.scratch / "partial"
        shutil.rmtree(partial, ignore_errors=True)
        model.save_pretrained(partial)
        write_json(partial / _RESULT, body | {"identity": self.identity})
        shutil.rmtree(finished, ignore_errors=True)
        os.replace(partial, finished)
        shutil.rmtree(scratch, ignore_errors=True)
        return Member(layer, model, **body)

    def copy(self, full_model: MultiExitModel) -> Member:
        """Take the full model as the last member: it was trained just as this member would be."""
        (layer,) = full_model.exits
        (quality,) = development_qualities(full_model, self.rows.development, self.schema, DEVELOPMENT_BATCH)
        return Member(layer, full_model, {f"development{layer}_quality": quality}, {"copied_from_full": True})

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
