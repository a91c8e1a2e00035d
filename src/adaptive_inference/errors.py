"""The one exception that a user is meant to read."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path


class UserError(ValueError):
    """Something the user gave cannot be used.

    The message is one sentence or two: what was given, what is allowed, how to mend it. Scripts print it
    without a traceback and exit with status 2.
    """


def nearest(name: str, allowed: list[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the closest allowed name, or an empty string."""
    from difflib import get_close_matches

    close = get_close_matches(str(name), [str(item) for item in allowed], n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def first_line(error: BaseException) -> str:
    """Return the first line of what an exception says, or its kind."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextlib.contextmanager
def blamed_on(origin: Path | str, fix: str) -> Iterator[None]:
    """Tell whatever is raised inside as a fault of a file that a library reads for us.

    What transformers and tokenizers raise on a file that a stranger wrote is of any kind, `Exception` itself included.

    Parameters
    ----------
    origin
        The file that is read inside, as the user is told of it.
    fix
        What the user may do about it.

    Raises
    ------
    UserError
        Anything was raised; a `UserError` is kept, with the origin put before it where it does not say it.
    """
    try:
        yield
    except UserError as error:
        if str(origin) in str(error):
            raise
        raise UserError(f"{origin}: {error}") from error
    except Exception as error:
        raise UserError(
            f"{origin} cannot be used ({type(error).__name__}: {first_line(error)}); {fix}"
        ) from error
