"""The one exception that a user is meant to read."""


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
