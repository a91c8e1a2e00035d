"""From pydantic's errors to sentences that a user can act on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from adaptive_inference.errors import nearest


def explain(item: Mapping[str, Any], origin: str, root: type[BaseModel]) -> str:
    """Return one sentence for one error: the key, the value, what is allowed, the nearest name."""
    path = (
        item["loc"][:-2] if item["loc"][-1:] == ("[key]",) else item["loc"]
    )  # a bad key is told by the message
    where = ".".join(str(part) for part in path)
    if item["type"] == "extra_forbidden":
        allowed = _fields_at(root, item["loc"][:-1])
        key = str(item["loc"][-1])
        return f"{origin}: unknown key {where!r}; allowed here: {', '.join(allowed)}{nearest(key, allowed)}"
    if item["type"] == "missing":
        return f"{origin}: {where!r} is missing; add it"
    message = item["msg"].removeprefix("Value error, ")
    value = "" if item["type"] == "value_error" else f" (given: {item['input']!r})"
    return f"{origin}: {where or 'params'}: {message}{value}"


def _fields_at(root: type[BaseModel], location: tuple[Any, ...]) -> list[str]:
    """Return the keys allowed at a location of the params tree."""
    model: Any = root
    for part in location:
        if isinstance(part, int):  # a place in a list: its sections are all alike
            continue
        if isinstance(model, type) and issubclass(model, BaseModel):
            model = model.model_fields[str(part)].annotation
        elif getattr(model, "__origin__", None) is dict:
            model = model.__args__[1]
        for option in getattr(model, "__args__", ()):  # `Section | None`
            if (
                isinstance(option, type)
                and issubclass(option, BaseModel)
                and getattr(model, "__origin__", None) is not dict
            ):
                model = option
    return list(model.model_fields) if isinstance(model, type) and issubclass(model, BaseModel) else []
