"""What is minimised: one file per idea, found by its name.

Adding a file here makes no existing stage stale: nothing lists the names.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from adaptive_inference.by_name import module_names
from adaptive_inference.errors import UserError, nearest

if TYPE_CHECKING:
    from adaptive_inference.objectives.base import Objective, Whole
    from adaptive_inference.settings.training import MethodTraining


def load_objective(name: str, method: MethodTraining, whole: Whole | None = None) -> Objective:
    """Return the objective of the file ``objectives/NAME.py``, set up for a method.

    Parameters
    ----------
    name
        Of the file.
    method
        Gives its options.
    whole
        Asked at once for the model of all layers that the objective needs, if it needs one: ``fine_tuned`` or
        ``pretrained``. None: the objective will not be trained with, only asked what it declares and allows.

    Raises
    ------
    UserError
        There is no such file.
    """
    names = module_names("objectives")
    if name not in names:
        raise UserError(f"no objective {name!r}; allowed: {', '.join(names)}{nearest(name, names)}")
    return import_module(f"adaptive_inference.objectives.{name}").OBJECTIVE(method, whole)
