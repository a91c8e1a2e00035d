"""What is minimised: one file per idea, found by its name.

Adding a file here makes no existing stage stale: nothing lists the names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from adaptive_inference.by_name import find, is_own
from adaptive_inference.own_code import find_own

if TYPE_CHECKING:
    from adaptive_inference.objectives.base import Objective, Whole
    from adaptive_inference.settings.training import MethodTraining


def load_objective(name: str, method: MethodTraining, whole: Whole | None = None) -> Objective:
    """Return the objective of the file ``objectives/NAME.py``, or of a file of one's own, set up for a method.

    Parameters
    ----------
    name
        Of the file; code of one's own, as `own_code.load_own_code` takes it, is run.
    method
        Gives its options.
    whole
        Asked at once for the model of all layers that the objective needs, if it needs one: ``fine_tuned`` or
        ``pretrained``. None: the objective will not be trained with, only asked what it declares and allows.

    Raises
    ------
    UserError
        There is no such file, or one's own cannot be used.
    """
    from adaptive_inference.objectives.base import Objective

    kind = (find_own if is_own(name) else find)("objectives", name, Objective)
    return kind(method, whole)
