"""Typed view of ``params.yaml``: every key, its type, its meaning, and the checks that need no data.

Loads no torch, so that validation and ``--help`` answer at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, model_validator

from adaptive_inference.by_name import is_own, module_names, short_name
from adaptive_inference.calibration.operating_point import static_layers
from adaptive_inference.errors import UserError, nearest
from adaptive_inference.settings.base import Section, Seed
from adaptive_inference.settings.generation import Generation
from adaptive_inference.settings.inputs import Backbone, Task
from adaptive_inference.settings.protocol import (
    Calibration,
    DeploymentKind,
    Evaluation,
    Explanations,
    Goal,
    Runtime,
    ScoreKind,
)
from adaptive_inference.settings.training import (
    EXITS_TOGETHER,
    MethodTraining,
    TaskTraining,
    Training,
    effective,
)
from adaptive_pipeline.grid import Grid, Name, TextGrid
from adaptive_pipeline.params.generation import check_generation, whole_or_empty
from adaptive_pipeline.params.messages import explain
from adaptive_pipeline.params.trained_by import TrainedBy, check_reduction, check_stages
from adaptive_pipeline.params.yaml_file import read_yaml


class Method(Section):
    """One row family of the table: how it is trained and which rules it is run with."""

    train: MethodTraining = Field(description="Objective, and what differs from `training`; {} for neither.")
    rules: list[str] = Field(
        min_length=1,
        description="Files of `exit_rules/` that the method is run with, or code of one's own, as `objective`.",
    )
    references: list[str] = Field(
        [], description="Methods it is tested against at an equal budget, besides `early_exit` and `full`."
    )

    @property
    def rule_names(self) -> list[str]:
        """The rules as records and tables call them."""
        return [short_name(rule) for rule in self.rules]


class Params(Section):
    """The whole of `params.yaml`: science only, no machine."""

    tasks: dict[Name, Task] = Field(description="Name -> task; empty, as the axes beside it: no classifiers.")
    backbones: dict[Name, Backbone] = Field(description="Name -> backbone.")
    seeds: list[Seed] = Field(description="An axis of the grid; each 0 to 4294967295.")
    training: Training = Field(Training(), description="Optimisation.")
    trained_by: TrainedBy = Field(description="Stage -> the methods that it trains.")
    token_scores: list[ScoreKind] = Field(
        [],
        description="Kinds of scores of tokens that are extracted from the full model on the training rows; `train_adapler` "
        "reads `saliency`.",
    )
    pruned_body: str = Field(
        "", description="The method of `train_adapler` on whose model `train_adapler_exits` trains exits."
    )
    methods: dict[Name, Method] = Field(description="Name -> method; `full` is always one.")
    calibration: Calibration = Field(Calibration(), description="Temperatures and thresholds.")
    goal: Goal = Field(Goal(), description="Operating points.")
    evaluation: Evaluation = Field(Evaluation(), description="Protocol.")
    deployments: list[DeploymentKind] = Field(
        ["torch"],
        description="What every method is deployed as, where it can be: `torch`, which is what the main table shows, and "
        "what else is to stand in `deployments.md` and to be chosen among. The full and the recommended model are always "
        "deployed as all three.",
    )
    explanations: Explanations = Field(
        Explanations(), description="Which scores of tokens are held against rationales."
    )
    generation: Generation = Field(Generation(), description="The second grid: tasks that write text.")
    runtime: Runtime = Field(Runtime(), description="Threads, device, precision.")

    @model_validator(mode="after")
    def _whole(self) -> Params:
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds {self.seeds} repeat")
        axes = {name: getattr(self, name) for name in ("tasks", "backbones", "seeds", "methods")}
        classifiers = whole_or_empty(axes)
        if not classifiers and not self.generation.tasks:
            raise ValueError(f"{', '.join(axes)} are empty, and so is `generation`: nothing would run")
        self._check_deployments()
        self.grid.check_names()
        check_generation(self.generation, self.text_grid, {*self.tasks, *self.backbones})
        if classifiers and "full" not in self.methods:
            raise ValueError("`methods` needs `full`, the model that every speed-up is measured against")
        check_stages(self.trained_by, {name: method.train.objective for name, method in self.methods.items()})
        check_reduction(self.trained_by, self.token_scores, self.pruned_body, self.explanations.methods)
        for name in self._single_exits:
            if self.methods[name].train.exits is not None:
                raise ValueError(f"methods.{name}: `exits` has no meaning for it; remove it")
        for name, method in self.methods.items():
            for task in method.train.removal.by_task if method.train.removal else ():
                named(self.tasks, task, "task")
            if name != "full" and method.train.keep_epochs > 1:
                raise ValueError(
                    f"methods.{name}: `keep_epochs` is for `full`, of which saliencies are taken; remove it"
                )
            if method.train.epochs == 0:
                self._check_untrained(name)
            for where, backbone in self.backbones.items():
                exits = method.train.exits or backbone.exits
                if method.train.objective in EXITS_TOGETHER and len(exits) < 2:
                    raise ValueError(
                        f"methods.{name}: objective: {method.train.objective} needs exits that learn from each other, and "
                        f"{where} has the exit {exits} alone; give `exits` an inner layer"
                    )
        cascades = self.trained_by.train_multi_model
        if len(cascades) > 1:
            raise ValueError(
                f"trained_by.train_multi_model: {cascades} would share the rows static_K; name one"
            )
        self._check_shared()
        for name in self.methods:
            self._check_static(name, cascades)
        for name in self.methods:
            self._check_references(name)
        trained = [name for names in self.trained_by.by_stage.values() for name in names]
        for name in self.methods:
            wanted = 0 if name == "full" else 1
            if trained.count(name) != wanted:
                raise ValueError(
                    f"method {name!r} stands {trained.count(name)} times in trained_by, expected {wanted}: "
                    "list every method but `full` under the one stage that trains it"
                )
        unknown = sorted(set(self.evaluation.timed_seeds) - set(self.seeds))
        if classifiers and unknown:
            raise ValueError(f"evaluation.timed_seeds {unknown} are not among seeds {self.seeds}")
        for name, method in self.methods.items():
            _require_module("objectives", method.train.objective, f"methods.{name}.train.objective")
            for rule in method.rules:
                _require_module("exit_rules", rule.partition("(")[0], f"methods.{name}.rules")
        return self

    def _check_deployments(self) -> None:
        """Refuse a list without PyTorch, which every method is measured in, or with repeats."""
        given = f"deployments [{', '.join(self.deployments)}]"
        if "torch" not in self.deployments:
            raise ValueError(
                f"{given} lacks torch, in which every method is measured; allowed: torch, and onnx_fp32 and onnx_int8 "
                f"beside it; write [{', '.join(dict.fromkeys(['torch', *self.deployments]))}]"
            )
        if len(set(self.deployments)) < len(self.deployments):
            raise ValueError(
                f"{given} repeats; name each once: [{', '.join(dict.fromkeys(self.deployments))}]"
            )

    @property
    def _single_exits(self) -> tuple[str, ...]:
        """The methods whose models have one exit each."""
        return tuple(name for name in ("full", *self.trained_by.train_multi_model) if name in self.methods)

    def _check_shared(self) -> None:
        """Refuse keys that say how exits share a model where every model of the method has one exit."""
        for name in self._single_exits:
            self.methods[name].train.check_single_exit(f"methods.{name}, whose models have one exit each")
        if all(len(backbone.exits) == 1 for backbone in self.backbones.values()):
            for name, method in self.methods.items():
                if method.train.exits is None:
                    method.train.check_single_exit(f"methods.{name}, since no backbone has a second exit")

    def _check_static(self, name: str, cascades: list[str]) -> None:
        """Refuse a method whose name tables read as K layers fine-tuned alone, where it is not, or is there twice."""
        layers, train = static_layers(name), self.methods[name].train
        if layers is None:
            return
        if train.exits != [layers] or train.objective != "joint":
            raise ValueError(
                f"method {name!r} is named like the first {layers} layers fine-tuned alone: give it exits: [{layers}] and "
                "objective: joint, or another name"
            )
        if cascades and any(layers in backbone.exits for backbone in self.backbones.values()):
            raise ValueError(
                f"method {name!r} would share its rows with the member of {cascades[0]} that has {layers} layers; remove it"
            )

    def _check_untrained(self, name: str) -> None:
        """Refuse `epochs: 0` where it would leave a head that nothing was learned by."""
        if name != "full":
            raise ValueError(f"methods.{name}.train: epochs: 0 is for `full` alone; give at least 1")
        for where, backbone in self.backbones.items():
            if backbone.head == "new":
                raise ValueError(
                    f"methods.full.train: epochs: 0 keeps the model as its checkpoint has it, but backbones.{where} starts "
                    "with a new head; set head: checkpoint there, or give at least 1"
                )

    def _check_references(self, name: str) -> None:
        """Refuse a comparison that cannot be made."""
        asked, where = self.methods[name].references, f"methods.{name}.references"
        for reference in asked:
            if reference not in self.methods:
                raise ValueError(
                    f"{where}: no method {reference!r}; allowed: {', '.join(self.methods)}"
                    f"{nearest(reference, list(self.methods))}"
                )
            if reference == name:
                raise ValueError(f"{where}: {name!r} would be compared with itself; remove it")
            if asked.count(reference) > 1:
                raise ValueError(f"{where}: {reference!r} is named twice; name it once")

    @property
    def grid(self) -> Grid:
        """Return the cells that the params ask for."""
        return Grid(tuple(self.tasks), tuple(self.backbones), tuple(self.seeds), tuple(self.methods))

    @property
    def text_grid(self) -> TextGrid:
        """Return the cells that `generation` asks for."""
        asked = self.generation
        axes = (asked.tasks, asked.models, asked.seeds, asked.trainings, asked.methods)
        return TextGrid(*(tuple(axis) for axis in axes))

    def method(self, name: str) -> Method:
        """Return one method, or refuse with the nearest name."""
        return named(self.methods, name, "method")

    def task(self, name: str) -> Task:
        """Return one task, or refuse with the nearest name."""
        return named(self.tasks, name, "task")

    def backbone(self, name: str) -> Backbone:
        """Return one backbone, or refuse with the nearest name."""
        return named(self.backbones, name, "backbone")

    def training_of(self, task: str, method: str) -> tuple[Training, MethodTraining]:
        """Return how a method is trained on a task: `training` and the method's own section, overrides applied."""
        by_task = self.task(task).training or TaskTraining()
        training, own = effective(self.training, by_task, self.method(method).train)
        if own.removal is not None:
            own = own.model_copy(update={"removal": own.removal.on(task)})
        return training, own

    def echo(self, keys: Iterable[str]) -> dict[str, Any]:
        """Return the values of dotted keys as a record holds them, e.g. ``training``, ``methods.sweet.train``.

        Values that equal the default are left out (a section of nothing else is null): a later key changes no digest.
        """
        whole = self.model_dump(mode="json", exclude_defaults=True)
        found: dict[str, Any] = {}
        for key in keys:
            value: Any = whole
            for part in key.split("."):
                value = value.get(part) if isinstance(value, dict) else None
            found[key] = value
        return found


def _require_module(folder: str, name: str, where: str) -> None:
    names = module_names(folder)
    if name not in names and not is_own(name):  # one's own is looked at by `own_code`
        raise ValueError(
            f"{where}: no {name!r} in {folder}/; allowed: {', '.join(names)}{nearest(name, names)}"
        )


def named(table: Mapping[str, Any], name: str, what: str) -> Any:
    """Return an entry of the params, or refuse with the nearest name."""
    if name not in table:
        raise UserError(
            f"no {what} {name!r} in the params; allowed: {', '.join(table)}{nearest(name, list(table))}"
        )
    return table[name]


def load_params(path: str | Path = "params.yaml") -> Params:
    """Read and check a params file.

    Raises
    ------
    UserError
        The file is missing or no YAML, a key is unknown or repeated, or a value is not allowed.
    """
    return parse_params(read_yaml(Path(path)), str(path))


def parse_params(raw: Any, origin: str = "params") -> Params:
    """Check a plain mapping; see `load_params`."""
    if not isinstance(raw, dict):
        raise UserError(f"{origin} must be a mapping with the keys {', '.join(Params.model_fields)}")
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        raise UserError("\n".join(explain(item, origin, Params) for item in error.errors())) from error
