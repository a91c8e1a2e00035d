"""Which packages are installed here, without importing them."""

from __future__ import annotations


def installed(package: str) -> str | None:
    """Return the version of a package that is installed here, or None."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return None
