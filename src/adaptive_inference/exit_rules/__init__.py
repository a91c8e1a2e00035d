"""When to stop: one file per rule, found by its name. Pure numpy; knows nothing of training."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from importlib import import_module
from typing import Any

from adaptive_inference.errors import UserError, nearest
from adaptive_inference.exit_rules.base import ExitRule, OnlineRule, OnlineStreak, ScoreRule

__all__ = ["ExitRule", "OnlineRule", "OnlineStreak", "ScoreRule", "load_rule", "load_rules"]


def load_rule(name: str) -> ExitRule:
    """Return the rule that the file ``exit_rules/NAME.py`` defines as ``RULE``, with the options that follow the name.

    Parameters
    ----------
    name
        ``NAME``, all options at their defaults, or ``NAME(option=value, ...)``, e.g. ``patience(tolerance=0.2)``. The
        rule's own `ExitRule.name` is the one spelling of it that files and tables hold.

    Raises
    ------
    UserError
        There is no such file (the message offers the nearest name), or an option is unknown, given twice or no
        number.
    """
    from adaptive_inference.by_name import module_names

    names, file = module_names("exit_rules"), name.partition("(")[0].strip()
    if file not in names:
        raise UserError(f"no exit rule {file!r}; allowed: {', '.join(names)}{nearest(file, names)}")
    rule: ExitRule = import_module(f"{__name__}.{file}").RULE
    bracketed = re.fullmatch(r"[^(]*(?:\((?P<options>.*)\)\s*)?", name)
    if bracketed is None:
        raise UserError(f"exit rule {name!r} is cut short; write {file}, or {file}(option=value)")
    text = bracketed["options"]
    return rule if text is None else replace(rule, **_options(name, rule, text))


def load_rules(names: Sequence[str]) -> dict[str, ExitRule]:
    """Return the rules of a method by name.

    Raises
    ------
    UserError
        See `load_rule`; also where a rule stands twice, or is not spelled as files and tables will spell it.
    """
    rules: dict[str, ExitRule] = {}
    for name in names:
        rule = load_rule(name)
        if rule.name in rules:
            raise UserError(f"exit rule {name!r} stands twice among the rules; keep one")
        if rule.name != name:
            raise UserError(f"exit rule {name!r} must be written {rule.name!r}, as tables will name it")
        rules[name] = rule
    return rules


def _options(name: str, rule: ExitRule, text: str) -> dict[str, Any]:
    """Read ``option=value, ...``; a value has the type of the option's default."""
    defaults = {option.name: option.default for option in fields(rule)} if is_dataclass(rule) else {}
    kinds = {int: "a whole number", float: "a number"}
    told = [f"{key} ({kinds[type(value)]}, default {value})" for key, value in defaults.items()]
    found: dict[str, Any] = {}
    for item in text.split(","):
        key, _, value = (part.strip() for part in item.partition("="))
        try:
            if key in found or key not in defaults:
                raise ValueError
            found[key] = type(defaults[key])(value)
        except ValueError:
            raise UserError(
                f"exit rule {name!r}: cannot read {item.strip()!r}; options of {rule.name}: "
                f"{', '.join(told) or 'none, write the bare name'}{nearest(key, [*defaults])}"
            ) from None
    return found
