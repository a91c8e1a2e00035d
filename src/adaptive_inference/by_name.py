"""Names that files give: an exit rule, an objective or an encoder family is found by its file, and nothing lists them.

A built-in one is named by its file's stem, ``patience``. Code of one's own is named by a path, ``own_code/mine.py``, or as
an installed module, ``package.mine``; once `own_code` has run it, it is found as ``mine``. Only a user names it so: a name
in a saved model is looked up among what was loaded, and never runs anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from adaptive_inference.errors import UserError, nearest

#: Folder of the package -> the constant of a file that holds what the file is for.
CONSTANTS = {"objectives": "OBJECTIVE", "exit_rules": "RULE", "backbones": "BACKBONE"}
_WHAT = {"objectives": "objective", "exit_rules": "exit rule", "backbones": "adapter for model type"}
_NO_NAMES = ("base", "load", "packaged")


@dataclass(frozen=True)
class Own:
    """Code of one's own that was run: its source as `canonical` spells it, its digest then, and its module."""

    source: str
    digest: str
    module: ModuleType


#: Source -> what `own_code.load_own_code` has run in this process.
loaded: dict[str, Own] = {}


def module_names(folder: str) -> list[str]:
    """Return the names that files of a package folder give (``base`` and private files aside)."""
    here = Path(__file__).parent / folder
    return sorted(f.stem for f in here.glob("*.py") if not f.stem.startswith("_") and f.stem not in _NO_NAMES)


def known_names(folder: str) -> list[str]:
    """Return what can be found in a folder: the names of its files, then those of loaded code of one's own."""
    own = [short_name(item.source) for item in loaded.values() if hasattr(item.module, CONSTANTS[folder])]
    return module_names(folder) + sorted(own)


def is_own(name: str) -> bool:
    """Whether a name is a path or a module of one's own: built-in names have neither dot nor separator."""
    return any(mark in name for mark in "./\\")


def is_file(source: str) -> bool:
    """Whether code of one's own is named by a path, and not as an installed module."""
    return source.strip().endswith(".py") or "/" in source or "\\" in source


def canonical(source: str) -> str:
    """Return the one spelling of a source: ``./own_code/mine.py`` is ``own_code/mine.py``."""
    source = source.strip()
    path = Path(source).as_posix()
    return path if is_file(path) else source


def short_name(name: str) -> str:
    """Return what files and tables call a name of the params.

    Code of one's own is called by the file's stem, or the last part of the module: ``own_code/mine.py(x=2)`` ``mine(x=2)``.
    """
    source, bracket, options = name.partition("(")
    if is_own(source):
        source = canonical(source)
        source = Path(source).stem if is_file(source) else source.rpartition(".")[2]
    return source + bracket + options


def find(folder: str, name: str, kind: type) -> Any:
    """Return the constant of a file: a built-in one, or of code of one's own that was loaded.

    Parameters
    ----------
    folder
        A key of `CONSTANTS`.
    name
        Stem of the file.
    kind
        What the constant must be an instance of (exit rules) or a subclass of (the others).

    Raises
    ------
    UserError
        There is no such name, or the constant of one's own code is something else.
    """
    if name in module_names(folder):
        return getattr(import_module(f"{__package__}.{folder}.{name}"), CONSTANTS[folder])
    for own in loaded.values():
        if short_name(own.source) == name and hasattr(own.module, CONSTANTS[folder]):
            return _checked(own, CONSTANTS[folder], kind, instance=folder == "exit_rules")
    allowed = known_names(folder)
    if folder == "backbones":  # as transformers spells them
        name, allowed = name.replace("_", "-"), [item.replace("_", "-") for item in allowed]
    close = nearest(name, allowed) or "."
    fix = (
        " Code of somebody's own is run only where you name its file: --own-code FILE, or load_own_code(FILE)"
    )
    if folder == "objectives":  # no saved model has one
        fix = ""
    raise UserError(f"no {_WHAT[folder]} {name!r}; allowed: {', '.join(allowed)}{close}{fix}")


def _checked(own: Own, constant: str, kind: type, instance: bool) -> Any:
    found = getattr(own.module, constant)
    fits = isinstance(found, kind) if instance else isinstance(found, type) and issubclass(found, kind)
    if not fits:
        wanted = "an object of a subclass" if instance else "a subclass"
        raise UserError(
            f"{own.source}: {constant} is {found!r}; it must be {wanted} of {kind.__module__}.{kind.__name__}"
        )
    return found
