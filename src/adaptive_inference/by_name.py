"""Names that files give: an exit rule, an objective or an encoder family is found by its file, and nothing lists them.

A built-in one is named by its file's stem, ``patience``. Code of one's own is named by a path, ``own_code/mine.py``, or as
an installed module, ``package.mine``; once `load_own_code` has run it, it is found as ``mine``. Only a user names it so: a
name in a saved model is looked up among what was loaded, and never runs anything.
"""

from __future__ import annotations

import hashlib
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from adaptive_inference.errors import UserError, nearest

#: Folder of the package -> the constant of a file that holds what the file is for.
CONSTANTS = {"objectives": "OBJECTIVE", "exit_rules": "RULE", "backbones": "BACKBONE"}
_WHAT = {"objectives": "objective", "exit_rules": "exit rule", "backbones": "adapter for model type"}
_NO_NAMES = ("base", "load", "packaged")


@dataclass(frozen=True)
class _Own:
    """Code of one's own that was run: its source as the user named it, its digest then, and its module."""

    source: str
    digest: str
    module: ModuleType


_loaded: dict[str, _Own] = {}


def module_names(folder: str) -> list[str]:
    """Return the names that files of a package folder give (``base`` and private files aside)."""
    here = Path(__file__).parent / folder
    return sorted(f.stem for f in here.glob("*.py") if not f.stem.startswith("_") and f.stem not in _NO_NAMES)


def known_names(folder: str) -> list[str]:
    """Return what can be found in a folder: the names of its files, then those of loaded code of one's own."""
    own = [short_name(item.source) for item in _loaded.values() if hasattr(item.module, CONSTANTS[folder])]
    return module_names(folder) + sorted(own)


def is_own(name: str) -> bool:
    """Whether a name is a path or a module of one's own: built-in names have neither dot nor separator."""
    return any(mark in name for mark in "./\\")


def is_file(source: str) -> bool:
    """Whether code of one's own is named by a path, and not as an installed module."""
    return source.strip().endswith(".py") or "/" in source or "\\" in source


def short_name(name: str) -> str:
    """Return what files and tables call a name of the params.

    Code of one's own is called by the file's stem, or the last part of the module: ``own_code/mine.py(x=2)`` ``mine(x=2)``.
    """
    source, bracket, options = name.partition("(")
    if is_own(source):
        source = Path(source.strip()).stem if is_file(source) else source.strip().rpartition(".")[2]
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
    for own in _loaded.values():
        if short_name(own.source) == name and hasattr(own.module, CONSTANTS[folder]):
            return _checked(own, CONSTANTS[folder], kind, instance=folder == "exit_rules")
    allowed = known_names(folder)
    if folder == "backbones":  # as transformers spells them
        name, allowed = name.replace("_", "-"), [item.replace("_", "-") for item in allowed]
    close = nearest(name, allowed) or "."
    own = (
        ""
        if folder == "objectives"
        else (
            " Code of somebody's own is run only where you name its file: --own-code FILE, or load_own_code(FILE)"
        )
    )
    raise UserError(f"no {_WHAT[folder]} {name!r}; allowed: {', '.join(allowed)}{close}{own}")


def find_own(folder: str, source: str, kind: type) -> Any:
    """Load code of one's own and return its constant for a folder; see `load_own_code` and `find`."""
    load_own_code(source)
    constant = CONSTANTS[folder]
    if not hasattr(_loaded[source].module, constant):
        raise UserError(f"{source} has no {constant}; end it with `{constant} = ...` (docs/your_method.md)")
    return find(folder, short_name(source), kind)


def load_own_code(source: str | Path) -> None:
    """Run a file or an installed module of one's own, so that its rule, objective or adapter is found by name.

    Parameters
    ----------
    source
        Path of a Python file, or ``package.module``. It is run once in a process.

    Raises
    ------
    UserError
        It is not there, fails when it is run, defines none of `CONSTANTS`, or its name is taken.
    """
    source = str(source)
    if source in _loaded:
        return
    name, digest = short_name(source), digest_own_code(source)
    if not name.isidentifier():
        raise UserError(f"{source}: {name!r} is no name; rename the file: letters, digits and _ only")
    module = _run(source)
    given = [folder for folder, constant in CONSTANTS.items() if hasattr(module, constant)]
    if not given:
        constants = ", ".join(CONSTANTS.values())
        raise UserError(
            f"{source} has none of {constants}; end it with one, e.g. `RULE = MyRule()` (docs/your_method.md)"
        )
    for folder in given:
        if name in known_names(folder):
            others = [own.source for own in _loaded.values() if short_name(own.source) == name]
            owner = f"by {others[0]}" if name not in module_names(folder) else "by a built-in one"
            raise UserError(f"{source}: the name {name!r} is taken {owner} in {folder}; rename the file")
    _loaded[source] = _Own(source, digest, module)


def loaded_own_code() -> dict[str, str]:
    """Return the source of all code of one's own that was loaded -> its digest when it was."""
    return {own.source: own.digest for own in _loaded.values()}


def digest_own_code(source: str) -> str:
    """Return the sha256 of a file, or of all Python files of the package that an installed module is in.

    Raises
    ------
    UserError
        There is no such file, or no such package in this environment.
    """
    if is_file(source):
        return hashlib.sha256(_read(source)).hexdigest()
    whole = hashlib.sha256()
    for name, file in _package_files(source).items():
        whole.update(f"{name}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return whole.hexdigest()


def _read(source: str) -> bytes:
    try:
        return Path(source).read_bytes()
    except OSError as error:
        raise UserError(
            f"cannot read {source!r} ({error.strerror}); give the path of a Python file, or package.module of an "
            "installed package"
        ) from None


def _package_files(source: str) -> dict[str, Path]:
    """Return the Python files of the package by their place in it, or the one file of a module that is in none."""
    top = source.partition(".")[0]
    spec = find_spec(top) if top.isidentifier() else None
    folders = spec.submodule_search_locations if spec else None
    if folders is not None:
        found = [(folder, file) for folder in folders for file in sorted(Path(folder).rglob("*.py"))]
        return {file.relative_to(folder).as_posix(): file for folder, file in found}
    if spec is None or not spec.has_location:
        raise UserError(
            f"{source!r}: this environment has no package {top!r}; install it, or give the path of a file, e.g. "
            "own_code/mine.py"
        )
    return {top: Path(str(spec.origin))}


def _run(source: str) -> ModuleType:
    """Import an installed module, or run a file as one: what was digested, and no bytecode of an earlier text."""
    if not is_file(source):
        with _told(source, [*_package_files(source).values()]):
            return import_module(source)
    module = ModuleType(".".join(Path(source).with_suffix("").parts))
    module.__file__ = source
    sys.modules[module.__name__] = module  # dataclasses look their module up
    try:
        with _told(source, [Path(source)]):
            exec(compile(_read(source), source, "exec"), module.__dict__)
    except UserError:
        del sys.modules[module.__name__]
        raise
    return module


@contextmanager
def _told(source: str, files: list[Path]) -> Iterator[None]:
    """Say at which line of its own files code fails."""
    try:
        yield
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        places = [(frame.filename, frame.lineno) for frame in frames if Path(frame.filename) in files]
        if isinstance(error, SyntaxError) and error.filename:
            places.append((error.filename, error.lineno))
        where = f"{places[-1][0]}, line {places[-1][1]}" if places else source
        raise UserError(f"{where}: {type(error).__name__}: {error}") from error


def _checked(own: _Own, constant: str, kind: type, instance: bool) -> Any:
    found = getattr(own.module, constant)
    fits = isinstance(found, kind) if instance else isinstance(found, type) and issubclass(found, kind)
    if not fits:
        wanted = "an object of a subclass" if instance else "a subclass"
        raise UserError(
            f"{own.source}: {constant} is {found!r}; it must be {wanted} of {kind.__module__}.{kind.__name__}"
        )
    return found
