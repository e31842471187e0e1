"""What a store refuses, and what it says then."""

import errno
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from reference_toy import numbers

from guidestar.errors import UserError
from guidestar.reference import Store, files

Make = Callable[..., Store]


def test_create_says_what_differs_from_the_store_that_is_there(make_store: Make) -> None:
    make_store(preprocessing={"mean": (0.5, 0.5)}).close()
    make_store(preprocessing={"mean": [0.5, 0.5]}).close()
    other = {"name": "toy", "weights": "w1"}
    arrays = {"loss": ((), None), "logits": ((3,), "float32")}
    with pytest.raises(UserError, match="was made differently") as caught:
        make_store(rows=21, reference=other, arrays=arrays, preprocessing={"mean": [0.5, 0.4]})
    lines = str(caught.value).splitlines()[1:-1]
    assert lines == [
        "  `rows`: the store has 20, expected 21",
        "  `reference.weights`: the store has w0, expected w1",
        "  `preprocessing.mean`: the store has [0.5, 0.5], expected [0.5, 0.4]",
        "  `arrays.logits`: the store has float16 [3], expected float32 [3]",
    ]


def test_create_does_not_touch_a_folder_with_other_things(make_store: Make, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    make_store().close()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("words")
    with pytest.raises(UserError, match=r"is not a reference store: it has no meta.json"):
        make_store(path=tmp_path / "other")
    with pytest.raises(UserError, match="is not a reference store"):
        make_store(path=tmp_path / "other" / "thesis.tex")
    assert sorted(path.name for path in tmp_path.rglob("*.tex")) == ["thesis.tex"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": 0}, "`rows` must be at least 1, found 0"),
        ({"block": 12}, "`block` must be a positive multiple of 8 .* found 12"),
        ({"arrays": {}}, "`arrays` must name at least one array"),
        ({"arrays": {"loss": ((), "bfloat16")}}, "type of `loss` must be one of float16, .* found 'bfloat16'"),
        ({"arrays": {"../loss": ((), None)}}, "a name must be a Python identifier .* found '../loss'"),
        ({"arrays": {"valid": ((), None)}}, 'a name must be a Python identifier other than "valid"'),
        ({"arrays": {"logits": ((0,), None)}}, r"row shape of `logits` must be at least 1, found \(0,\)"),
        ({"reference": {"name": "x"}}, "`reference` must have the keys `name` and `weights`, found \\['name'\\]"),
        ({"dataset": {"name": "x"}}, "`dataset` must have the keys `name` and `fingerprint`"),
        ({"preprocessing": {"mean": torch.ones(1)}}, "`preprocessing` must hold only what JSON can"),
    ],
)
def test_wrong_arguments_of_create(make_store: Make, tmp_path: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_store(**change)
    assert not list(tmp_path.iterdir())


def test_open_says_everything_that_differs(full: Store) -> None:
    fits = {"rows": 20, "kind": "classification", "classes": 3, "dataset": "f0", "reference": "toy", "weights": "w0"}
    Store.open(full.path, expect=fits)
    with pytest.raises(UserError, match="was not made for this") as caught:
        Store.open(full.path, expect=fits | {"rows": 30, "dataset": "f1", "weights": "w1", "classes": 10})
    assert str(caught.value).splitlines()[1:5] == [
        "  `rows`: the store has 20, expected 30",
        "  `classes`: the store has 3, expected 10",
        "  `dataset`: the store has f0, expected f1",
        "  `weights`: the store has w0, expected w1",
    ]
    assert "score again into another folder" in str(caught.value)
    with pytest.raises(UserError, match=r"`expect` may have the keys rows, .* found fingerprint"):
        Store.open(full.path, expect={"fingerprint": "f0"})


def test_open_where_there_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no meta.json. Make one with `guidestar score RECIPE`"):
        Store.open(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not valid JSON"),
        ("[]", "`format` must be 1, found None"),
        ('{"format": 2}', "`format` must be 1, found 2. The store was made by another version"),
        ('{"format": 1}', "is damaged: KeyError 'kind'"),
        ('{"format": 1, "kind": "x", "rows": "many"}', "is damaged: ValueError"),
    ],
)
def test_damaged_meta(full: Store, content: str, message: str) -> None:
    (full.path / "meta.json").write_text(content)
    with pytest.raises(UserError, match=message):
        Store.open(full.path)


def test_damaged_arrays(full: Store) -> None:
    logits = full.path / "logits.npy"
    whole = logits.read_bytes()
    logits.write_bytes(whole[:-1])
    size = len(whole)
    with pytest.raises(UserError, match=f"logits.npy should have {size} bytes, found {size - 1}: it was cut short"):
        Store.open(full.path)
    logits.write_bytes(whole[:20])
    with pytest.raises(UserError, match=r"logits.npy is not a readable .npy file"):
        Store.open(full.path)
    np.save(logits, np.zeros((20, 4), dtype=np.float16))
    with pytest.raises(UserError, match=r"holds float16 \(20, 4\), but meta.json says float16 \(20, 3\)"):
        Store.open(full.path)
    logits.unlink()
    with pytest.raises(UserError, match=r"logits.npy is missing. The store is damaged"):
        Store.open(full.path)
    logits.write_bytes(whole)
    (full.path / "valid.npy").unlink()
    with pytest.raises(UserError, match=r"valid.npy is missing"):
        Store.open(full.path)


def test_nothing_is_written_to_a_store_that_was_opened(full: Store) -> None:
    with pytest.raises(UserError, match=r"is open for reading only; `Store.create` continues it"):
        full.write(0, **numbers(20))


def test_wrong_writes(make_store: Make) -> None:
    with make_store() as store:
        with pytest.raises(UserError, match="`write` needs the arrays loss, logits; found loss"):
            store.write(0, loss=np.zeros(2))
        with pytest.raises(UserError, match=r"`logits` must have the shape \(2, 3\), found \(2, 4\)"):
            store.write(0, loss=np.zeros(2), logits=np.zeros((2, 4)))
        with pytest.raises(UserError, match=r"`loss` must have the shape \(3,\), found \(2,\)"):
            store.write([0, 1, 2], loss=np.zeros(2), logits=np.zeros((2, 3)))
        with pytest.raises(UserError, match="`index` must name a row once, found rows 4 again"):
            store.write([4, 4], loss=np.zeros(2), logits=np.zeros((2, 3)))
        with pytest.raises(IndexError, match="`index` must be between 0 and 19, found rows 20, 21"):
            store.write(18, **numbers(4))
        assert store.count_valid() == 0


def test_values_that_make_a_reference_useless(make_store: Make) -> None:
    with make_store() as store:
        values = numbers(8)
        values["loss"][[2, 5]] = np.nan
        with pytest.raises(UserError, match="`loss` is NaN for rows 12, 15: a reference with such values"):
            store.write(10, **values)
        values = numbers(8)
        values["loss"][1] = np.inf
        with pytest.raises(UserError, match="`loss` is infinite for rows 1"):
            store.write(0, **values)
        values = numbers(8)
        values["logits"][3, 1] = np.nan
        with pytest.raises(UserError, match="`logits` is NaN for rows 3"):
            store.write(0, **values)
        values = numbers(8)
        values["logits"][[0, 7], 2] = 7e4
        with pytest.raises(UserError, match=r"`logits` is too large for float16 \(limit 65504\) in rows 0, 7.*float32"):
            store.write(0, **values)
        assert store.count_valid() == 0
        # A class that the reference masks out is a legitimate answer.
        values = numbers(8)
        values["logits"][0, 2] = -np.inf
        store.write(0, **values)
        assert store[0]["logits"][2].item() == -np.inf


def test_integers_that_do_not_fit(make_store: Make) -> None:
    with (
        make_store(arrays={"label": ((), None)}) as store,
        pytest.raises(UserError, match="`label` must hold values that int32 can represent; it cannot for rows 1"),
    ):
        store.write(0, label=torch.tensor([1, 2**40]))


@pytest.mark.parametrize("where", ["write_all", "fsync"])
def test_a_full_disk_leaves_the_store_consistent(make_store: Make, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    target = "guidestar.reference.arrays." + {"write_all": "write_all", "fsync": "os.fsync"}[where]
    store = make_store()
    store.write(0, **numbers(8))
    monkeypatch.setattr(target, full)
    with pytest.raises(OSError, match=r"The disk is full: 8 of 20 rows .* are finished and safe") as caught:
        store.write(8, **numbers(12))
    monkeypatch.undo()
    store.commit()
    store.close()
    assert caught.value.errno == errno.ENOSPC
    store = Store.open(store.path)
    assert np.flatnonzero(store.validity()).tolist() == list(range(8))
    with make_store() as store:
        store.write(8, **numbers(12))
    store.require_complete()


def test_other_io_errors_are_not_called_a_full_disk(make_store: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    store = make_store()
    monkeypatch.setattr("guidestar.reference.arrays.os.fsync", broken)
    with pytest.raises(OSError, match="Input/output error"), store:
        store.write(0, **numbers(8))


def test_creation_that_fails_leaves_nothing(make_store: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(*_: object) -> None:
        raise OSError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(files.os, "rename", broken)
    with pytest.raises(OSError, match="Permission denied"):
        make_store()
    assert not list(tmp_path.iterdir())
