"""Ctrl-C and the scheduler's SIGTERM end a training after a checkpoint."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType


class Interrupted(Exception):
    """The training was asked to stop and has written a checkpoint.

    Attributes:
        number: the signal.
        checkpoint: the file to resume from, or None if there was nothing to save yet.
    """

    def __init__(self, number: int, checkpoint: Path | None) -> None:
        where = f"; continue with --resume ({checkpoint})" if checkpoint is not None else ""
        super().__init__(f"stopped by {signal.Signals(number).name}{where}")
        self.number = number
        self.checkpoint = checkpoint


class StopRequest:
    """Whether a signal has come; 0, or its number."""

    def __init__(self) -> None:
        self.number = 0


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Inside the block, the first SIGINT or SIGTERM is only noted; a second SIGINT stops at once."""
    request = StopRequest()

    def note(number: int, frame: FrameType | None) -> None:
        if request.number and number == signal.SIGINT:
            raise KeyboardInterrupt
        request.number = number

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
