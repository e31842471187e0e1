"""Files that are whole or absent: written aside, flushed, then renamed; and what is said when the disk is full."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from guidestar.errors import UserError


class DiskFull(UserError):
    """A file could not be written because the disk is full; what was written before it is intact."""


@contextmanager
def clear_when_full(path: Path) -> Iterator[None]:
    """Inside the block, an error of the file system that means "full" says which file could not be written.

    Raises:
        DiskFull: the disk, or the user's share of it, is full.

    Example:
        >>> with clear_when_full(Path("a.json")):
        ...     raise OSError(errno.ENOSPC, "No space left on device")
        Traceback (most recent call last):
        ...
        guidestar.files.DiskFull: the disk is full: a.json could not be written. What was written before it ...
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DiskFull(
            f"the disk is full: {path} could not be written. What was written before it is intact; free some space and "
            "continue with --resume."
        ) from error


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A stream whose content becomes the file when the block ends; after an error or a crash the old file is there.

    Args:
        path: the file; its folder is made.

    Raises:
        DiskFull: the disk is full.
        OSError: the file cannot be written for another reason.
    """
    aside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with clear_when_full(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with aside.open("wb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(aside, path)
        finally:
            aside.unlink(missing_ok=True)
        _sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically: the old content or the new, never half.

    Raises:
        DiskFull: the disk is full.
        OSError: it cannot be written for another reason.
    """
    with replacing(path) as stream:
        stream.write(text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON, atomically.

    Raises:
        DiskFull: the disk is full.
        OSError: the file cannot be written for another reason.
    """
    write_text(path, json.dumps(value, indent=2) + "\n")


def _sync_folder(folder: Path) -> None:
    # The rename itself must survive a power cut, not only the file's content. Only POSIX systems open folders.
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
