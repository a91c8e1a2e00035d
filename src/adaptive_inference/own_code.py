"""Code of one's own: a file, or an installed module, with an exit rule, an objective or an encoder's adapter, is run.

It is then found by name, as `by_name` tells.
"""

from __future__ import annotations

import hashlib
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from adaptive_inference.by_name import (
    CONSTANTS,
    Own,
    canonical,
    find,
    is_file,
    known_names,
    loaded,
    module_names,
    short_name,
)
from adaptive_inference.errors import UserError, first_line


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
    source = canonical(str(source))
    if source in loaded:
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
            others = [own.source for own in loaded.values() if short_name(own.source) == name]
            owner = f"by {others[0]}" if name not in module_names(folder) else "by a built-in one"
            raise UserError(f"{source}: the name {name!r} is taken {owner} in {folder}; rename the file")
    loaded[source] = Own(source, digest, module)


def find_own(folder: str, source: str, kind: type) -> Any:
    """Load code of one's own and return its constant for a folder; see `load_own_code` and `by_name.find`."""
    load_own_code(source)
    constant = CONSTANTS[folder]
    if not hasattr(loaded[canonical(source)].module, constant):
        raise UserError(f"{source} has no {constant}; end it with `{constant} = ...` (docs/your_method.md)")
    return find(folder, short_name(source), kind)


def loaded_own_code() -> dict[str, str]:
    """Return the source of all code of one's own that was loaded -> its digest when it was."""
    return {own.source: own.digest for own in loaded.values()}


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
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        places = [(frame.filename, frame.lineno) for frame in frames if Path(frame.filename) in files]
        if isinstance(error, SyntaxError) and error.filename:
            places.append((error.filename, error.lineno))
        where = f"{places[-1][0]}, line {places[-1][1]}" if places else source
        raise UserError(f"{where}: {type(error).__name__}: {first_line(error)}") from error
