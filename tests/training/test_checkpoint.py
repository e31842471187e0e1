"""Checkpoints are whole or absent."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest
import torch

from guidestar.errors import UserError
from guidestar.files import DiskFull
from guidestar.training.checkpoint import FORMAT, list_checkpoints, load_checkpoint, save_checkpoint

FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full, a device on which every write fails")


def save(folder: Path, step: int, keep: int = 2, size: int = 3) -> Path:
    return save_checkpoint(folder, step, {"weight": torch.full((size,), float(step))}, keep)


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    state = {"a": torch.randn(3, dtype=torch.float64), "b": {"c": [1, 2.5, "x", None]}}
    loaded = load_checkpoint(save_checkpoint(tmp_path / "new", 12, state, 1))
    assert torch.equal(loaded["a"], state["a"])
    assert (loaded["b"], loaded["step"], loaded["format"]) == (state["b"], 12, FORMAT)


def test_only_the_last_ones_stay_in_the_order_of_their_steps(tmp_path: Path) -> None:
    for step in (5, 10, 99_999_999, 100_000_000):
        save(tmp_path, step, keep=2)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-99999999.pt", "step-100000000.pt"]


def test_what_a_killed_process_left_is_ignored_and_removed(tmp_path: Path) -> None:
    first = save(tmp_path, 5)
    half = tmp_path / "step-00000010.pt.123.tmp"
    half.write_bytes(first.read_bytes()[:100])
    (tmp_path / "notes.txt").write_text("mine")
    assert list_checkpoints(tmp_path) == [first]
    save(tmp_path, 10)
    assert not half.exists()
    assert (tmp_path / "notes.txt").exists()
    assert list_checkpoints(tmp_path / "nowhere") == []


@needs_full
@pytest.mark.parametrize("size", [3, 1_000_000])
def test_a_full_disk_leaves_the_older_checkpoint(tmp_path: Path, size: int) -> None:
    first = save(tmp_path, 5)
    (tmp_path / f"step-00000010.pt.{os.getpid()}.tmp").symlink_to(FULL)  # where the next one is written aside
    with pytest.raises(DiskFull, match=r"the disk is full: .*step-00000010.pt could not be written.*--resume"):
        save(tmp_path, 10, keep=1, size=size)
    assert [path.name for path in tmp_path.iterdir()] == [first.name]
    assert load_checkpoint(first)["step"] == 5


@pytest.mark.parametrize("content", [b"", b"hello world", b"PK\x03\x04 cut"])
def test_a_damaged_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "step-00000001.pt"
    path.write_bytes(content)
    with pytest.raises(
        UserError, match=r"step-00000001.pt is no readable checkpoint.*Remove it to continue from an older"
    ):
        load_checkpoint(path)


def test_a_zip_file_that_is_none_of_torch_and_a_half_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "step-00000001.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", "b")
    with pytest.raises(UserError, match="no readable checkpoint"):
        load_checkpoint(path)
    whole = save(tmp_path, 2).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="no readable checkpoint"):
        load_checkpoint(path)


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "step-00000001.pt"
    torch.save({"format": FORMAT, "module": torch.nn.Linear(1, 1)}, path)
    with pytest.raises(UserError, match=r"no readable checkpoint.*Weights only"):
        load_checkpoint(path)


@pytest.mark.parametrize("state", [{"format": FORMAT + 1}, {}, [1, 2]])
def test_another_format(tmp_path: Path, state: object) -> None:
    path = tmp_path / "step-00000001.pt"
    torch.save(state, path)
    with pytest.raises(UserError, match=f"no checkpoint of format {FORMAT}"):
        load_checkpoint(path)


def test_a_missing_file_is_an_error_of_the_file_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_checkpoint(tmp_path / "step-00000001.pt")
