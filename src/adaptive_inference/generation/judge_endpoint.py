"""A judge behind any OpenAI-compatible endpoint: one question in, the words of its answer out.

The standard library's HTTP client is enough for one POST, and it is on every machine. The key goes into one header and
nowhere else: no message, no file, no ``repr`` holds it, and no redirect carries it to another host.
"""

from __future__ import annotations

import json
import random
import ssl
import threading
import time
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from http.client import HTTPException, HTTPMessage
from socket import gaierror
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from adaptive_inference.errors import UserError

#: Statuses that go away by themselves, beside every 5xx.
_AGAIN = (408, 425, 429)
#: Statuses that blame one question (too long, not allowed), so that the others may still be asked.
_THIS_QUESTION = (400, 413, 422)
_LONGEST_BACKOFF = 60.0
_LONGEST_REPLY = 4 << 20  #: bytes


class QuestionRefused(Exception):
    """The endpoint will not answer this one question; its words are the message."""


class Stopped(Exception):
    """Somebody else has ended the run while this question was waiting."""


class _NoRedirect(HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Leave a redirect as the error that it is: following it would send the key to whoever is named there."""


@dataclass(frozen=True)
class Endpoint:
    """Where a judge answers, and how patiently it is asked.

    Attributes
    ----------
    url
        Address below which ``/chat/completions`` is, e.g. ``https://HOST/v1``.
    model
        As the endpoint calls it.
    key
        Sent as a bearer token; empty: none is sent.
    temperature
        0 asks for the likeliest answer. Some models accept 1 alone.
    timeout
        Seconds without a byte after which a request counts as lost.
    attempts
        How often one question is sent at most while the endpoint is busy, fails or is silent.
    first_wait
        Seconds before the second attempt, doubled for each one after it; ``Retry-After`` goes before it.
    longest_wait
        Seconds; an endpoint that asks for more ends the run.

    Raises
    ------
    UserError
        One of them cannot be used. The key itself is never told.
    """

    url: str
    model: str
    key: str = field(default="", repr=False)
    temperature: float = 0.0
    timeout: float = 120.0
    attempts: int = 6
    first_wait: float = 1.0
    longest_wait: float = 300.0

    def __post_init__(self) -> None:
        _check_address(self.url)
        if not all("!" <= sign <= "~" for sign in self.key):
            raise UserError(
                "the judge's key (not shown) holds a blank, a line end or a sign that is not ASCII; copy it again"
            )
        if not self.model.strip():
            raise UserError("the judge's model has no name; give the one that the endpoint knows it by")
        for name, least in (("temperature", 0.0), ("timeout", 0.001), ("attempts", 1), ("first_wait", 0.0)):
            if not least <= getattr(self, name) < float("inf"):
                raise UserError(
                    f"the judge's {name} {getattr(self, name)} must be a number from {least:g}, e.g. "
                    f"{type(self).__dataclass_fields__[name].default}"
                )

    def body(self, prompt: str) -> dict[str, Any]:
        """Return the request for a question: all that its answer depends on."""
        return {
            "model": self.model,
            "temperature": self.temperature,
            "messages": [{"role": "user", "content": prompt}],
        }

    def ask(self, prompt: str, stop: threading.Event) -> str:
        """Ask one question, again where the endpoint is busy, fails or is silent.

        Parameters
        ----------
        prompt
            The question.
        stop
            Ends the waiting between attempts.

        Returns
        -------
        str
            The words of the answer; empty where the judge gave none.

        Raises
        ------
        QuestionRefused
            The endpoint blames this question.
        Stopped
            ``stop`` was set.
        UserError
            The endpoint cannot be used: wrong address, wrong key, or no answer in all attempts.
        """
        for attempt in range(1, self.attempts + 1):
            try:
                return self._once(prompt)
            except _Again as again:
                told = again
            if attempt == self.attempts:
                break
            if told.after is not None and told.after > self.longest_wait:
                raise UserError(
                    f"{self.url} asks to wait {told.after:.0f} s ({told}); run the same command again then"
                )
            # a random part, so that those who were refused together do not come back together
            backoff = min(self.first_wait * 2 ** (attempt - 1), _LONGEST_BACKOFF) * random.uniform(1.0, 1.5)
            if stop.wait(max(backoff, told.after or 0.0)):
                raise Stopped
        raise UserError(
            f"{self.url} gave no answer in {self.attempts} attempts (the last: {told}); is the judge up and within its "
            "limits? Ask with less at once (--parallel), or run the same command again later"
        )

    def _once(self, prompt: str) -> str:
        headers = {"Content-Type": "application/json", "User-Agent": "adaptive-inference"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        address = f"{self.url.rstrip('/')}/chat/completions"
        request = Request(address, json.dumps(self.body(prompt)).encode(), headers, method="POST")
        try:
            with build_opener(_NoRedirect).open(request, timeout=self.timeout) as reply:
                raw = reply.read(_LONGEST_REPLY)
        except HTTPError as error:
            raise self._judged(error) from None
        except (URLError, OSError, HTTPException) as error:
            reason = error.reason if isinstance(error, URLError) else error
            if isinstance(reason, (ConnectionRefusedError, gaierror, ssl.SSLCertVerificationError)):
                raise UserError(
                    f"{self.url} cannot be reached ({self._masked(str(reason))}); is the address right, and the judge up?"
                ) from None
            raise _Again(self._masked(f"{type(reason).__name__}: {reason}")) from None
        return _words(raw)

    def _judged(self, error: HTTPError) -> Exception:
        """Return what a status other than 200 means: for this question, for this run, or for now."""
        with error:
            said = self._masked(_complaint(error))
        if error.code in _AGAIN or error.code >= 500:
            return _Again(said, _retry_after(error.headers))
        if error.code in _THIS_QUESTION:
            return QuestionRefused(said)
        if error.code in (401, 403):  # whose words often hold a part of the key
            return UserError(
                f"{self.url} does not accept the judge's key (status {error.code}); "
                + ("is it the right one, and may it use this model?" if self.key else "none was given")
            )
        return UserError(
            f"{self.url} says {said}; is it the address below which /chat/completions is, and {self.model!r} one of its "
            "models?"
        )

    def _masked(self, text: str) -> str:
        return text.replace(self.key, "***") if self.key else text


class _Again(Exception):
    """An attempt that failed, after which the next one may not."""

    def __init__(self, told: str, after: float | None = None) -> None:
        super().__init__(told)
        self.after = after


def _check_address(url: str) -> None:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and (parts.port or True)
        (parts.hostname or "").encode("idna")  # a ValueError where a part of the name is empty or too long
    except ValueError:
        usable, parts = False, urlsplit("")
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise UserError(
            "the judge's address (not shown) holds a name, a password, a query or a fragment; give it without, and the "
            "key on its own"
        )
    if not usable or not all("!" <= sign <= "~" for sign in url):
        raise UserError(f"the judge's address {url!r} must be like https://HOST/v1")


def _words(raw: bytes) -> str:
    """Return the answer's words of a chat completion."""
    try:
        words = json.loads(raw)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError):
        raise _Again(f"no chat completion: {raw[:80].decode(errors='replace')!r}") from None
    return words.encode(errors="replace").decode() if isinstance(words, str) else ""  # no half characters


def _complaint(error: HTTPError) -> str:
    """Return the status and the first words of what the endpoint says with it."""
    try:
        raw = error.read(_LONGEST_REPLY)
    except (OSError, HTTPException):
        raw = b""
    try:
        body = json.loads(raw)
        said = body["error"]["message"] if isinstance(body["error"], dict) else body["error"]
    except (ValueError, LookupError, TypeError, RecursionError):
        said = raw.decode(errors="replace")
    said = " ".join(str(said).split())[:300]
    return f"status {error.code}: {said}" if said else f"status {error.code}"


def _retry_after(headers: HTTPMessage) -> float | None:
    """Return the seconds that ``Retry-After`` asks for, given as a number or as a date; None: it does not."""
    given = headers.get("Retry-After", "").strip()
    if given.isascii() and given.isdecimal():
        return float(given)
    try:
        return max(parsedate_to_datetime(given).timestamp() - time.time(), 0.0)
    except (ValueError, TypeError, OverflowError):
        return None
