"""The journal of a training: JSON lines that a resumed training continues where its checkpoint was taken."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from guidestar.errors import UserError
from guidestar.files import DiskFull
from guidestar.training.journal import Journal


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_it_is_cut_back_to_a_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "new" / "metrics.jsonl"
    with Journal(path) as journal:
        assert journal.position == 0
        journal.write({"step": 1, "name": "ä"})
        position = journal.position
        assert position == path.stat().st_size
        journal.write({"step": 2})
        assert lines(path) == [{"step": 1, "name": "ä"}, {"step": 2}]  # readable at once
    path.write_bytes(path.read_bytes() + b'{"step": 3, "tr')  # a process was killed while writing
    with Journal(path, position) as journal:
        assert journal.position == position
        journal.write({"step": 20})
    assert lines(path) == [{"step": 1, "name": "ä"}, {"step": 20}]


def test_without_a_checkpoint_it_starts_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("old\n")
    with Journal(path):
        pass
    assert path.read_bytes() == b""


def test_a_journal_that_was_cut_by_someone_else(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("{}\n")
    with pytest.raises(UserError, match=r"metrics.jsonl has 3 bytes, and had 10 when the checkpoint was written"):
        Journal(path, 10)
    assert path.read_text() == "{}\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk(tmp_path: Path) -> None:
    with Journal(tmp_path / "metrics.jsonl") as journal, Path("/dev/full").open("ab", buffering=0) as full:
        own, journal._stream = journal._stream, full
        with pytest.raises(DiskFull, match=r"the disk is full: .*metrics.jsonl"):
            journal.write({"step": 1})
        journal._stream = own
