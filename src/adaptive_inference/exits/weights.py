"""Weights on disk: safetensors, written in one move, with a full disk told as such."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor, nn


def save_weights(model: nn.Module, file: Path) -> None:
    """Write a model's weights, tied ones once and by their first name; see `save_tensors`."""
    weights, tied = model.state_dict(), tied_names(model)
    save_tensors({name: item.detach().cpu() for name, item in weights.items() if name not in tied}, file)


def tied_names(model: nn.Module) -> dict[str, str]:
    """Return the other names of weights that have several -> their first name."""
    first: dict[int, str] = {}
    names = (
        (name, first.setdefault(id(item), name)) for name, item in model.state_dict(keep_vars=True).items()
    )
    return {name: earlier for name, earlier in names if earlier != name}


def save_tensors(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Write tensors as safetensors, in one move, for all whom the umask lets read.

    Raises
    ------
    OSError
        The disk is full.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.partial")
    partial.touch()
    mode = stat.S_IMODE(partial.stat().st_mode)
    whole = {name: item.contiguous() for name, item in tensors.items()}
    with full_disk_is_os_error(file.parent):
        safetensors.torch.save_file(whole, partial, metadata={"format": "pt"})
    partial.chmod(mode)  # safetensors replaces the file by one that its owner alone may read
    os.replace(partial, file)


def load_weights(model: nn.Module, file: Path) -> None:
    """Read what `save_weights` wrote."""
    tensors = safetensors.torch.load_file(file)
    again = {name: tensors[first] for name, first in tied_names(model).items() if first in tensors}
    model.load_state_dict(tensors | again)


@contextlib.contextmanager
def full_disk_is_os_error(folder: Path) -> Iterator[None]:
    """Turn what safetensors and torch raise on a full disk into the `OSError` that stages explain."""
    try:
        yield
    except (safetensors.SafetensorError, RuntimeError) as error:
        if "os error 28" not in str(error) and shutil.disk_usage(folder).free > 2**20:
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder)) from error
