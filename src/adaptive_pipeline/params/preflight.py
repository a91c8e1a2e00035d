"""What is checked of ``params.yaml`` before any stage runs, whoever starts it, beyond the keys and their values.

Stage `check_params` of ``dvc.yaml`` runs it, and every other stage comes after that one; Snakemake runs it when it reads
its rules. All that is wrong with the params is a `UserError`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path

from adaptive_inference.backbones._at_a_glance import surely_fits
from adaptive_inference.data.splits import check_generated_rows, most_calibration_rows
from adaptive_inference.errors import UserError
from adaptive_inference.exit_rules import load_rules
from adaptive_inference.objectives import load_objective
from adaptive_inference.settings.inputs import Backbone, weights_kind
from adaptive_inference.settings.training import FROM_FULL, OURS, REDUCING
from adaptive_pipeline.params import Params, load_params, own_code
from adaptive_pipeline.params.text_preflight import check_texts

logger = logging.getLogger("adaptive_inference")
DATA = Path("data")
#: Objectives that ask of an encoder what can be seen at a glance: nothing, or an exit after its last layer.
FROM_LAST = {"frozen", *REDUCING}
PLAIN = set(OURS) - set(FROM_FULL) | FROM_LAST


def checked_params(path: str | Path = "params.yaml", encoders: bool = True) -> Params:
    """Load a params file and check all that can be checked without training.

    Parameters
    ----------
    encoders
        Look at the encoders too, which takes seconds where `surely_fits` does not answer.

    Raises
    ------
    UserError
        A name, a key, a value, a rule, an encoder, an exit, a checkpoint's own head, a precision, a risk, a number of
        rows, or a file or folder of data cannot be used.
    """
    params = load_params(path)
    check_own_code(params)
    check_rules(params)
    check_generated(params)
    if encoders:
        with _told():
            check_encoders(params)
            check_own_heads(params)
            tell_of_few_rows(params)
            check_texts(params.generation, DATA)
    check_risk(params)
    check_data(DATA)
    check_evaluation_files(params)
    check_data(own_code.FOLDER)
    return params


def check_own_code(params: Params) -> None:
    """Load the code of one's own that the params name, or say what is wrong with it."""
    for use in own_code.uses(params):
        with _named(use.where):
            own_code.check(use, params)


def check_data(folder: Path) -> None:
    """Refuse a link to a folder of data, or of code: DVC does not see changes behind it."""
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


def check_generated(params: Params) -> None:
    """Refuse a generated task with too few rows for the splits that are asked of it."""
    for name, task in params.tasks.items():
        if task.source == "generated":
            check_generated_rows(name, task)


def check_evaluation_files(params: Params) -> None:
    """Refuse a task whose training file is reported too, under another name; a missing file is told by `prepare_data`."""
    for name, task in params.tasks.items():
        if task.source == "local" and task.train and task.evaluation:
            train, evaluation = DATA / task.train, DATA / task.evaluation
            if train.is_file() and evaluation.is_file() and train.samefile(evaluation):
                raise UserError(
                    f"tasks.{name}: evaluation {task.evaluation!r} and train {task.train!r} are one file: rows that were "
                    "trained on would be reported; name another file, or leave `evaluation` out, which carves it from train"
                )


def check_encoders(params: Params) -> None:
    """Refuse an encoder at hand that cannot be read, and what is asked of one that it cannot have.

    That is exits, the length of inputs, the precision, blocks of its own, and what an objective needs. A checkpoint of the
    hub is known when `prepare_data` has fetched it; each training looks again.
    """
    for name, backbone in params.backbones.items():
        if weights_kind(backbone.weights) != "hub" and not _plainly_fits(params, backbone):
            _check_encoder(params, name, backbone)


def _plainly_fits(params: Params, backbone: Backbone) -> bool:
    """Say whether nothing is asked that an encoder could lack, as far as can be told without torch."""
    trained = [method.train for method in params.methods.values()]
    if params.runtime.precision != "fp32" or any(train.objective not in PLAIN for train in trained):
        return False
    exits = [layer for train in trained for layer in train.exits or []] + backbone.exits
    length = max(task.max_length for task in params.tasks.values())
    return surely_fits(
        backbone.weights,
        exits,
        length,
        any(train.gradient == "blockwise" for train in trained),
        [(train.exits or backbone.exits)[-1] for train in trained if train.objective in FROM_LAST],
        any(train.objective in REDUCING for train in trained),
    )


def _check_encoder(params: Params, name: str, backbone: Backbone) -> None:
    from adaptive_inference.backbones.load import (
        adapter,
        check_fit,
        check_gradient,
        check_precision,
        load_config,
    )

    def fits(exits: list[int]) -> None:
        for task, settings in params.tasks.items():
            check_fit(backbone, exits, task, settings.max_length)

    with _named(f"backbones.{name}"):
        config = load_config(backbone.weights)
        kind = adapter(config.model_type)
        check_precision(kind, params.runtime.precision)
        fits(backbone.exits)
    for method, train in ((method, item.train) for method, item in params.methods.items()):
        with _named(f"methods.{method} on backbones.{name}"):
            exits = train.exits or backbone.exits
            fits(exits)
            check_gradient(kind, train.gradient, exits)
            surgery = load_objective(train.objective, train).surgery
            surgery.check_encoder(kind, config)
            surgery.check_exits(exits, int(config.num_hidden_layers))


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


def check_risk(params: Params) -> None:
    """Refuse to certify a risk on a task that has no such risk, or too few rows for it."""
    risk = params.goal.risk
    if risk is None:
        return
    from adaptive_inference.calibration.risk_control import check_kind, check_rows

    for name, task in params.tasks.items():
        with _named(f"tasks.{name}"):
            check_kind(task.kind)
            if params.calibration.calibrate_on == "calibration":
                check_rows(most_calibration_rows(task, DATA), risk.delta, risk.epsilon)


def tell_of_few_rows(params: Params) -> None:
    """Say where no recommendation can be promised but by luck, since the calibration rows are too few for the confidence.

    So many rows are needed that not losing one of them shows that ``max_loss`` is kept, with that probability.
    """
    from adaptive_inference.calibration.risk_control import fewest_rows

    goal = params.goal
    if params.calibration.calibrate_on != "calibration":
        return
    needed = fewest_rows(goal.max_loss, goal.confidence)
    for name, task in params.tasks.items():
        try:
            rows = most_calibration_rows(task, DATA)
        except UserError:  # `prepare_data` tells what is wrong with a file
            continue
        if rows < needed:
            logger.warning(
                "tasks.%s: %d calibration rows are too few to promise that at most %g %s lost with a probability of %g: "
                "that takes %d rows or more (calibration_rows; at most a fifth of the rows to train on), a larger "
                "goal.max_loss or a smaller goal.confidence. The run goes on, and will recommend the full model",
                name, rows, goal.max_loss, "point is" if goal.max_loss == 1 else "points are", goal.confidence, needed,
            )  # fmt: skip


@contextmanager
def _told() -> Iterator[None]:
    """Show what the library says meanwhile: an encoder that lies in pieces is joined on its first use."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("adaptive-inference: %(message)s"))
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


@contextmanager
def _named(where: str) -> Iterator[None]:
    """Say where in the params an error comes from."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
