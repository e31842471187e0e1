"""The first signal is noted, the second Ctrl-C stops at once, and afterwards signals are what they were."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest
import torch

from guidestar.training.interrupt import Interrupted, StopRequest, stop_requests


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_noted(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with stop_requests() as request:
        assert request.number == 0
        os.kill(os.getpid(), number)
        assert request.number == number
        assert request.agreed(torch.device("cpu")) == number
    assert signal.getsignal(number) is before


def test_the_second_ctrl_c_stops_at_once() -> None:
    before = signal.getsignal(signal.SIGINT)

    def work() -> None:
        with stop_requests() as request:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)  # a scheduler may repeat itself
            assert request.number == signal.SIGTERM
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert signal.getsignal(signal.SIGINT) is before


def test_another_thread_cannot_take_signals_and_does_not_fail() -> None:
    seen: list[int] = []

    def work() -> None:
        with stop_requests() as request:
            seen.append(request.number)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [0]


def test_messages() -> None:
    assert str(Interrupted(signal.SIGINT, Path("a.pt"))) == "stopped by SIGINT; continue with --resume (a.pt)"
    assert str(Interrupted(signal.SIGTERM)) == "stopped by SIGTERM; continue with --resume"
    assert StopRequest().number == 0
