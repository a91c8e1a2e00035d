"""What a client may ask: texts and options in the form of MLflow's scoring protocol, with whatever else it holds refused."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from adaptive_inference.errors import UserError, nearest
from adaptive_inference.tasks.schema import Schema

#: What one request may hold. No model here reads a hundredth of such a text; what is longer is no text.
MAX_BYTES, MAX_TEXTS, MAX_CHARACTERS = 4_000_000, 512, 100_000
#: Keys that hold the texts; a request has one of them. MLflow calls the same rows by four names.
ROWS = ("inputs", "instances", "dataframe_records", "dataframe_split")
_SPLIT = ("columns", "index", "data")
_OPTIONS = {"rule": "the name of an exit rule", "threshold": "a number", "max_latency_ms": "a number above 0"}


class TooLarge(UserError):
    """A request, or a text of it, beyond what is read."""


@dataclass(frozen=True)
class Options:
    """How the texts of a request are to be answered.

    Attributes
    ----------
    rule, threshold
        See `Predictor`; None: as the model recommends.
    max_latency_ms
        What a text may take, see `LatencyTable`; None: whatever the rule takes.
    """

    rule: str | None = None
    threshold: float | None = None
    max_latency_ms: float | None = None


@dataclass(frozen=True)
class Request:
    """N texts, each as many strings as the task has text columns, and how to answer them."""

    texts: list[tuple[str, ...]]
    options: Options


def read_request(body: bytes, schema: Schema) -> Request:
    """Read the body of a request.

    Parameters
    ----------
    body
        JSON, UTF-8.
    schema
        Of the model: it names the text columns.

    Raises
    ------
    UserError
        It is not of the form, or too large (`TooLarge`).
    """
    try:
        found = json.loads(body, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise UserError(f"the request is not JSON ({error or 'it is nested too deeply'})") from None
    form = f'send an object such as {{"inputs": {json.dumps(_example(schema))}}}'
    if not isinstance(found, dict):
        raise UserError(f"the request is {_kind(found)}; {form}")
    _check_names(found, (*ROWS, "params"), "field")
    held = [name for name in ROWS if name in found]
    if len(held) != 1:
        raise UserError(f"the request has {' and '.join(held) or 'no texts'}; {form}")
    rows = _records(found[held[0]], form) if held == ["dataframe_split"] else found[held[0]]
    if not isinstance(rows, list):
        raise UserError(f"`{held[0]}` is {_kind(rows)}, not a list; {form}")
    return Request(read_rows(rows, schema), read_options(found.get("params")))


def read_rows(rows: Sequence[Any], schema: Schema) -> list[tuple[str, ...]]:
    """Read texts, each a string, a list of strings or an object by the names of the text columns.

    Raises
    ------
    UserError
        There is none, too many (`TooLarge`), or one is of another form.
    """
    if not rows:
        raise UserError(f"there are no texts; send some, such as {json.dumps(_example(schema))}")
    if len(rows) > MAX_TEXTS:
        raise TooLarge(
            f"the request has {len(rows)} texts; at most {MAX_TEXTS} are answered at once: send several requests"
        )
    return [_text(number, row, schema) for number, row in enumerate(rows)]


def read_options(params: Any) -> Options:
    """Read ``params``, an object or None.

    Raises
    ------
    UserError
        A name or a value is none that is allowed.
    """
    if params is None:
        return Options()
    if not isinstance(params, Mapping):
        raise UserError(f"`params` is {_kind(params)}, not an object with {', '.join(_OPTIONS)}")
    _check_names(params, tuple(_OPTIONS), "params entry")
    rule, threshold, longest = (params.get(name) for name in _OPTIONS)
    if rule is not None and not isinstance(rule, str):
        _wrong("rule", rule)
    for name, value in (("threshold", threshold), ("max_latency_ms", longest)):
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if value is not None and not (number and abs(value) <= 1e9):
            _wrong(name, value)
    if longest is not None and longest <= 0:
        _wrong("max_latency_ms", longest)
    return Options(
        rule, None if threshold is None else float(threshold), None if longest is None else float(longest)
    )


def _wrong(name: str, value: Any) -> NoReturn:
    raise UserError(f"params entry `{name}` is {_kind(value)}; it must be {_OPTIONS[name]}, or be left out")


def _check_names(given: Mapping[Any, Any], allowed: Sequence[str], what: str) -> None:
    """Refuse a name that is none of those allowed: ignored, it would be a typing error that nobody hears of."""
    for name in given:
        if name not in allowed:
            raise UserError(
                f"unknown {what}: {_cut(repr(name))}; allowed: {', '.join(allowed)}{nearest(str(name)[:80], list(allowed))}"
            )


def _records(split: Any, form: str) -> list[dict[str, Any]]:
    """Return the rows of a ``dataframe_split`` as objects."""
    if not isinstance(split, dict):
        raise UserError(f"`dataframe_split` is {_kind(split)}, not an object; {form}")
    _check_names(split, _SPLIT, "field of dataframe_split")
    columns, data = split.get("columns"), split.get("data")
    names = isinstance(columns, list) and all(isinstance(name, str) for name in columns)
    if not (names and len({*columns}) == len(columns) and isinstance(data, list)):
        raise UserError(
            f"`dataframe_split` needs `columns`, a list of different names, and `data`, a list of rows; {form}"
        )
    for number, row in enumerate(data):
        if not isinstance(row, list) or len(row) != len(columns):
            raise UserError(
                f"row {number} of `dataframe_split` is not a list of {len(columns)}, as there are columns"
            )
    return [dict(zip(columns, row, strict=True)) for row in data]


def _text(number: int, row: Any, schema: Schema) -> tuple[str, ...]:
    """Return the strings of a row: one string, a list of them, or an object by the names of the columns."""
    columns = schema.text
    needs = f"it must be {json.dumps(_example(schema)[0])}, or {json.dumps(_example_object(schema))}"
    parts: Any = [row] if isinstance(row, str) else row
    if isinstance(row, dict):
        _check_names(row, columns, f"column of text {number}")
        parts = [row.get(name) for name in columns]
    if not isinstance(parts, list) or len(parts) != len(columns):
        raise UserError(f"text {number} is {_kind(row)}; {needs}")
    for part in parts:
        if not isinstance(part, str):
            raise UserError(f"text {number} has {_kind(part)} in place of a string; {needs}")
        if len(part) > MAX_CHARACTERS:
            raise TooLarge(
                f"text {number} has {len(part)} characters; at most {MAX_CHARACTERS} are read, of which the model takes "
                f"{schema.max_length} tokens: send its beginning"
            )
        if not _encodes(part):
            raise UserError(
                f"text {number} holds half a surrogate pair, which is no character; send whole ones"
            )
    return tuple(parts)


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _example(schema: Schema) -> list[Any]:
    texts = ["a truly lovely film", "I liked it"][: len(schema.text)]
    return texts if len(texts) == 1 else [texts]


def _example_object(schema: Schema) -> dict[str, str]:
    return dict(zip(schema.text, ["a truly lovely film", "I liked it"], strict=False))


def _kind(value: Any) -> str:
    """Return a value as a message tells it: short, whatever a client sent."""
    if isinstance(value, (list, dict)):
        return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value)}"
    if isinstance(value, float) and not math.isfinite(value):
        return "no finite number"
    return _cut(json.dumps(value, ensure_ascii=True, default=str))


def _cut(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON's")
