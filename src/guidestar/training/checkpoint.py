"""Checkpoints that are whole or absent, the last few of which are kept."""

from __future__ import annotations

import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from guidestar.errors import UserError
from guidestar.files import replacing

FORMAT = 2
_NAME = re.compile(r"step-(\d{8,})\.pt")


def checkpoint_path(folder: Path, step: int) -> Path:
    """The file of a step's checkpoint."""
    return folder / f"step-{step:08d}.pt"


def save_checkpoint(folder: Path, step: int, state: dict[str, Any], keep: int) -> Path:
    """Write a checkpoint of `step`, then remove all but the last `keep` and what killed processes left aside.

    Args:
        folder: the training's checkpoint folder, which one process at a time writes to; it is made.
        step: number of optimizer steps done.
        state: tensors and plain values.
        keep: how many checkpoints stay, at least 1.

    Raises:
        DiskFull: the disk is full; the checkpoints before this one are untouched.
        OSError: the file cannot be written for another reason.
    """
    target = checkpoint_path(folder, step)
    with replacing(target) as stream:
        torch.save({"format": FORMAT, "step": step, **state}, stream)
    for old in list_checkpoints(folder)[:-keep]:
        old.unlink()
    for left in folder.glob("*.tmp"):
        left.unlink()
    return target


def list_checkpoints(folder: Path) -> list[Path]:
    """The finished checkpoints of a folder, oldest first; what a killed process left aside is not among them."""
    if not folder.is_dir():
        return []
    found = [(int(match[1]), path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint: tensors and plain values only, no code is run.

    Raises:
        UserError: the file is no checkpoint of this format.
        OSError: it cannot be read.
    """
    with path.open("rb") as stream:
        whole = zipfile.is_zipfile(stream)
    if not whole:
        raise _unreadable(path, "it is damaged")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise _unreadable(path, str(error).partition("\n")[0]) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise UserError(
            f"{path} is no checkpoint of format {FORMAT}: another version of guidestar, or another program, wrote it. "
            "Start again with --overwrite."
        )
    return state


def _unreadable(path: Path, reason: str) -> UserError:
    return UserError(f"{path} is no readable checkpoint ({reason}). Remove it to continue from an older one.")
