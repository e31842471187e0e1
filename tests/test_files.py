"""Files are whole or absent."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from guidestar.files import DiskFull, clear_when_full, replacing, write_json, write_text

FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full, a device on which every write fails")


@needs_full
def test_a_full_disk_leaves_the_older_text(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    write_json(path, {"a": 1})
    (tmp_path / f"results.json.{os.getpid()}.tmp").symlink_to(FULL)
    with pytest.raises(DiskFull, match=r"the disk is full: .*results.json could not be written"):
        write_text(path, "x" * 100_000)
    assert path.read_text() == '{\n  "a": 1\n}\n'


def test_an_error_while_writing_leaves_the_older_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def fail() -> None:
        with replacing(path) as stream:
            stream.write(b"ne")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_other_errors_of_the_file_system_stay_what_they_are() -> None:
    with pytest.raises(DiskFull, match="disk is full"), clear_when_full(Path("a")):
        raise OSError(errno.EDQUOT, "quota")
    with pytest.raises(PermissionError), clear_when_full(Path("a")):
        raise PermissionError(errno.EACCES, "no")
