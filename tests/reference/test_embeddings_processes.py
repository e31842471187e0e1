"""Scoring pairs in real processes: killed at any moment and continued, or several at once."""

import random
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from embeddings_toy import ToyPairs, ToyTowers
from torch.multiprocessing.spawn import start_processes

from guidestar.errors import UserError
from guidestar.reference.embeddings import EmbeddingStore, StoredEmbeddings, score_pairs

PROGRAM = Path(__file__).parent / "embeddings_toy.py"
PARTS = 13  # 203 rows in shards of 32, cut into blocks of 20


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


def check_killed_and_continue(path: Path, whole: Path, finished: int | None = None) -> None:
    """What is there is right, the rest is still missing, and a second run ends in the same bytes."""
    broken = EmbeddingStore.open(path)
    there = [index for index in range(PARTS) if broken.finished(index)]
    assert len(there) < PARTS if finished is None else there == list(range(finished))
    for index in there:
        name = broken.meta.parts[index].file
        assert (path / name).read_bytes() == (whole / name).read_bytes()
    with pytest.raises(
        UserError, match=f"is half written: .* of 203 rows are missing, {PARTS - len(there)} of 13 parts"
    ):
        broken.require_complete(ToyPairs(rows=203, shard=32))
    with start(path) as process:
        process.communicate()
    assert process.returncode == 0
    assert files_of(path) == files_of(whole)


def test_killed_by_itself_after_a_part(tmp_path: Path, whole: Path) -> None:
    with start(tmp_path / "store", "--die-after-rows", 60) as process:
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    check_killed_and_continue(tmp_path / "store", whole, finished=4)


# The first rename is that of meta.json.
@pytest.mark.parametrize("call", [2, 5])
def test_killed_in_the_middle_of_a_write(tmp_path: Path, whole: Path, call: int) -> None:
    with start(tmp_path / "store", "--die-in-rename", call) as process:
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert len(list((tmp_path / "store").glob("*.tmp"))) == 1
    check_killed_and_continue(tmp_path / "store", whole, call - 2)


def test_killed_while_the_description_is_written(tmp_path: Path, whole: Path) -> None:
    with start(tmp_path / "store", "--die-in-rename", 1) as process:
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    with start(tmp_path / "store") as process:
        process.communicate()
    assert process.returncode == 0
    # Another process could be writing under this name, so it stays.
    assert [left.unlink() for left in (tmp_path / "store").glob("meta.json.*.tmp")] == [None]
    assert files_of(tmp_path / "store") == files_of(whole)


def test_killed_from_outside_at_a_random_moment(tmp_path: Path, whole: Path) -> None:
    parts = random.randrange(1, 9)
    with start(tmp_path / "store", "--pause", 0.1) as process:
        assert process.stdout is not None
        for _ in range(parts):
            process.stdout.readline()
        process.kill()
    assert process.returncode == -signal.SIGKILL
    check_killed_and_continue(tmp_path / "store", whole)


def _score_share(rank: int, path: Path) -> None:
    torch.set_num_threads(1)
    pairs, about = ToyPairs(rows=203, shard=32), {"weights_hash": "w0", "reference_name": "toy", "device": "cpu"}
    rows: list[int] = []
    options = {"batch_size": 7, "block": 20, "progress": False, "on_part": rows.append}
    score_pairs(ToyTowers(), pairs, path, rank=rank, world=2, **about, **options)
    (path.parent / f"rows-{rank}").write_text(str(rows[-1]))


def test_two_processes_at_once_equal_one(tmp_path: Path, whole: Path) -> None:
    path = tmp_path / "store"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer Pythons warn about any fork of a process that has threads
        start_processes(_score_share, args=(path,), nprocs=2, start_method="fork")
    shares = [int((tmp_path / f"rows-{rank}").read_text()) for rank in range(2)]
    assert sum(shares) == 203
    assert min(shares) > 60
    assert files_of(path) == files_of(whole)
    pairs = ToyPairs(rows=203, shard=32)
    stored = StoredEmbeddings(EmbeddingStore.open(path), pairs)
    assert stored.embeddings(torch.tensor([202, 0]), torch.tensor([0, 0]))[0].shape == (2, 6)
