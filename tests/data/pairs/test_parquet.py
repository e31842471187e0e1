"""Pairs in Parquet files."""

from __future__ import annotations

import logging
import pickle

import pytest
import torch

from guidestar.data.pairs import PairDataset, ParquetPairs, Unreadable, load_pairs
from guidestar.errors import UserError

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


@pytest.fixture
def write(tmp_path, png):
    """(name, numbers, options) -> a file in row groups of two, images as Hugging Face stores them."""

    def make(name, numbers, plain=False, **columns):
        images = [png(number) if plain else {"bytes": png(number), "path": None} for number in numbers]
        content = {"image": images, "text": [f"caption {number}" for number in numbers], **columns}
        parquet.write_table(pyarrow.table(content), tmp_path / name, row_group_size=2)

    return make


def load(base, **settings):
    return load_pairs(ParquetPairs(**{"files": "*.parquet", "captions": "text", **settings}), base=base)


@pytest.mark.parametrize("plain", [True, False])
def test_rows_in_any_order(tmp_path, write, plain):
    write("0.parquet", [0, 1, 2], plain)
    write("1.parquet", [3, 4], plain)
    pairs = load(tmp_path)
    assert pairs.keys([4, 0]) == ["1.parquet:1", "0.parquet:0"]
    for row in (4, 1, 3, 0, 2):
        assert pairs.captions(row) == [f"caption {row}"]
        assert pairs.picture(row).getpixel((0, 0)) == (10 * row, 255 - 10 * row, 128)
    assert pairs.parts() == [("0.parquet", 0, 3), ("1.parquet", 3, 5)]
    assert pairs.blocks() == [("0.parquet:0", 0, 2), ("0.parquet:1", 2, 3), ("1.parquet:0", 3, 5)]
    copy = pickle.loads(pickle.dumps(pairs))
    assert copy.captions(3) == ["caption 3"]
    assert copy.fingerprint() == load(tmp_path).fingerprint()


def test_forked_workers(tmp_path, write, letters):
    write("0.parquet", list(range(6)))
    pairs = load(tmp_path)
    dataset = PairDataset(pairs, size=8, tokenizer=letters, crop="random", seed=2)
    expected = [dataset.__getitems__(request) for request in ((0, [5, 0]), (1, [3, 2]))]
    loader = torch.utils.data.DataLoader(
        dataset,
        batch_sampler=[(0, [5, 0]), (1, [3, 2])],  # pyright: ignore[reportArgumentType]
        collate_fn=lambda batch: batch,
        num_workers=2,
        multiprocessing_context="fork",
    )
    for found, wanted in zip(loader, expected, strict=True):
        assert torch.equal(found.images, wanted.images)
        assert torch.equal(found.tokens, wanted.tokens)


def test_memory_is_bounded(tmp_path, write, monkeypatch):
    monkeypatch.setattr("guidestar.data.pairs.parquet._MEMORY", 1)
    write("0.parquet", list(range(8)))
    pairs = load(tmp_path)
    for row in range(8):
        pairs.picture(row)
        assert len(pairs._content._reader._kept) == 1  # pyright: ignore[reportAttributeAccessIssue]


def test_columns(tmp_path, write):
    more = {"more": [["a", "b"], None, [" "], []], "id": ["p", "q", "r", "s"], "kind": [3, 1, 3, 1]}
    write("0.parquet", list(range(4)), **more)
    pairs = load(tmp_path, captions=["more", "text"], key="id", label="kind")
    assert pairs.captions(0) == ["a", "b", "caption 0"]
    assert pairs.captions(2) == ["caption 2"]
    assert pairs.max_captions == 3
    assert pairs.keys([2]) == ["r"]
    assert pairs.labels is not None
    assert pairs.labels.tolist() == [1, 0, 1, 0]
    assert pairs.class_names == ["1", "3"]
    fingerprints = {pairs.fingerprint(), load(tmp_path).fingerprint(), load(tmp_path, key="id").fingerprint()}
    assert len(fingerprints) == 3


def test_rows_without_caption(tmp_path, write, caplog):
    write("0.parquet", list(range(4)), title=["a", "", None, "d"], kind=["x", None, "y", "z"])
    with pytest.raises(UserError, match=r"0\.parquet:1 has no caption in title \(2 of 4 rows have none\)"):
        load(tmp_path, captions="title")
    settings = ParquetPairs(files="*.parquet", captions="title", label="kind")
    with caplog.at_level(logging.WARNING, "guidestar"):
        pairs = load_pairs(settings, base=tmp_path, on_error="skip")
    assert pairs.keys([0, 1]) == ["0.parquet:0", "0.parquet:3"]
    assert pairs.class_names == ["x", "z"]
    assert "skipped 2 of 4 samples" in caplog.text
    write("0.parquet", [0, 1], title=["", None])
    with pytest.raises(UserError, match="has no row with a caption in title"):
        load_pairs(settings.model_copy(update={"label": None}), base=tmp_path, on_error="skip")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"captions": "title"}, r"`captions`: .*0\.parquet has no column `title`; it has: image, text, id, none, kind"),
        ({"image": "photo"}, "`image`: .* has no column `photo`"),
        ({"key": "id"}, "`key`: column `id` of .* holds 'p' in several rows"),
        ({"key": "none"}, r"`key`: 0\.parquet:1 of .* has no key in column `none`"),
        ({"captions": "number"}, "`captions`: .* has no column `number`"),
        ({"captions": "kind"}, r"a caption must be a text, found float in 0\.parquet:0"),
        ({"label": "none"}, r"`label`: each row needs one; found None in 0\.parquet:1"),
        ({"label": "kind"}, r"`label`: each row needs one; found 1\.5 in 0\.parquet:0"),
    ],
)
def test_bad_columns(tmp_path, write, settings, message):
    write("0.parquet", [0, 1, 2], id=["p", "q", "p"], none=["a", None, "c"], kind=[1.5, 2.0, 3.0])
    with pytest.raises(UserError, match=message):
        load(tmp_path, **settings)


def test_bad_images(tmp_path, write):
    write("0.parquet", [0, 1], photo=["text", None], file=[{"bytes": None, "path": "gone.jpg"}, None])
    with pytest.raises(UserError, match=r"`image`: column `photo` of .* must hold the bytes of images, found string"):
        load(tmp_path, image="photo")
    with pytest.raises(Unreadable, match=r"'0\.parquet:0' .* is missing: it has no bytes, and no file at 'gone\.jpg'"):
        load(tmp_path, image="file").picture(0)
    with pytest.raises(Unreadable, match=r"'0\.parquet:1' .* is missing: the cell is empty"):
        load(tmp_path, image="file").picture(1)


def test_no_parquet(tmp_path):
    (tmp_path / "0.parquet").write_bytes(b"nothing of the kind")
    with pytest.raises(UserError, match=r"0\.parquet is no Parquet file"):
        load(tmp_path)
    with pytest.raises(ValueError, match="`captions` must name at least one column"):
        ParquetPairs(files="a", captions=[])


def test_without_pyarrow(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"guidestar\[tables\]"):
        load(tmp_path)
