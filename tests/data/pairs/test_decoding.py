"""Decoding, class ids, and files by pattern."""

from __future__ import annotations

import io
import logging
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import TypeAdapter, ValidationError

from guidestar.data.pairs import PairSource
from guidestar.data.pairs.captions import caption_texts, log_skipped
from guidestar.data.pairs.decoding import decode_picture
from guidestar.data.pairs.labels import class_ids
from guidestar.data.pairs.patterns import expand_braces, find_files, part_names
from guidestar.errors import UserError


def encode(image, form, **options):
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def bomb(width, height):
    """A PNG of a few bytes whose header claims this size."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "BMP"])
def test_forms(form):
    picture = decode_picture(encode(Image.new("RGB", (6, 4), (255, 0, 0)), form), "x", 24)
    assert (picture.mode, picture.size) == ("RGB", (6, 4))
    assert np.abs(np.asarray(picture).astype(int) - [255, 0, 0]).max() < 4


def test_modes():
    deep = Image.fromarray(np.full((2, 3), 40_000, dtype=np.uint16))
    assert np.asarray(decode_picture(encode(deep, "PNG"), "x", 64))[0, 0].tolist() == [156] * 3
    palette = Image.new("P", (2, 2))
    palette.putpalette([10, 20, 30] * 256)
    assert np.asarray(decode_picture(encode(palette, "PNG", transparency=1), "x", 64))[0, 0].tolist() == [10, 20, 30]
    assert np.asarray(decode_picture(encode(Image.new("LA", (2, 2), (9, 0)), "PNG"), "x", 64))[0, 0].tolist() == [9] * 3
    with pytest.raises(UserError, match="floating-point values are not supported"):
        decode_picture(encode(Image.new("F", (2, 2)), "TIFF"), "x", 64)


def test_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    assert decode_picture(encode(Image.new("RGB", (6, 4)), "JPEG", exif=exif), "x", 64).size == (4, 6)


def test_bombs():
    with pytest.raises(UserError, match=r"the image of 'k' is 9000 x 9000, 81,000,000 pixels; more than `max_pixels`"):
        decode_picture(bomb(9000, 9000), "'k'", 64_000_000)
    with pytest.raises(UserError, match=r"the image of 'k' is 12000 x 12000"):  # Pillow only warns of this one
        decode_picture(bomb(12_000, 12_000), "'k'", 64_000_000)
    with pytest.raises(UserError, match="the image of 'k' is too large to be read safely"):
        decode_picture(bomb(60_000, 60_000), "'k'", 64_000_000)


def test_broken():
    jpeg = encode(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)), "JPEG")
    assert decode_picture(jpeg, "'k'", 10_000).size == (64, 64)
    with pytest.raises(UserError, match=r"the image of 'k' cannot be read \(image file is truncated"):
        decode_picture(jpeg[: len(jpeg) // 2], "'k'", 10_000)
    with pytest.raises(UserError, match=r"the image of 'k' cannot be read \(it is empty\)"):
        decode_picture(b"", "'k'", 10_000)
    with pytest.raises(UserError, match=r"\(cannot identify image file\)"):
        decode_picture(b"<html>", "'k'", 10_000)


def test_class_ids():
    assert class_ids(np.array([20, 3, 20]))[1] == ["3", "20"]
    assert class_ids(["b", "a", b"b"])[0].tolist() == [1, 0, 1]
    assert class_ids([3.0, 1.0], other=["1", "2", "3"])[0].tolist() == [2, 0]
    assert class_ids(torch.tensor([1, 0]), given=["x", "y"])[0].tolist() == [1, 0]
    assert class_ids(["y", 0], given=["x", "y"])[0].tolist() == [1, 0]
    with pytest.raises(UserError, match=r"`label`: each row needs one; found nan in k1"):
        class_ids([1.0, float("nan")], key=lambda row: f"k{row}")
    with pytest.raises(UserError, match=r"`label`: must be a text or a whole number; found \['a'\] in 0"):
        class_ids([["a"]])
    with pytest.raises(UserError, match=r"`label`: 'z' in 1 is none of the 2 classes \(x, y\)"):
        class_ids(["x", "z"], other=["x", "y"])
    with pytest.raises(UserError, match=r"`label`: -1 in 0 is none of the 2 classes"):
        class_ids([-1], given=["x", "y"])


def test_braces():
    assert expand_braces("a{8..10}b") == ["a8b", "a9b", "a10b"]
    assert expand_braces("{x,y}{00..01}") == ["x00", "x01", "y00", "y01"]
    for pattern, message in (
        ("{0..3", r"the braces in '\{0\.\.3' do not match"),
        ("0..3}", "do not match"),
        ("{3..0}", r"the range \{3\.\.0\} in .* runs backwards"),
        ("{abc}", r"\{abc\} in .* must be a range like"),
    ):
        with pytest.raises(UserError, match=message):
            expand_braces(pattern)


def test_finding_files(tmp_path):
    for name in ("b.tar", "a.tar", "a.tar.index", "c[1].tar"):
        (tmp_path / name).touch()
    (tmp_path / "folder.tar").mkdir()
    assert [path.name for path in find_files(["b.tar", "*"], tmp_path, "shards")] == ["b.tar", "a.tar", "c[1].tar"]
    assert [path.name for path in find_files("c[1].tar", tmp_path, "shards")] == ["c[1].tar"]
    with pytest.raises(FileNotFoundError, match=r"`shards`: '\{a,z\}\.tar' finds no file: there is none at .*z\.tar"):
        find_files("{a,z}.tar", tmp_path, "shards")
    with pytest.raises(UserError, match="`shards` must name at least one file"):
        find_files([], tmp_path, "shards")
    assert part_names([tmp_path / "x" / "a" / "0.tar", tmp_path / "y" / "a" / "0.tar"]) == ["x/a/0.tar", "y/a/0.tar"]


def test_captions():
    assert caption_texts([np.array(["a", " b "]), (None, "")], lambda: "x") == ["a", "b"]
    with pytest.raises(UserError, match="a caption must be a text, found dict in x"):
        caption_texts([{}], lambda: "x")


def test_long_lists_of_skipped_samples_are_cut(caplog):
    with caplog.at_level(logging.WARNING, "guidestar"):
        log_skipped("x", [f"reason {number}" for number in range(30)], 50)
    assert "x: skipped 30 of 50 samples" in caplog.text
    assert "reason 19" in caplog.text
    assert "reason 20" not in caplog.text
    assert "and 10 more" in caplog.text


def test_settings():
    adapter = TypeAdapter(PairSource)
    assert adapter.validate_python({"source": "shards", "shards": "a.tar"}).max_pixels == 64_000_000
    for settings, message in (
        ({"source": "shards", "shards": "a.tar", "caption": "x"}, "caption"),
        ({"source": "tar"}, "source"),
        ({"source": "parquet", "files": "a", "max_pixels": 10**9}, "max_pixels"),
        ({"source": "folder", "table": "a", "limit": 0}, "limit"),
        ({"source": "folder", "table": "a", "class_names": ["x"]}, "set `label` too"),
    ):
        with pytest.raises(ValidationError, match=message):
            adapter.validate_python(settings)
