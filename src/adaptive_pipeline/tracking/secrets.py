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
from urllib.parse import quote, unquote

MASK = "***"
#: A shorter secret is masked within an address alone: password ``1`` or ``timeout=30`` is no reason to mask every 1 or 30.
LONG = 8


def masked(text: str) -> str:
    """Return a text without the secrets of the tracking store, and without what stands before the @ of any address.

    Secrets are the user information and the query of ``MLFLOW_TRACKING_URI``, and the password and the token that
    MLflow reads from the environment; each as written there, decoded or percent-encoded.
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
    found: dict[str, str] = {}
    for secret in filter(None, [password or alone, *given]):
        found |= {f":{form}@": f":{MASK}@" for form in _forms(secret)}
        found |= {form: MASK for form in _forms(secret) if len(form) >= LONG}
    for key, _, value in (pair.partition("=") for pair in query.split("&")):
        for form in filter(None, _forms(value)):
            found[f"{key}={form}"] = found[f"{unquote(key)}={form}"] = f"{unquote(key)}={MASK}"
            found |= {form: MASK} if len(form) >= LONG else {}
    return tuple((form, found[form]) for form in sorted(found, key=len, reverse=True))


def _forms(secret: str) -> set[str]:
    plain = unquote(secret)
    return {secret, plain, quote(secret, safe=""), quote(plain, safe="")}


if __name__ == "__main__":
    print(f"the runs are shown at {masked(os.environ['MLFLOW_TRACKING_URI'])}")
