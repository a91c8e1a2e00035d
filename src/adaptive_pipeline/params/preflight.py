"""What is checked of ``params.yaml`` before any stage runs, whoever starts it, beyond the keys and their values.

Stage `check_params` of ``dvc.yaml`` runs it, and every other stage comes after that one; Snakemake runs it when it reads
its rules. All that is wrong with the params is a `UserError`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path

from adaptive_inference.errors import UserError
from adaptive_inference.exit_rules import load_rules
from adaptive_inference.objectives import load_objective
from adaptive_inference.settings.inputs import weights_kind
from adaptive_inference.settings.training import FROM_FULL
from adaptive_pipeline.params import Params, load_params

DATA = Path("data")


def checked_params(path: str | Path = "params.yaml", encoders: bool = True) -> Params:
    """Load a params file and check all that can be checked without training.

    Parameters
    ----------
    encoders
        Look at the encoders too, which takes seconds.

    Raises
    ------
    UserError
        A name, a key, a value, a rule, an exit, a checkpoint's own head, a precision, a risk or a folder of data cannot be
        used.
    """
    params = load_params(path)
    check_rules(params)
    if encoders:
        check_bf16(params)
        check_exits(params)
        check_own_heads(params)
    check_risk(params)
    check_data(DATA)
    return params


def check_data(folder: Path) -> None:
    """Refuse a link to a folder of data: DVC does not see changes behind it."""
    linked = [path.as_posix() for path in folder.rglob("*") if path.is_symlink() and path.is_dir()]
    if linked:
        raise UserError(
            f"{', '.join(linked)} links to a folder, and DVC does not see changes behind such a link; "
            "make a folder and link the files into it (data/README.md)"
        )


def check_rules(params: Params) -> None:
    """Refuse a method whose rules or objective do not fit a task.

    An objective is loaded (and torch with it) only where its name does not tell.
    """
    for task in params.tasks.values():
        for name, method in params.methods.items():
            train = method.train
            with _named(f"methods.{name}"):
                if task.kind == "regression":
                    load_objective(train.objective, train).check_kind(task.kind)
                for rule in load_rules(method.rules).values():
                    certain = not rule.needs_certainty or rule.name == train.objective
                    rule.check(task.kind, certain or load_objective(train.objective, train).needs_certainty)


def check_exits(params: Params) -> None:
    """Refuse a method's own exits, and those of an objective that needs certain ones, where they do not fit an encoder.

    The layers of a hub's checkpoint are known when `prepare_data` has fetched it; each training looks again.
    """
    trained = {name: method.train for name, method in params.methods.items()}
    asked = {name: train for name, train in trained.items() if train.exits or train.objective in FROM_FULL}
    if not asked:
        return
    from adaptive_inference.backbones.load import check_fit, layer_count

    at_hand = {
        at: backbone for at, backbone in params.backbones.items() if weights_kind(backbone.weights) != "hub"
    }
    for (at, backbone), (name, train) in product(at_hand.items(), asked.items()):
        exits = train.exits or backbone.exits
        with _named(f"methods.{name} on backbones.{at}"):
            for task, settings in params.tasks.items():
                check_fit(backbone, exits, task, settings.max_length)
            surgery = load_objective(train.objective, train).surgery
            surgery.check_exits(exits, layer_count(backbone.weights))


def check_own_heads(params: Params) -> None:
    """Refuse a folder whose own head does not answer a task, as far as the params tell.

    `prepare_data` looks again: there the weights of a hub are at hand, and the classes that a file names.
    """
    own = {
        name: backbone
        for name, backbone in params.backbones.items()
        if backbone.head == "checkpoint" and weights_kind(backbone.weights) == "folder"
    }
    if not own:
        return
    from adaptive_inference.backbones._own_head import check_own_head

    for (name, backbone), (task, settings) in product(own.items(), params.tasks.items()):
        with _named(f"backbones.{name}"):
            check_own_head(backbone, task, settings.kind, settings.labels)


def check_bf16(params: Params) -> None:
    """Refuse an encoder that is at hand and cannot be trained in bf16, where that is asked for."""
    if params.runtime.precision == "fp32":
        return
    from adaptive_inference.backbones.load import adapter, check_precision, load_config

    for name, backbone in params.backbones.items():
        if weights_kind(backbone.weights) != "hub":
            with _named(f"backbones.{name}"):
                check_precision(adapter(load_config(backbone.weights).model_type), params.runtime.precision)


def check_risk(params: Params) -> None:
    """Refuse to certify a risk on a task that has no such risk, or too few rows for it."""
    risk = params.goal.risk
    if risk is None:
        return
    from adaptive_inference.calibration.risk_control import check_kind, check_rows
    from adaptive_inference.data.splits import most_calibration_rows

    for name, task in params.tasks.items():
        with _named(f"tasks.{name}"):
            check_kind(task.kind)
            if params.calibration.calibrate_on == "calibration":
                check_rows(most_calibration_rows(task, DATA), risk.delta, risk.epsilon)


@contextmanager
def _named(where: str) -> Iterator[None]:
    """Say where in the params an error comes from."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
