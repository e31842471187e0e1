"""Scoring in real processes: killed at any moment and continued, or several at once."""

import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from guidestar.errors import UserError
from guidestar.reference import Store

PROGRAM = Path(__file__).parent / "reference_toy.py"


def start(path: Path, *options: object) -> subprocess.Popen[str]:
    command = [sys.executable, str(PROGRAM), str(path), *map(str, options)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of a run that was never killed."""
    path = tmp_path_factory.mktemp("whole") / "store"
    with start(path) as process:
        process.communicate()
    assert process.returncode == 0
    return path


def check_killed_and_continue(path: Path, whole: Path) -> None:
    """What is marked as valid is right, the rest is still missing, and a second run ends in the same bytes."""
    broken, complete = Store.open(path), Store.open(whole)
    valid = np.flatnonzero(broken.validity())
    assert len(valid) < len(complete)
    for name in complete.meta.arrays:
        assert broken.read(name, valid, dtype=None).equal(complete.read(name, valid, dtype=None)), name
    with pytest.raises(UserError, match="is half written"):
        broken.require_complete()
    with start(path) as process:
        process.communicate()
    assert process.returncode == 0
    assert files_of(path) == files_of(whole)


@pytest.mark.parametrize("rows", [64, 576])
def test_killed_by_itself_after_a_block(tmp_path: Path, whole: Path, rows: int) -> None:
    with start(tmp_path / "store", "--die-after-rows", rows) as process:
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    check_killed_and_continue(tmp_path / "store", whole)


@pytest.mark.parametrize("call", [3, 6, 27])
def test_killed_in_the_middle_of_a_write(tmp_path: Path, whole: Path, call: int) -> None:
    with start(tmp_path / "store", "--die-in-write", call) as process:
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    check_killed_and_continue(tmp_path / "store", whole)


def test_killed_from_outside_at_a_random_moment(tmp_path: Path, whole: Path) -> None:
    blocks = random.randrange(1, 9)
    with start(tmp_path / "store", "--pause", 0.1) as process:
        assert process.stdout is not None
        for _ in range(blocks):
            process.stdout.readline()
        process.kill()
    assert process.returncode == -signal.SIGKILL
    check_killed_and_continue(tmp_path / "store", whole)


def test_two_processes_at_once_equal_one(tmp_path: Path, whole: Path) -> None:
    path = tmp_path / "store"
    with start(path, "--rank", 0, "--world", 2) as first, start(path, "--rank", 1, "--world", 2) as second:
        rows = [process.communicate()[0].split()[-1] for process in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0]
    assert sum(map(int, rows)) == 1003
    assert files_of(path) == files_of(whole)
