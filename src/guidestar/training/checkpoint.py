"""Checkpoints that are whole or absent: written aside, flushed, then renamed."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from typing import Any

import torch

from guidestar.errors import UserError

FORMAT = 1
_NAME = re.compile(r"step-(\d{8})\.pt")


def save_checkpoint(folder: Path, step: int, state: dict[str, Any], keep: int) -> Path:
    """Write a checkpoint of `step` and remove all but the last `keep`.

    Args:
        folder: the run's checkpoint folder; it is made.
        step: number of optimizer steps done.
        state: tensors and plain values.
        keep: how many checkpoints stay.

    Raises:
        UserError: the disk is full; the checkpoints before this one are untouched.
        OSError: the file cannot be written for another reason.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"step-{step:08d}.pt"
    aside = folder / f"{target.name}.{os.getpid()}.tmp"
    try:
        with aside.open("wb") as stream:
            torch.save({"format": FORMAT, "step": step, **state}, stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(aside, target)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise UserError(
                f"the disk is full: the checkpoint of step {step} could not be written to {folder}. The one before it is "
                "intact; free some space and continue with --resume."
            ) from error
        raise
    finally:
        aside.unlink(missing_ok=True)
    _sync_folder(folder)
    for old in list_checkpoints(folder)[:-keep]:
        old.unlink()
    return target


def list_checkpoints(folder: Path) -> list[Path]:
    """The finished checkpoints of a folder, oldest first; what a killed process left aside is not among them."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint: tensors and plain values only, no code is run.

    Raises:
        UserError: the file is no checkpoint of this format.
        OSError: it cannot be read.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, ValueError) as error:
        raise UserError(
            f"{path} is no readable checkpoint ({str(error).splitlines()[0]}). Remove it to use an older one."
        ) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise UserError(f"{path} is no checkpoint of format {FORMAT}. It was written by another version of guidestar.")
    return state


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically: the old content or the new, never half.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with aside.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    # The rename itself must survive a power cut, not only the file's content.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
