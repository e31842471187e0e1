"""The metrics of a training as JSON lines, cut back to where a checkpoint was taken when it resumes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any


class Journal:
    """Appends one JSON object a line, and knows how long the file is.

    Args:
        path: the file; it and its folder are made.
        keep: how many bytes of an existing file stay (a checkpoint's `position`).

    Raises:
        OSError: the file cannot be written.
    """

    def __init__(self, path: Path, keep: int = 0) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.truncate(path, keep)
        self._stream = path.open("a", encoding="utf-8")

    @property
    def position(self) -> int:
        """Length of the file in bytes, everything written so far included."""
        self._stream.flush()
        os.fsync(self._stream.fileno())
        return self._stream.tell()

    def write(self, record: dict[str, Any]) -> None:
        """Append a record; it can be read by others at once."""
        self._stream.write(json.dumps(record) + "\n")
        self._stream.flush()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()
