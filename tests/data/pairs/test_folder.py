"""Image files with a table of captions."""

from __future__ import annotations

import gzip
import json
import logging

import pytest

from guidestar.data.pairs import FolderPairs, load_pairs
from guidestar.errors import UserError


@pytest.fixture
def images(tmp_path, png):
    """Three images in a folder."""
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    for number, name in enumerate(["a.png", "b.png", "sub/c.png"]):
        (folder / name).write_bytes(png(number))
    return folder


CSV = 'image,caption,kind,id\na.png,"one, a",x,1\nsub/c.png,three,y,3\na.png,again,x,1\nb.png,two,x,2\n'


def load(base, table="t.csv", on_error="raise", **settings):
    return load_pairs(FolderPairs(table=table, images="images", **settings), base=base, on_error=on_error)


def test_csv(tmp_path, images):
    (tmp_path / "t.csv").write_text("\ufeff" + CSV, encoding="utf-8")
    pairs = load(tmp_path, label="kind")
    assert pairs.keys(range(3)) == ["a.png", "sub/c.png", "b.png"]
    assert [pairs.captions(row) for row in range(3)] == [["one, a", "again"], ["three"], ["two"]]
    assert pairs.picture(1).getpixel((0, 0)) == (20, 235, 128)
    assert pairs.max_captions == 2
    assert pairs.labels is not None
    assert pairs.labels.tolist() == [0, 1, 0]
    assert load(tmp_path, key="id").keys([1]) == ["3"]
    before = pairs.fingerprint()
    (images / "b.png").write_bytes((images / "b.png").read_bytes() + b" ")
    assert load(tmp_path, label="kind").fingerprint() != before


@pytest.mark.parametrize("name", ["t.tsv", "t.tsv.gz", "t.jsonl", "t.jsonl.gz"])
def test_other_tables(tmp_path, images, name):
    if "tsv" in name:
        text = "file\ttitle\nb.png\tone\n\na.png\ttwo\n"
    else:
        rows = [{"file": "b.png", "title": "one"}, {"file": "a.png", "title": ["two"]}]
        text = "\n\n".join(map(json.dumps, rows)) + "\n"
    content = text.encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    pairs = load(tmp_path, name, image="file", captions="title")
    assert [pairs.captions(row) for row in range(2)] == [["one"], ["two"]]
    assert pairs.keys([0, 1]) == ["b.png", "a.png"]


def test_the_table_lies_beside_the_images(tmp_path, images):
    (images / "t.csv").write_text("image,caption\na.png,one\n")
    assert load_pairs(FolderPairs(table="images/t.csv"), base=tmp_path).captions(0) == ["one"]


def test_skipping(tmp_path, images, caplog):
    (tmp_path / "t.csv").write_text("image,caption,kind\na.png,one,x\ngone.png,two,y\nb.png,,z\n")
    with pytest.raises(UserError, match=r"t\.csv: 'b\.png' has no caption \(1 of 3 rows have none\)"):
        load(tmp_path)
    with caplog.at_level(logging.WARNING, "guidestar"):
        pairs = load(tmp_path, on_error="skip", label="kind")
    assert pairs.keys(range(len(pairs))) == ["a.png"]
    assert pairs.class_names == ["x"]
    assert "'gone.png' is not in" in caplog.text
    assert "'b.png' has no caption" in caplog.text
    (tmp_path / "t.csv").write_text("image,caption\na.png,one\ngone.png,two\n")
    with pytest.raises(UserError, match=r"names 1 images that are not in .*images, the first 'gone\.png'"):
        load(tmp_path)
    (tmp_path / "t.csv").write_text("image,caption\ngone.png,two\n")
    with pytest.raises(UserError, match="names 1 images that are not in"):
        load(tmp_path, on_error="skip")
    (tmp_path / "t.csv").write_text("image,caption\n")
    with pytest.raises(UserError, match="has no row with a caption"):
        load(tmp_path, on_error="skip")


@pytest.mark.parametrize(
    ("text", "settings", "message"),
    [
        ("image,text\na.png,one\n", {}, r"t\.csv, line 2: there is no column `caption`; it has: image, text"),
        ("image,caption\na.png,one,more\n", {}, "line 2: expected 2 values, found 3"),
        ("image,caption\n,one\n", {}, "line 2: `image` must be a file name, found '' in column `image`"),
        ("image,caption,k\na.png,one,1\na.png,two,2\n", {"key": "k"}, r"line 3: 'a\.png' has key '2' .* must agree"),
        ("image,caption,k\na.png,one,1\nb.png,two,1\n", {"key": "k"}, r"line 3: `key` '1' is that of 'a\.png' already"),
        ("image,caption,k\na.png,one,\n", {"label": "k"}, r"`label`: each row needs one; found '' in 'a\.png'"),
    ],
)
def test_bad_tables(tmp_path, images, text, settings, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        load(tmp_path, **settings)


def test_bad_files(tmp_path, images):
    (tmp_path / "t.csv").write_bytes(b"image,caption\na.png,\xff\n")
    with pytest.raises(UserError, match=r"t\.csv must be UTF-8 text"):
        load(tmp_path)
    (tmp_path / "t.jsonl").write_text('{"image": "a.png"\n')
    with pytest.raises(UserError, match=r"t\.jsonl, line 1: this is not JSON"):
        load(tmp_path, "t.jsonl")
    (tmp_path / "t.jsonl").write_text("[1]\n")
    with pytest.raises(UserError, match=r"t\.jsonl, line 1: expected an object, found list"):
        load(tmp_path, "t.jsonl")
    (tmp_path / "t.jsonl").write_text('{"image": "a.png", "caption": 3}\n')
    with pytest.raises(UserError, match=r"a caption must be a text, found int in .*t\.jsonl, line 1"):
        load(tmp_path, "t.jsonl")
    with pytest.raises(UserError, match=r"`table` must be a \.csv, \.tsv or \.jsonl file"):
        load(tmp_path, "t.xlsx")
    with pytest.raises(NotADirectoryError, match="`images` must be the folder of the images"):
        load_pairs(FolderPairs(table="t.csv", images="nothing"), base=tmp_path)


def test_broken_pictures_are_named(tmp_path, images):
    (tmp_path / "t.csv").write_text("image,caption\na.png,one\nb.png,two\n")
    content = (images / "a.png").read_bytes()
    (images / "a.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"the image of 'a\.png' \(.*a\.png\) cannot be read"):
        load(tmp_path).picture(0)
    with pytest.raises(UserError, match=r"'b\.png' .* is 12 x 8, 96 pixels; more than `max_pixels` = 95"):
        load(tmp_path, max_pixels=95).picture(1)
