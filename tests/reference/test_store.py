"""Writing, reading and describing a store."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from reference_toy import numbers

from guidestar.errors import UserError
from guidestar.reference import Store, files
from guidestar.reference.arrays import ArrayFile

Make = Callable[..., Store]


def test_files_have_their_full_size_from_the_start_and_take_no_space(make_store: Make) -> None:
    with make_store(rows=1_000_000) as store:
        logits = store.path / "logits.npy"
        assert logits.stat().st_size > 6_000_000
        assert logits.stat().st_blocks * 512 < 100_000
        assert np.load(logits, mmap_mode="r").dtype == np.float16
        assert np.load(store.path / "loss.npy", mmap_mode="r").dtype == np.float32
    assert [path.name for path in store.path.parent.iterdir()] == ["store"]


@pytest.mark.parametrize(
    "index", [[3, 0, 19], torch.tensor([3, 0, 19]), torch.tensor([3, 0, 19], dtype=torch.int32), np.array([3, 0, 19])]
)
def test_rows_come_in_the_order_that_was_asked(full: Store, index: object) -> None:
    rows = full[index]  # type: ignore[index]
    assert set(rows) == {"loss", "logits"}
    assert torch.equal(rows["loss"], torch.tensor([3.5, 0.5, 19.5]))
    assert torch.equal(rows["logits"], torch.tensor([[3.0, -3.0, 1.5], [0.0, 0.0, 0.0], [19.0, -19.0, 9.5]]))
    assert rows["logits"].dtype == torch.float32


def test_an_int_a_slice_and_a_grid_of_rows(full: Store) -> None:
    assert full[7]["loss"].item() == 7.5
    assert full[7]["logits"].shape == (3,)
    assert full[-3:]["loss"].tolist() == [17.5, 18.5, 19.5]
    assert full[torch.tensor([[1, 2], [3, 4]])]["logits"].shape == (2, 2, 3)
    assert full[[]]["logits"].shape == (0, 3)
    assert len(full) == 20


def test_what_is_read_is_the_readers_own(full: Store) -> None:
    full[2:5]["loss"].add_(100)
    full.read("logits", [2], dtype=None).zero_()
    assert full[2]["loss"].item() == 2.5
    assert full[2]["logits"].tolist() == [2, -2, 1]


def test_read_one_array_in_a_type(full: Store) -> None:
    assert full.read("logits", [1]).dtype == torch.float32
    assert full.read("logits", [1], dtype=None).dtype == torch.float16
    assert full.read("loss", 1, dtype=torch.float64).dtype == torch.float64
    with pytest.raises(UserError, match="no array `text`, only loss, logits"):
        full.read("text", 0)


def test_float16_round_trip_is_the_nearest_float16(make_store: Make) -> None:
    logits = torch.randn(20, 3, generator=torch.Generator().manual_seed(0)) * 30
    with make_store() as store:
        store.write(0, loss=torch.zeros(20), logits=logits)
    assert torch.equal(store[:]["logits"], logits.half().float())
    assert torch.allclose(store[:]["logits"], logits, rtol=2**-11, atol=0)


def test_bfloat16_and_tensors_with_a_gradient_can_be_written(make_store: Make) -> None:
    with make_store(rows=2) as store:
        store.write(0, loss=torch.ones(2, requires_grad=True), logits=torch.ones(2, 3, dtype=torch.bfloat16))
    assert store[1]["logits"].tolist() == [1, 1, 1]


@pytest.mark.parametrize("bad", [[20], [-1], torch.tensor([0, 25]), 20, -1])
def test_out_of_range(full: Store, bad: object) -> None:
    with pytest.raises(IndexError, match=r"`index` must be between 0 and 19, found rows (20|-1|25)\."):
        full[bad]  # type: ignore[index]


@pytest.mark.parametrize("bad", [torch.tensor([True, False]), [0.5], "loss"])
def test_an_index_of_something_else(full: Store, bad: object) -> None:
    with pytest.raises(TypeError, match=r"must hold integers|cannot be interpreted as an integer"):
        full[bad]  # type: ignore[index]


def test_a_row_that_was_never_written_is_invalid_and_not_zero(make_store: Make) -> None:
    with make_store() as store:
        store.write(3, **numbers(4))
        store.write([19, 1], loss=[19.0, 1.0], logits=np.zeros((2, 3)))
    store = Store.open(store.path)
    assert np.flatnonzero(store.validity()).tolist() == [1, 3, 4, 5, 6, 19]
    assert store.validity().dtype == bool
    assert store.count_valid() == 6
    assert store[[1, 19, 4]]["loss"].tolist() == [1, 19, 1.5]
    with pytest.raises(IndexError, match=r"Rows 0, 7 of the reference store .* were never written"):
        store[[0, 3, 7]]
    with pytest.raises(IndexError, match=r"Rows 0, 2, 7, 8, .*, \.\.\. \(14 in all\)"):
        store[:]
    with pytest.raises(
        UserError, match=r"14 of 20 rows are missing \(the first: 0, 2, 7, 8, 9\).*score RECIPE --resume"
    ):
        store.require_complete()


def test_a_complete_store(full: Store) -> None:
    full.require_complete()
    assert full.validity().all()
    assert full.is_valid(0, 20)


def test_the_last_bits_of_the_bitmap_stay_zero(make_store: Make) -> None:
    with make_store(rows=13) as store:
        store.write(0, **numbers(13))
    assert np.load(store.path / "valid.npy").tolist() == [0xFF, 0x1F]


def test_rows_are_readable_while_the_store_is_written(make_store: Make) -> None:
    with make_store() as store:
        with pytest.raises(IndexError, match="never written"):
            store[0]
        store.write(0, **numbers(20))
        assert store[0]["loss"].item() == 0.5


def test_uncommitted_rows_are_not_valid(make_store: Make) -> None:
    with make_store() as store:
        store.write(0, commit=False, **numbers(8))
        assert store.count_valid() == 0
        store.commit()
        assert store.count_valid() == 8


def test_values_are_synced_before_their_bits_are_set(make_store: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    write, sync = ArrayFile.write, ArrayFile.sync

    def logged_write(file: ArrayFile, start: int, values: np.ndarray) -> None:
        events.append(f"write {file._path.stem}")
        write(file, start, values)

    def logged_sync(file: ArrayFile) -> None:
        events.append(f"sync {file._path.stem}")
        sync(file)

    monkeypatch.setattr(ArrayFile, "write", logged_write)
    monkeypatch.setattr(ArrayFile, "sync", logged_sync)
    with make_store() as store:
        store.write(0, **numbers(8))
        assert events == ["write loss", "write logits", "sync loss", "sync logits", "write valid", "sync valid"]
        events.clear()
        # Rows that are written over are invalid until the new values are there.
        store.write(0, **numbers(8))
        assert events[:3] == ["write valid", "sync valid", "write loss"]
        assert events[-2:] == ["write valid", "sync valid"]


def test_an_error_while_writing_keeps_what_was_written(make_store: Make) -> None:
    store = make_store()
    with pytest.raises(KeyboardInterrupt), store:  # noqa: PT012
        store.write(0, commit=False, **numbers(8))
        raise KeyboardInterrupt
    assert Store.open(store.path).count_valid() == 8


def test_create_continues_an_identical_store(make_store: Make) -> None:
    with make_store(command="first") as store:
        store.write(0, **numbers(8))
    with make_store(command="second") as store:
        assert store.count_valid() == 8
        assert store.meta.command == "first"
        store.write(8, **numbers(12))
    store.require_complete()


def test_meta_is_plain_json(full: Store) -> None:
    meta = json.loads((full.path / "meta.json").read_text())
    assert meta["format"] == 1
    assert meta["arrays"] == {"loss": {"shape": [], "dtype": "float32"}, "logits": {"shape": [3], "dtype": "float16"}}
    assert meta["dataset"] == {"name": "train", "fingerprint": "f0", "classes": 3}
    assert meta["reference"] == {"name": "toy", "weights": "w0"}


def test_a_pickled_store_is_its_path(full: Store) -> None:
    data = pickle.dumps(full)
    assert len(data) < 1000
    assert pickle.loads(data)[3]["loss"].item() == 3.5


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the process's memory from /proc")
def test_memory_does_not_grow_with_the_store(make_store: Make) -> None:
    rows, width = 2_000_000, 2048  # 8 GB of float16, on paper
    arrays = {"logits": ((width,), None)}
    before = resident_bytes()
    with make_store(rows=rows, arrays=arrays) as store:
        for start in range(0, rows, rows // 8):
            store.write(start, logits=np.full((64, width), start % 7, dtype=np.float32))
    store = Store.open(store.path)
    read = store.read("logits", [0, rows // 2, rows // 8 * 7 + 63], dtype=None)
    assert read[:, -1].tolist() == [0, rows // 2 % 7, rows // 8 * 7 % 7]
    assert resident_bytes() - before < 200e6


def test_default_types(make_store: Make) -> None:
    names = ("loss", "token_loss", "logits", "image", "label", "key", "input_mean")
    with make_store(arrays={name: ((), None) for name in names}) as store:
        types = {name: dtype for name, (_, dtype) in store.meta.arrays.items()}
    assert types == dict(
        loss="float32",
        token_loss="float32",
        logits="float16",
        image="float16",
        label="int32",
        key="uint64",
        input_mean="float32",
    )


def test_creation_that_another_process_wins(make_store: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rename = files.os.rename

    def late(source: Path, target: Path) -> None:
        monkeypatch.setattr(files.os, "rename", rename)
        make_store(command="the other").close()
        rename(source, target)

    monkeypatch.setattr(files.os, "rename", late)
    with make_store(command="this one") as store:
        assert store.meta.command == "the other"
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
