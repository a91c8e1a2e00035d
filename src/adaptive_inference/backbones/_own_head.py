"""The classification head that a fine-tuned checkpoint brings along: whether it is there and answers the task."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import safetensors

from adaptive_inference.backbones.load import adapter, load_config, weight_files, weight_folder
from adaptive_inference.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from adaptive_inference.settings.inputs import Backbone as BackboneParams

#: What transformers calls classes that nobody named.
_UNNAMED = re.compile(r"LABEL_\d+")


def check_own_head(backbone: BackboneParams, task: str, kind: str, labels: Sequence[str] | None) -> None:
    """Refuse a checkpoint's own head that is not there or does not answer a task, without loading its weights.

    Parameters
    ----------
    backbone
        A section of ``backbones`` in the params; with ``head: new`` nothing is refused.
    task
        Name of the task, for the message.
    kind, labels
        What the task asks for: ``classification`` with the names of the classes, None where they are not known yet, or
        ``regression``.

    Raises
    ------
    UserError
        The files hold no such head, it scores where classes are asked for or the other way round, or its classes are
        others than the task's.
    """
    if backbone.head == "new":
        return
    config, folder = (item(backbone.weights, backbone.revision) for item in (load_config, weight_folder))
    outputs = [_rows(folder, f"{module}.weight") for module in adapter(config.model_type).stock_head][-1]
    if outputs != config.num_labels:
        raise UserError(
            f"{folder}: the head has {outputs} outputs, and config.json names {config.num_labels} "
            f"({_listed(_names(config))}); correct its `id2label`"
        )
    if kind == "regression" or labels is not None:
        try:
            class_order(config, labels)
        except UserError as error:
            raise UserError(f"task {task}: {error}") from error


def class_order(config: PreTrainedConfig, labels: Sequence[str] | None) -> list[int]:
    """Return which output of a checkpoint's head answers each of a task's classes.

    Classes are matched by their names, in upper or lower case, so that their order may differ; those of a checkpoint that
    names none (``LABEL_0``, ...) are taken as they stand.

    Parameters
    ----------
    config
        Of the checkpoint.
    labels
        The task's classes, in its order; None: it asks for a score.

    Raises
    ------
    UserError
        Number or names of the classes differ.
    """
    theirs = _names(config)
    if labels is None:
        if len(theirs) == 1:
            return [0]
        raise UserError(
            f"the task asks for a score, and the checkpoint's own head tells {len(theirs)} classes apart "
            f"({_listed(theirs)}); leave out `head: checkpoint`, or use `kind: classification`"
        )
    if config.problem_type == "multi_label_classification":
        raise UserError(
            "the checkpoint's own head gives each text any number of classes (multi-label), and the task one; leave out "
            "`head: checkpoint`"
        )
    if len(theirs) == len(labels) and all(_UNNAMED.fullmatch(name) for name in theirs):
        return list(range(len(theirs)))
    index = {name.casefold(): position for position, name in enumerate(theirs)}
    order = [index.get(label.casefold()) for label in labels]
    if len(theirs) != len(labels) or None in order or len(set(order)) != len(order):
        raise UserError(
            f"the checkpoint's own head answers {_listed(theirs)}, and the task's classes are {_listed(labels)}; name them "
            "alike, in any order (`labels` of the task, or `id2label` in the folder's config.json), or leave out "
            "`head: checkpoint`"
        )
    return [position for position in order if position is not None]


def order_told(config: PreTrainedConfig, labels: Sequence[str] | None, order: Sequence[int]) -> str:
    """Say how a head's outputs became the task's classes; empty where name and place agree, or there are none."""
    if labels is None:
        return ""
    theirs = _names(config)
    pairs = _listed([f"{theirs[position]} = {label}" for label, position in zip(labels, order, strict=True)])
    if all(_UNNAMED.fullmatch(name) for name in theirs):
        return f"the checkpoint's head names no classes; taken in the task's order: {pairs}"
    if list(order) != sorted(order):
        return f"the checkpoint's head has another order of classes; put into the task's by name: {pairs}"
    return ""


def _rows(folder: Path, name: str) -> int:
    """Return the rows of a weight, read from the head of its file.

    Raises
    ------
    UserError
        The file cannot be read, or none holds it.
    """
    for file in weight_files(folder):
        try:
            with safetensors.safe_open(file, "pt") as weights:
                if name in weights.keys():  # noqa: SIM118 - no dict
                    return int(weights.get_slice(name).get_shape()[0])
        except (OSError, safetensors.SafetensorError) as error:
            raise UserError(f"{file} cannot be read ({error}); fetch it again") from error
    raise UserError(
        f"{folder} holds no classification head (no {name}), so none can be kept; leave out `head: checkpoint`, or give a "
        "model that was fine-tuned as a classifier"
    )


def _names(config: PreTrainedConfig) -> list[str]:
    """Return the names of a head's outputs in their order."""
    return [str(name).strip() for _, name in sorted(config.id2label.items())]


def _listed(names: Sequence[str]) -> str:
    """Return names as a sentence shows them, the first ten."""
    return ", ".join(names[:10]) + (f", ... ({len(names)} in all)" if len(names) > 10 else "")
