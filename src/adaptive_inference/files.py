"""JSON and text on disk: written in one move, sorted, and with clear errors when read; and arrays with plain values."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from adaptive_inference.errors import UserError

if TYPE_CHECKING:
    import numpy as np

_reader = functools.cache(TypeAdapter)
_JSON_NAMES = {list: "a list", str: "a text", bool: "true or false", type(None): "null"}


def plain(value: Any) -> Any:
    """Return a JSON-ready copy: numpy scalars and arrays become Python's, non-finite numbers become null."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def write_json(path: Path, body: Any) -> None:
    """Write sorted, indented JSON in one move: a killed writer leaves no half file."""
    write_text(
        path, json.dumps(plain(body), indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    )


def write_text(path: Path, text: str) -> None:
    """Write a text file in one move."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8", newline="\n")
    os.replace(partial, path)


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write one sorted JSON object per line, in one move."""
    write_text(path, "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows))


def read_json(path: Path, fix: str | None = None) -> Any:
    """Read JSON, or say which file is missing or damaged, and what to do about it (default: run a stage again)."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; {fix or 'run the stage that writes it'}") from error
    except (ValueError, RecursionError) as error:  # no JSON, or no UTF-8; brackets without end
        raise UserError(
            f"{path} is not valid JSON ({error}); {fix or 'delete it and run its stage again'}"
        ) from error


def read_object(path: Path, fix: str | None = None) -> dict[str, Any]:
    """Read JSON that must be an object; see `read_json`."""
    body = read_json(path, fix)
    if not isinstance(body, dict):
        raise UserError(
            f"{path} holds {_JSON_NAMES.get(type(body), 'a number')}, not an object; "
            f"{fix or 'delete it and run its stage again'}"
        )
    return body


def check_form(form: Any, body: Any, origin: str | Path, fix: str) -> None:
    """Refuse JSON that has not the form of a type.

    Parameters
    ----------
    form
        A pydantic model, a dataclass, or another annotation; a number in quotes is no number.
    body
        What JSON gave.
    origin
        The file, or what the file holds, for the message.
    fix
        What the user may do about it.

    Raises
    ------
    UserError
        A key is missing, unknown or of another kind; the first one is told.
    """
    try:
        _reader(form).validate_json(json.dumps(body), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where, kind = ".".join(str(part) for part in first["loc"]), first["type"]
        if kind == "missing":
            told = f"{where!r} is missing"
        elif kind == "extra_forbidden":
            told = f"unknown key {where!r}"
        else:
            message = first["msg"].removeprefix("Value error, ")
            told = f"{where!r}: {message} (given: {first['input']!r:.200})" if where else message
        raise UserError(f"{origin}: {told}; {fix}") from error


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read one JSON object per line (split on newlines only)."""
    try:
        with path.open(encoding="utf-8", newline="\n") as stream:
            return [json.loads(line) for line in stream if line.strip()]
    except ValueError as error:
        raise UserError(
            f"{path} holds a line that is no JSON ({error}); delete it and run its stage again"
        ) from error


def digest_json(value: Any) -> str:
    """Return the sha256 of a value's canonical JSON."""
    text = json.dumps(plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def write_arrays(file: Path, arrays: Mapping[str, np.ndarray], name: str, head: Mapping[str, Any]) -> None:
    """Write arrays, and plain values beside them under ``name``, as one safetensors file, of equal bytes for equal content.

    All plain values are one entry: safetensors does not keep the order of several.
    """
    import numpy as np
    from safetensors.numpy import save

    plain_arrays = {key: np.ascontiguousarray(array) for key, array in arrays.items()}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(save(plain_arrays, {name: json.dumps(head, sort_keys=True)}))


def read_arrays(file: Path, name: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read what `write_arrays` wrote under a name.

    Raises
    ------
    OSError, ValueError, KeyError
        The file is missing, is of another form, or holds no such entry.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="np") as stream:
            arrays = {key: stream.get_tensor(key) for key in stream.keys()}  # noqa: SIM118
            return arrays, json.loads((stream.metadata() or {})[name])
    except SafetensorError as error:
        raise ValueError(str(error)) from error
