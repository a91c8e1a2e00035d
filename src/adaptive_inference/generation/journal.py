"""Finished requests on disk, one JSON line each: what a crash in the middle leaves is read and gone on with."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any

from adaptive_inference.errors import UserError
from adaptive_inference.files import digest_json, plain


class Journal:
    """A file of JSON lines that is written one line at a time, and continued where it ends.

    Its first line says what is measured; the file of another measurement is refused. A last line that was cut off is
    dropped.

    Parameters
    ----------
    path
        The file; made where it is missing.
    head
        All that the lines depend on: settings, model, requests. Its digest is what is kept.

    Attributes
    ----------
    lines
        Those finished, in order, as dictionaries.

    Raises
    ------
    UserError
        The file belongs to another measurement, or a line before the last is damaged.

    Examples
    --------
    >>> with Journal(Path("requests.jsonl"), {"threshold": 0.9}) as journal:  # doctest: +SKIP
    ...     for number in range(len(journal.lines), 200):
    ...         journal.add({"request": number, "tokens": answer(number)})
    """

    def __init__(self, path: Path, head: Any) -> None:
        self.path, self.lines = path, []
        own = {"of": digest_json(head)}
        path.parent.mkdir(parents=True, exist_ok=True)
        whole, found = _finished(path)
        if found and found[0] != own:
            raise UserError(
                f"{path} holds requests of another measurement (other settings, model or texts); delete it"
            )
        self._stream = path.open("ab")
        self._stream.truncate(whole)  # the line that a crash cut off
        if found:
            self.lines = found[1:]
        else:
            self._write(own)

    def add(self, line: dict[str, Any]) -> None:
        """Append a line; it is on disk when this returns."""
        self.lines.append(self._write(line))

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write(self, line: dict[str, Any]) -> dict[str, Any]:
        text = json.dumps(plain(line), sort_keys=True, allow_nan=False)
        self._stream.write(text.encode() + b"\n")
        self._stream.flush()
        os.fsync(self._stream.fileno())
        return json.loads(text)


def _finished(path: Path) -> tuple[int, list[dict[str, Any]]]:
    """Return how many bytes hold whole lines, and these lines."""
    body = path.read_bytes() if path.exists() else b""
    whole = body.rfind(b"\n") + 1
    try:
        return whole, [json.loads(line) for line in body[:whole].split(b"\n") if line.strip()]
    except ValueError as error:
        raise UserError(
            f"{path} holds a line that is no JSON ({error}); delete it and run its stage again"
        ) from error
