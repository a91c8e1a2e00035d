"""When to stop: one file per rule, found by its name. Pure numpy; knows nothing of training."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

from adaptive_inference.by_name import find, is_own, short_name
from adaptive_inference.errors import UserError, nearest
from adaptive_inference.exit_rules.base import ExitRule, OnlineRule, OnlineStreak, ScoreRule
from adaptive_inference.own_code import find_own

__all__ = ["ExitRule", "OnlineRule", "OnlineStreak", "ScoreRule", "load_rule", "load_rules"]


def load_rule(name: str) -> ExitRule:
    """Return the rule that the file ``exit_rules/NAME.py`` defines as ``RULE``, with the options that follow the name.

    Code of one's own is found by the same name once it was loaded (`load_rules`, `own_code.load_own_code`).

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
    file = name.partition("(")[0].strip()
    rule: ExitRule = find("exit_rules", file, ExitRule)
    bracketed = re.fullmatch(r"[^(]*(?:\((?P<options>.*)\)\s*)?", name)
    if bracketed is None:
        raise UserError(f"exit rule {name!r} is cut short; write {file}, or {file}(option=value)")
    text = bracketed["options"]
    return rule if text is None else replace(rule, **_options(name, rule, text))


def load_rules(names: Sequence[str]) -> dict[str, ExitRule]:
    """Return the rules of a method by name; code of one's own that the method names is run.

    Raises
    ------
    UserError
        See `load_rule`; also where a rule stands twice, or is not spelled as files and tables will spell it.
    """
    rules: dict[str, ExitRule] = {}
    for name in names:
        source = name.partition("(")[0].strip()
        if is_own(source):
            _check_home(source, find_own("exit_rules", source, ExitRule))
        rule = load_rule(short_name(name))
        if rule.name in rules:
            raise UserError(f"exit rule {name!r} stands twice among the rules; keep one")
        if rule.name != short_name(name):
            spelled = source + rule.name.removeprefix(short_name(source))
            raise UserError(f"exit rule {name!r} must be written {spelled!r}, as tables will name it")
        rules[rule.name] = rule
    return rules


def _check_home(source: str, rule: ExitRule) -> None:
    """Refuse a rule that goes by the name of another file."""
    if rule.name != short_name(source):
        raise UserError(
            f"{source}: RULE is of a class of {type(rule).__module__}, and would be called {rule.name!r}; define the class "
            "in this file, and leave its options at their defaults"
        )


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
