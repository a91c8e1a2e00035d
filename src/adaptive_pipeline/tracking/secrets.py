"""The one place that masks the secrets of the MLflow store: in our messages, and in all that a process prints.

MLflow's client prints the address of a run; its errors, its log and a traceback may carry the whole address too.

    python -m adaptive_pipeline.tracking.secrets    # show ``MLFLOW_TRACKING_URI`` without them
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

MASK = "***"
#: A value of an address's query that is shorter is masked in its pair alone: ``timeout=30`` is no reason to mask every 30.
LONG = 8


def masked(text: str) -> str:
    """Return a text without the secrets of the tracking store, and without what stands before the @ of any address.

    Secrets are the user information and the query of ``MLFLOW_TRACKING_URI``, written as there or decoded, and the
    password and the token that MLflow reads from the environment.
    """
    text = re.sub(r"//\S*@", "//", text)
    names = ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
    for secret, instead in _secrets(*(os.environ.get(name, "") for name in names)):
        text = text.replace(secret, instead)
    return text


def mask_output() -> None:
    """Mask whatever this process writes to stdout and stderr from now on, be it a client's log or a traceback."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not isinstance(stream, _Masking):
            setattr(sys, name, _Masking(stream))


class _Masking:
    """A text stream that masks what it is given, and is the stream that it wraps in all else."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(masked(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@lru_cache
def _secrets(address: str, *given: str) -> tuple[tuple[str, str], ...]:
    """Return each form of each secret and what stands in its place, longest first."""
    # By hand: a password may hold what ends a host, where `urlsplit` raises. The path of a file has no user.
    user = re.match(r"[^/]*//([^/].*)@", address)
    query = address.partition("?")[2].partition("#")[0]
    name, _, password = user[1].partition(":") if user else ("", "", "")
    alone = name if address.startswith("http") else ""  # then it is a token, and not the user of a database
    plain = [password or alone, *given]
    forms = {form: MASK for secret in plain for form in (secret, unquote(secret))}
    for pair in filter(None, query.split("&")):
        key, _, value = pair.partition("=")
        forms[pair] = forms[unquote(pair)] = f"{unquote(key)}={MASK}"
        forms |= {form: MASK for form in (value, unquote(value)) if len(form) >= LONG}
    return tuple((form, forms[form]) for form in sorted(forms, key=len, reverse=True) if form)


if __name__ == "__main__":
    print(f"the runs are shown at {masked(os.environ['MLFLOW_TRACKING_URI'])}")
