"""A patch of the params: dotted keys and what they are set to. A point of a grid is one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from adaptive_inference.errors import UserError
from adaptive_pipeline.params import Params, parse_params

Patch = dict[str, Any]


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


def value_at(params: Params, key: str) -> Any:
    """Return a value as the params read it: the text '1e-4' in YAML is a number."""
    value: Any = params.model_dump(mode="json", exclude_unset=True)
    for part in key.split("."):
        value = value[part]
    return value


def to_yaml(body: Mapping[str, Any], flow: bool | None = None) -> str:
    """Return YAML in the given order; floats have a dot, without which 1e-05 would be read as a text."""
    return yaml.safe_dump(dict(body), sort_keys=False, default_flow_style=flow, width=1000)
