"""An exported model as predictors and engines meet it. Loads no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from adaptive_inference.calibration.operating_point import Setting
from adaptive_inference.cost.yardstick import Yardstick
from adaptive_inference.errors import UserError
from adaptive_inference.exit_rules import load_rule
from adaptive_inference.exits.deployment import FIX, open_deployment
from adaptive_inference.exits.layout import SavedModel
from adaptive_inference.exits.outputs import ExitOutputs
from adaptive_inference.files import read_arrays, write_arrays
from adaptive_inference.tasks.encode import Feature, pad_rows
from adaptive_inference.tasks.fast_tokenizer import TOKENIZER_FILE, FastTokenizer
from adaptive_inference.tasks.schema import Schema

#: What a row of each length costs at each exit: counted once, since counting needs the layers.
FLOPS_FILE = "flops.safetensors"
_FLOPS, _ABOUT = "flops", "about"


class FlopTable:
    """What `cost.flops.FlopCount` counted, by length.

    Parameters
    ----------
    flops_NE
        At lengths 1, 2, ..., of each exit.
    """

    def __init__(self, flops_NE: np.ndarray) -> None:
        self._flops_NE = flops_NE

    def by_exit(self, lengths: np.ndarray, survivors: None = None) -> np.ndarray:
        """Return the FLOPs of rows of some lengths, (N,), when they leave at each exit, (N, E)."""
        return self._flops_NE[np.asarray(lengths) - 1]

    def save(self, folder: Path) -> None:
        """Write the table."""
        write_arrays(
            folder / FLOPS_FILE, {_FLOPS: self._flops_NE}, _ABOUT, {"lengths": "from 1", "columns": "exits"}
        )

    @classmethod
    def load(cls, folder: Path, shape: tuple[int, int]) -> FlopTable:
        """Read what `save` wrote.

        Raises
        ------
        UserError
            The file is missing, damaged or of another model.
        """
        file = folder / FLOPS_FILE
        try:
            found = read_arrays(file, _ABOUT)[0][_FLOPS]
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{file} is missing or damaged ({error}); {FIX}") from error
        if found.shape != shape:
            raise UserError(f"{file} is of shape {found.shape}, and the model of {shape}; {FIX}")
        return cls(found)


class OnnxModel:
    """A model folder with graphs in place of weights; see `exits.deployment`.

    Parameters
    ----------
    saved
        The folder.
    threads
        That one operator may use; None: one for each core.

    Attributes
    ----------
    exits, schema, tokenizer, calibration, layers_cost, has_certainty, removes_tokens, vocabulary
        As of `exits.model.ExitModule`.
    deployment
        What the folder says of its graphs.
    runner
        Runs them.
    cost
        FLOPs of a row by its length.

    Raises
    ------
    UserError
        A file is missing, damaged, or belongs to other weights.
    """

    removes_tokens = False

    def __init__(self, saved: SavedModel, threads: int | None = None) -> None:
        from adaptive_inference.engine.onnx_runner import OnnxRunner

        if threads is not None and (not isinstance(threads, int) or threads < 1):
            raise UserError(
                f"threads {threads} must be a whole number from 1; leave it out for one for each core"
            )
        self.home, self.calibration = saved.home, saved.calibration
        self.deployment = open_deployment(saved.home, saved.config, saved.calibration)
        self.exits = self.layers_cost = tuple(saved.config["exits"])
        self.has_certainty = self.deployment.certainty
        self.vocabulary = int(saved.config["backbone"]["vocab_size"])
        self.schema = Schema.load(saved.home)
        tokens = self.deployment.tokens
        self.tokenizer = FastTokenizer(saved.home / TOKENIZER_FILE, tokens.names, tokens.pad, tokens.cut)
        self.cost = FlopTable.load(saved.home, (self.schema.max_length, len(self.exits)))
        self.runner = OnnxRunner(saved.home, self.deployment, threads)

    def collect(self, features: Sequence[Feature], tiers: Sequence[int] | None = None) -> ExitOutputs:
        """Return what all exits answer to rows, each by itself, as it is answered later: what calibration is fitted on.

        Parameters
        ----------
        features
            Rows of `tasks.encode.encode`.
        tiers
            Difficulty of the rows, passed through.
        """
        exits, found = range(len(self.exits)), []
        for feature in features:
            run = self.runner.start(pad_rows([feature], self.tokenizer.pad_token_id))
            answers = run.advance(exits[-1], exits)
            found.append([answers[index] for index in exits])
        sure = None
        if self.has_certainty:
            sure = np.array([[answer.certainty[0] for answer in row] for row in found])
        return ExitOutputs(
            logits=np.array([[answer.logits[0] for answer in row] for row in found]),
            certainty=sure,
            labels=np.array([feature["label"] for feature in features]),
            exits=self.exits,
            layers_cost=self.layers_cost,
            ids=np.array([feature["id"] for feature in features]),
            lengths=np.array([feature["length"] for feature in features]),
            tiers=None if tiers is None else np.asarray(tiers),
        )

    @property
    def yardstick(self) -> Yardstick:
        """Return what rows are measured with: layers, since the FLOPs of the full model by itself are not kept."""
        schema, classes = self.schema, self.schema.outputs
        layers = (self.calibration or {}).get("num_layers", self.exits[-1])
        return Yardstick(schema.metric, schema.kind, classes, layers, None, None)

    def check(self, setting: Setting) -> None:
        """Refuse a setting that can decide where the graphs cannot be stopped: the layers behind would be run for nothing.

        Raises
        ------
        UserError
            There is such an exit, or the rule reads certainty heads that were not exported.
        """
        rule, made = load_rule(setting.rule), self.deployment
        told = f"{self.home} was exported for {made.rule} at {made.threshold}"
        fix = f"calibrate the trained model with --rule {setting.rule!r} and export it again"
        if rule.needs_certainty and not self.has_certainty:
            raise UserError(f"{told}, without the certainty heads that {setting.rule!r} reads; {fix}")
        others = [
            self.exits[k]
            for k in rule.decides(setting.threshold, len(self.exits))
            if k not in self.runner.cuts
        ]
        if others:
            raise UserError(
                f"{told} and stops at the exits {made.cuts}, but {setting.rule!r} at {setting.threshold} can decide at "
                f"{others} too; {fix}"
            )
