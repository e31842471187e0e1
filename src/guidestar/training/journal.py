"""The metrics of a training as JSON lines, cut back to where a checkpoint was taken when it resumes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any

from guidestar.errors import UserError
from guidestar.files import clear_when_full


class Journal:
    """Appends one JSON object a line, and knows how long the file is.

    Args:
        path: the file; it and its folder are made.
        keep: how many bytes of an existing file stay (a checkpoint's `position`).

    Raises:
        UserError: the file is shorter than that: it is not the one that the checkpoint was taken with.
        OSError: the file cannot be written.
    """

    def __init__(self, path: Path, keep: int = 0) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        size = path.stat().st_size
        if size < keep:
            raise UserError(
                f"{path} has {size} bytes, and had {keep} when the checkpoint was written: it was changed since. Put it "
                "back, or start again with --overwrite."
            )
        os.truncate(path, keep)
        self._path = path
        self._stream = path.open("ab", buffering=0)

    @property
    def position(self) -> int:
        """Length of the file in bytes; all of it is on the disk, not only with the operating system.

        Raises:
            DiskFull: the disk is full.
        """
        with clear_when_full(self._path):
            os.fsync(self._stream.fileno())
        return self._stream.tell()

    def write(self, record: dict[str, Any]) -> None:
        """Append a record; it can be read by others at once.

        Raises:
            DiskFull: the disk is full.
        """
        line = (json.dumps(record) + "\n").encode()
        with clear_when_full(self._path):
            while line:  # near the end of the disk a write may take only a part, and the next one says why
                line = line[self._stream.write(line) :]

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()
