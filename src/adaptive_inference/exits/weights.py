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
    """Write a model's weights; see `save_tensors`."""
    save_tensors({name: item.detach().cpu() for name, item in model.state_dict().items()}, file)


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
    model.load_state_dict(safetensors.torch.load_file(file))


@contextlib.contextmanager
def full_disk_is_os_error(folder: Path) -> Iterator[None]:
    """Turn what safetensors and torch raise on a full disk into the `OSError` that stages explain."""
    try:
        yield
    except (safetensors.SafetensorError, RuntimeError) as error:
        if "os error 28" not in str(error) and shutil.disk_usage(folder).free > 2**20:
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder)) from error
