"""Ctrl-C and the scheduler's SIGTERM end a run at the next step, after a checkpoint."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import torch

from guidestar import distributed


class Interrupted(Exception):
    """The run was asked to stop, and has written a checkpoint if a training was on.

    Attributes:
        number: the signal.
        checkpoint: the file to resume from, or None if no training was on.
    """

    def __init__(self, number: int, checkpoint: Path | None = None) -> None:
        where = f" ({checkpoint})" if checkpoint is not None else ""
        super().__init__(f"stopped by {signal.Signals(number).name}; continue with --resume{where}")
        self.number = number
        self.checkpoint = checkpoint


class StopRequest:
    """Whether a signal has come; 0, or its number."""

    def __init__(self) -> None:
        self.number = 0

    def agreed(self, device: torch.device) -> int:
        """The signal that any of the processes has got, the same answer on all; every process must ask."""
        return int(distributed.gather(torch.tensor([self.number], device=device)).amax())


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Inside the block, the first SIGINT or SIGTERM is only noted; a second SIGINT stops at once.

    Only the main thread of a program can take signals; in another one nothing is ever noted.
    """
    request = StopRequest()

    def note(number: int, frame: FrameType | None) -> None:
        if request.number and number == signal.SIGINT:
            raise KeyboardInterrupt
        request.number = number

    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
