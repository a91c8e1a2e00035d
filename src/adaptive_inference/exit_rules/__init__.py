"""When to stop: one file per rule, found by its name. Pure numpy; knows nothing of training."""

from __future__ import annotations

from importlib import import_module

from adaptive_inference.errors import UserError, nearest
from adaptive_inference.exit_rules.base import ExitRule, OnlineRule, ScoreRule

__all__ = ["ExitRule", "OnlineRule", "ScoreRule", "load_rule"]


def load_rule(name: str) -> ExitRule:
    """Return the rule that the file ``exit_rules/NAME.py`` defines as ``RULE``.

    Raises
    ------
    UserError
        There is no such file; the message offers the nearest name.
    """
    from adaptive_inference.params import module_names

    names = module_names("exit_rules")
    if name not in names:
        raise UserError(f"no exit rule {name!r}; allowed: {', '.join(names)}{nearest(name, names)}")
    return import_module(f"{__name__}.{name}").RULE
