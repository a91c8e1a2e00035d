"""Hyper-parameter search: a grid over keys of the params, its points, and the best of them. Loads no torch.

A *patch* maps dotted keys of the params to values; a point of the grid is a patch.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import fmean, stdev
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import Field, ValidationError

from adaptive_inference.errors import UserError, nearest
from adaptive_inference.files import digest_json
from adaptive_inference.settings.base import Section
from adaptive_inference.settings.training import MethodTraining, Training
from adaptive_pipeline.params import Params, parse_params
from adaptive_pipeline.params.messages import explain
from adaptive_pipeline.params.yaml_file import read_yaml

Patch = dict[str, Any]
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

    search: list[str] = Field([], description="Name of the grid file.")
    task: str | None = None
    backbone: str | None = None
    method: str | None = None
    seed: int | None = None
    folds: list[int] = Field([], description="Numbers of the folds.")
    points: dict[str, Patch] = Field(
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


@dataclass(frozen=True)
class Scored:
    """A point and its score in each fold."""

    name: str
    patch: Patch
    scores: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean over folds."""
        return fmean(self.scores)

    @property
    def std(self) -> float:
        """Sample standard deviation over folds (n - 1)."""
        return stdev(self.scores)


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


def set_keys(body: dict[str, Any], patch: Mapping[str, Any]) -> None:
    """Set dotted keys of nested mappings in place; a section that is absent or empty is made.

    In a file that is edited (``CommentedMap``) a new key goes to the top of its section: at the end it would come after the
    comment that precedes the next section.
    """
    for key, value in patch.items():
        *path, last = key.split(".")
        section = body
        for part in path:
            if section.get(part) is None:
                _put(section, part, {})
            section = section[part]
            if not isinstance(section, dict):
                raise UserError(
                    f"{key!r}: {part!r} holds a value, {section!r}, and no keys; name {part!r} itself"
                )
        _put(section, last, value)


def _put(section: dict[str, Any], key: str, value: Any) -> None:
    if key not in section and hasattr(section, "insert"):
        section.insert(0, key, value)
    else:
        section[key] = value


def patched(params: Params, patch: Mapping[str, Any], origin: str = "params") -> Params:
    """Return the params with other values, checked as a whole.

    Raises
    ------
    UserError
        A key is unknown or a value is not allowed.
    """
    body = params.model_dump(mode="json", exclude_unset=True)
    set_keys(body, patch)
    return parse_params(body, origin)


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
        patch = {key: _value(at_point, key) for key in given}
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

    searched = ["full", *(method for stage in SEARCHED for method in params.trained_by[stage])]
    if name not in searched:
        raise UserError(
            f"method {name!r} is not one encoder with exits, and only these can be searched: {', '.join(searched)}"
        )
    train = params.method(name).train
    objective = load_objective(train.objective, train)
    if objective.starts_from_full or objective.needs_full == "fine_tuned":
        raise UserError(
            f"method {name!r} has objective: {train.objective}, which starts from the full model or learns from it, "
            "and that was trained on the rows that a fold holds out; tune `full`, or a method that "
            "starts from the pre-trained encoder"
        )
    objective.check_kind(kind)


def best(scored: Sequence[Scored]) -> Scored:
    """Return the point of the highest mean, the earliest of several."""
    return max(scored, key=lambda point: point.mean)


def results_csv(scored: Sequence[Scored]) -> str:
    """Return the table of all points in the grid's order: what they set, the score of each fold, mean and spread."""
    keys, folds = list(scored[0].patch), len(scored[0].scores)
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["point", *keys, *(f"fold{fold}" for fold in range(folds)), "mean", "std", "folds"])
    for point in scored:
        figures = (f"{value:.6f}" for value in (*point.scores, point.mean, point.std))
        writer.writerow([point.name, *point.patch.values(), *figures, folds])
    return stream.getvalue()


def patch_text(winner: Scored, points: int, search: str) -> str:
    """Return the winner as a patch of the params, with how it did and how to apply it."""
    return (
        f"# Best of {points} points: {winner.mean:.4f}, the mean over {len(winner.scores)} held-out folds and all exits "
        f"(std over folds {winner.std:.4f}).\n# Into params.yaml: make apply NAME={search}\n"
    ) + to_yaml(winner.patch, flow=False)


def to_yaml(body: Mapping[str, Any], flow: bool | None = None) -> str:
    """Return YAML in the given order; floats have a dot, without which 1e-05 would be read as a text."""
    return yaml.safe_dump(dict(body), sort_keys=False, default_flow_style=flow, width=1000)


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


def _only(what: str, names: list[str], origin: str) -> str:
    if len(names) > 1:
        raise UserError(f"{origin}: which {what}? Add `{what}: NAME`, one of {', '.join(names)}")
    return names[0]


def _value(params: Params, key: str) -> Any:
    """Return a value as the params read it: the text '1e-4' in YAML is a number."""
    value: Any = params.model_dump(mode="json", exclude_unset=True)
    for part in key.split("."):
        value = value[part]
    return value
