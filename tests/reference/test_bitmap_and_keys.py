"""Validity bits and the join by key, against plain Python."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from guidestar.errors import UserError
from guidestar.reference import bitmap as bitmap_module
from guidestar.reference import keys as keys_module
from guidestar.reference.bitmap import Bitmap, create_bitmap
from guidestar.reference.keys import find_hashes, hash_keys, join_keys


def everything(start: int, stop: int) -> np.ndarray:
    return np.full(stop - start, True)


def test_bits_equal_a_list_of_bools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bitmap_module, "_CHUNK", 2)
    random = np.random.default_rng(0)
    rows = 77
    create_bitmap(tmp_path / "valid.npy", rows)
    bitmap = Bitmap(tmp_path / "valid.npy", rows, writable=True)
    expected = [False] * rows
    for _ in range(40):
        start, stop = sorted(random.integers(0, rows + 1, 2).tolist())
        value = bool(random.random() < 0.6)
        if start < stop:
            bitmap.set(start, stop, value)
            expected[start:stop] = [value] * (stop - start)
        missing = [row for row in range(rows) if not expected[row]]
        assert bitmap.span(0, rows).tolist() == expected
        assert bitmap.get(np.arange(rows)).tolist() == expected
        assert bitmap.count() == sum(expected)
        assert bitmap.missing(limit=5) == missing[:5]
        assert bitmap.all(start, stop) == all(expected[start:stop])
    bitmap.sync()
    bitmap.close()
    packed = np.load(tmp_path / "valid.npy")
    assert [bool(packed[row // 8] >> (row % 8) & 1) for row in range(rows)] == expected


def test_hash_is_the_head_of_sha256() -> None:
    expected = int.from_bytes(hashlib.sha256(b"cat.png").digest()[:8], "little")
    assert hash_keys(["cat.png"]).tolist() == [expected]
    assert hash_keys([]).shape == (0,)
    assert len(set(hash_keys([str(row) for row in range(10_000)]).tolist())) == 10_000


def test_find_equals_a_search_in_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys_module, "_CHUNK", 7)
    random = np.random.default_rng(0)
    column = random.integers(0, 60, 50).astype(np.uint64)
    wanted = random.integers(0, 60, 30).astype(np.uint64)
    valid = random.random(50) < 0.8
    rows, counts = find_hashes(wanted, column, lambda start, stop: valid[start:stop])
    for key, row, count in zip(wanted, rows, counts, strict=True):
        places = [place for place in range(50) if column[place] == key and valid[place]]
        assert count == len(places)
        assert (row in places) if places else row == -1
    assert {0, 1} < set(counts.tolist())


def test_find_nothing() -> None:
    rows, counts = find_hashes(np.empty(0, np.uint64), np.arange(3, dtype=np.uint64), everything)
    assert rows.shape == counts.shape == (0,)


def test_join_names_what_is_missing_or_ambiguous() -> None:
    column = hash_keys(["a", "b", "c", "b"])
    assert join_keys(["c", "a", "c"], column, everything, "the store").tolist() == [2, 0, 2]
    with pytest.raises(UserError, match=r"2 of 3 row keys are not in the store: 'x', 'y'. Point to the store"):
        join_keys(["x", "a", "y"], column, everything, "the store")
    with pytest.raises(UserError, match=r"9 of 9 row keys are not in the store: '0', '1', '2', '3', '4', \.\.\."):
        join_keys([str(row) for row in range(9)], column, everything, "the store")
    with pytest.raises(UserError, match="1 of 2 row keys are more than once in the store: 'b'"):
        join_keys(["a", "b"], column, everything, "the store")
