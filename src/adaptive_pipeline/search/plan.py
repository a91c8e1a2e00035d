"""A grid over keys of the params, and its points written out for DVC; loads no torch until a method is checked."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field, ValidationError

from adaptive_inference.by_name import is_own
from adaptive_inference.errors import UserError, nearest
from adaptive_inference.files import digest_json
from adaptive_inference.settings.base import Section
from adaptive_inference.settings.training import MethodTraining, Training
from adaptive_pipeline.grid import Name
from adaptive_pipeline.params import Params
from adaptive_pipeline.params.messages import explain
from adaptive_pipeline.params.yaml_file import read_yaml
from adaptive_pipeline.search.patch import Patch, patched, value_at

Kind = TypeVar("Kind", bound=Section)

#: Stages whose methods are one encoder with exits; the search trains these, and `full`.
SEARCHED = ("train_sweet", "train_leebert")


class Search(Section):
    """A grid file, `search/NAME.yaml`."""

    method: str = Field(description="The method that is tuned.")
    task: str | None = Field(None, description="On which task; absent: the only one of the params.")
    backbone: str | None = Field(None, description="With which backbone; absent: the only one.")
    seed: int = Field(0, description="One of `seeds`: draws splits, folds, heads and the order of rows.")
    folds: Annotated[int, Field(ge=2)] = Field(5, description="Parts of the train split, each held out once.")
    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(
        min_length=1, description="Dotted key of the params -> its values; all combinations are tried."
    )


class Plan(Section):
    """What `search/dvc.yaml` reads: the search that is on, its lists written out; no search: empty lists."""

    search: list[Name] = Field([], description="Name of the grid file.")
    task: Name | None = None
    backbone: Name | None = None
    method: Name | None = None
    seed: int | None = None
    folds: list[int] = Field([], description="Numbers of the folds.")
    points: dict[Name, Patch] = Field(
        {}, description="Name of each point -> what it sets, in the grid's order."
    )

    def point(self, name: str) -> Patch:
        """Return what a point sets, or refuse with the nearest name."""
        if name not in self.points:
            raise UserError(
                f"no point {name!r} in the search; there are {', '.join(self.points) or 'none'}"
                f"{nearest(name, list(self.points))}"
            )
        return self.points[name]


def read_section(kind: type[Kind], path: Path) -> Kind:
    """Read a grid file or a plan.

    Raises
    ------
    UserError
        The file is missing or no mapping, a key is unknown, or a value is not allowed.
    """
    raw = read_yaml(path)
    if not isinstance(raw, dict):
        raise UserError(f"{path} must be a mapping with the keys {', '.join(kind.model_fields)}")
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        raise UserError("\n".join(explain(item, str(path), kind) for item in error.errors())) from error


def plan(name: str, search: Search, params: Params, origin: str) -> Plan:
    """Check a search as far as that needs no data, and write its lists out.

    Points are named by what they set, so that a value more in the grid leaves finished points as they are.

    Raises
    ------
    UserError
        The params lack the method, task, backbone or seed; the method cannot be searched; a key does not say how it is
        trained; a point is not valid; two points train alike.
    """
    task = search.task or _only("task", list(params.tasks), origin)
    backbone = search.backbone or _only("backbone", list(params.backbones), origin)
    params.method(search.method), params.task(task), params.backbone(backbone)
    if search.seed not in params.seeds:
        raise UserError(f"{origin}: seed {search.seed} is not among seeds {params.seeds}, which have splits")
    _check_keys(search, origin)
    points: dict[str, Patch] = {}
    same: dict[str, Patch] = {}
    for values in product(*search.grid.values()):
        given = dict(zip(search.grid, values, strict=True))
        at_point = patched(params, given, origin)
        check_method(at_point, search.method, params.task(task).kind)
        patch = {key: value_at(at_point, key) for key in given}
        resolved = at_point.training_of(task, search.method)
        how = digest_json([section.model_dump(mode="json") for section in resolved])
        if how in same:
            raise UserError(
                f"{origin}: {same[how]} and {patch} train {search.method!r} alike; a value stands twice, or "
                f"methods.{search.method}.train or the task sets what a key of `training` varies"
            )
        same[how] = patch
        points[f"p{digest_json(patch)[:7]}"] = patch
    return Plan(
        search=[name],
        task=task,
        backbone=backbone,
        method=search.method,
        seed=search.seed,
        folds=list(range(search.folds)),
        points=points,
    )


def check_method(params: Params, name: str, kind: str) -> None:
    """Refuse a method that cannot be cross-validated, or not on this kind of task; loads torch.

    Raises
    ------
    UserError
        It is several models, starts from the full model, or its objective does not fit the task.
    """
    from adaptive_inference.objectives import load_objective

    stages = params.trained_by
    if name in (*stages.train_adapler, *stages.train_adapler_exits):
        raise UserError(
            f"method {name!r} learns from saliencies of the full model, and that was trained on the rows that a fold holds "
            "out; give each setting of `removal` a method of its own, which are compared on the calibration split"
        )
    searched = ["full", *(method for stage in SEARCHED for method in params.trained_by.by_stage[stage])]
    if name not in searched:
        raise UserError(
            f"method {name!r} is not one encoder with exits, and only these can be searched: {', '.join(searched)}"
        )
    train = params.method(name).train
    objective = load_objective(train.objective, train)
    if objective.needs_full == "fine_tuned":
        raise UserError(
            f"method {name!r} has objective: {train.objective}, which starts from the full model or learns from it, "
            "and that was trained on the rows that a fold holds out; tune `full`, or a method that "
            "starts from the pre-trained encoder"
        )
    objective.check_kind(kind)


def _check_keys(search: Search, origin: str) -> None:
    own = f"methods.{search.method}.train"
    allowed = [f"training.{key}" for key in Training.model_fields]
    allowed += [f"{own}.{key}" for key in MethodTraining.model_fields]
    for key in search.grid:
        if not key.startswith(("training.", f"{own}.")):
            raise UserError(
                f"{origin}: {key!r} does not say how {search.method!r} is trained; a grid has keys of `training` and of "
                f"`{own}`{nearest(key, allowed)}"
            )
        if key == f"{own}.exits":
            raise UserError(f"{origin}: {key!r} cannot be searched: means over other exits are no comparison")
        for value in search.grid[key]:
            if key == f"{own}.objective" and is_own(str(value)):
                raise UserError(
                    f"{origin}: {key!r}: {value} is code of one's own, whose edits a search does not see; make it the "
                    "objective of a method, and tune that"
                )


def _only(what: str, names: list[str], origin: str) -> str:
    if len(names) > 1:
        raise UserError(f"{origin}: which {what}? Add `{what}: NAME`, one of {', '.join(names)}")
    return names[0]
