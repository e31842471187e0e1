"""Indexing tar shards: what is found, and what is complained of."""

from __future__ import annotations

import gzip
import json
import logging
import os
from pathlib import Path

import numpy as np
import pytest

from guidestar.data.pairs.index import build_index, index_shards
from guidestar.data.pairs.sample import member_kind, parse_fields, sample_captions, sample_label
from guidestar.data.pairs.shard_index import IMAGE, TEXT, index_path, read_head, read_index
from guidestar.data.pairs.tar import CutShort, read_at, scan_tar
from guidestar.errors import UserError


def test_members_are_where_the_index_says(tmp_path, make_shard, png):
    shard = make_shard(tmp_path / "0.tar", [3, 1, 2])
    (path,) = index_shards("0.tar", base=tmp_path)
    index, content = read_index(shard), shard.read_bytes()
    assert path == index_path(shard)
    assert [index.keys[at] for at in range(3)] == ["k3", "k1", "k2"]
    for at, number in enumerate([3, 1, 2]):
        offset, size = index.members[at, IMAGE].tolist()
        assert content[offset : offset + size] == png(number)
        offset, size = index.members[at, TEXT].tolist()
        assert content[offset : offset + size] == f"caption {number}\n".encode()
    assert (index.members[:, 2:] == -1).all()
    assert index.head.samples == 3
    assert index.head.max_captions == 1


def test_files_of_a_sample_may_lie_apart_and_in_folders(tmp_path, make_tar, png):
    long = "a" * 150
    files = [("./x/1.a.JPG", png(1)), (f"{long}.txt", b"long"), ("x/1.a.txt", b"one"), (f"{long}.webp", png(2))]
    shard = make_tar(tmp_path / "0.tar", [*files, ("x/._1.a.jpg", b""), ("x/1.a.npy", b"array")])
    index_shards([str(shard)])
    keys = read_index(shard).keys
    assert [keys[0], keys[1]] == ["x/1.a", long]


def test_webdataset_writes_what_is_read(tmp_path, png):
    webdataset = pytest.importorskip("webdataset")
    shard = tmp_path / "000000.tar"
    with webdataset.TarWriter(str(shard)) as writer:
        for number in range(3):
            fields = {"caption": f"text {number}", "key": f"{number:09d}"}
            writer.write({"__key__": f"{number:09d}", "jpg": png(number, form="JPEG"), "json": json.dumps(fields)})
    index_shards(str(shard))
    assert read_head(shard).samples == 3


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([("a.txt", b"one")], r"'a' in .*0\.tar has no image\. Correct the shard, or run `guidestar index` with"),
        ([("a.jpg", b""), ("a.txt", b"one")], "'a' in .* has an empty image"),
        ([("a.jpg", b"x")], r"'a' in .* has no caption: no \.txt with a text, and no `caption` in its \.json"),
        ([("a.jpg", b"x"), ("a.txt", b" \n")], "'a' in .* has no caption"),
        ([("a.jpg", b"x"), ("a.json", b'{"caption": null}')], "'a' in .* has no caption"),
        ([("a.jpg", b"x"), ("a.json", b'{"caption"')], r"the \.json of 'a' in .* is not JSON"),
        ([("a.jpg", b"x"), ("a.json", b"[1]")], r"the \.json of 'a' in .* must be an object, found list"),
        ([("a.jpg", b"x"), ("a.txt", b"\xff")], r"the \.txt of 'a' in .* must be UTF-8"),
        ([("a.jpg", b"x"), ("a.json", b'{"caption": 3}')], "a caption must be a text, found int in 'a' in"),
        (
            [("a.jpg", b"x"), ("a.txt", b"one"), ("a.jpg", b"y"), ("a.txt", b"two")],
            r"the key 'a' is in .*0\.tar twice: it has two image files",
        ),
        ([("readme.md", b"nothing")], "holds no sample"),
    ],
)
def test_faulty_samples(tmp_path, make_tar, files, message):
    shard = make_tar(tmp_path / "0.tar", files)
    with pytest.raises(UserError, match=message):
        index_shards(str(shard))
    assert not index_path(shard).exists()


def test_faulty_samples_are_counted_and_named_when_skipped(tmp_path, make_tar, png, caplog):
    files = [("a.jpg", png(1)), ("a.txt", b"one"), ("b.jpg", png(2)), ("c.txt", b"three"), ("a.txt", b"again")]
    shard = make_tar(tmp_path / "0.tar", files)
    with caplog.at_level(logging.WARNING, "guidestar"):
        index_shards(str(shard), on_error="skip")
    index = read_index(shard)
    assert [index.keys[at] for at in range(len(index.keys))] == ["a"]
    assert index.head.skipped == 3
    assert "skipped 3 of 4 samples" in caplog.text
    for key in ("'b' in", "'c' in", "the key 'a' is in"):
        assert f"skipped: {key}" in caplog.text


def test_a_shard_cut_within_a_file(tmp_path, make_tar, png, caplog):
    files = [("a.txt", b"one"), ("a.jpg", png(1)), ("b.txt", b"two"), ("b.jpg", os.urandom(5000))]
    shard = make_tar(tmp_path / "0.tar", files)
    with shard.open("r+b") as stream:
        stream.truncate(5000)
    with pytest.raises(UserError, match=r"0\.tar is cut short: it ends within 'b\.jpg', at byte 5,000"):
        index_shards(str(shard))
    with caplog.at_level(logging.WARNING, "guidestar"):
        index_shards(str(shard), on_error="skip")
    assert read_head(shard).samples == 1
    assert "cut short" in caplog.text


def test_a_shard_without_its_end_mark(tmp_path, make_shard):
    shard = make_shard(tmp_path / "0.tar", [0, 1])
    end = sum(1024 for _ in range(4))  # four small files, a header and a block each
    with shard.open("r+b") as stream:
        stream.truncate(end)
    with pytest.raises(CutShort, match=r"cut short or damaged: 'k1\.txt' is followed by no header and no end mark"):
        list(scan_tar(shard))
    with shard.open("r+b") as stream:
        stream.truncate(end - 100)
    with pytest.raises(CutShort, match=r"cut short"):
        list(scan_tar(shard))


def test_no_tar_at_all(tmp_path, make_shard):
    path = tmp_path / "0.tar"
    path.write_bytes(b"no archive" * 100)
    with pytest.raises(UserError, match="is no tar archive"):
        index_shards(str(path))
    path.write_bytes(b"")
    with pytest.raises(UserError, match="is no tar archive"):
        index_shards(str(path))
    packed = tmp_path / "1.tar"
    packed.write_bytes(gzip.compress(make_shard(tmp_path / "2.tar", [0]).read_bytes()))
    with pytest.raises(UserError, match=r"1\.tar is compressed \(gzip\)"):
        index_shards(str(packed))


def test_a_key_in_two_shards(tmp_path, make_shard, caplog):
    first, second = make_shard(tmp_path / "0.tar", [0, 1]), make_shard(tmp_path / "1.tar", [2, 1])
    with pytest.raises(UserError, match=r"the key 'k1' is in .*1\.tar and in .*0\.tar"):
        index_shards("*.tar", base=tmp_path)
    assert index_path(first).exists()
    assert not index_path(second).exists()
    with caplog.at_level(logging.WARNING, "guidestar"):
        index_shards("*.tar", base=tmp_path, on_error="skip")
    index = read_index(second)
    assert [index.keys[0], index.head.samples, index.head.skipped, len(index.members)] == ["k2", 1, 1, 1]
    assert "'k1' is in" in caplog.text


def test_current_indexes_are_kept(tmp_path, make_shard):
    shard = make_shard(tmp_path / "0.tar", [0, 1])
    (path,) = index_shards(str(shard))
    inode = path.stat().st_ino
    seen: list[tuple[int, int]] = []
    index_shards(str(shard), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 1)]
    assert path.stat().st_ino == inode
    os.utime(shard, ns=(1, 1))  # the time alone says nothing
    index_shards(str(shard))
    assert path.stat().st_ino == inode
    make_shard(shard, [0, 1, 2])
    index_shards(str(shard))
    assert read_head(shard).samples == 3
    path.write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"0\.tar\.index is damaged .* `guidestar index"):
        read_head(shard)
    index_shards(str(shard))
    assert read_head(shard).samples == 3


def test_captions_under_other_keys(tmp_path, make_shard):
    fields = {".json": lambda number: json.dumps({"title": f"t{number}", "alt": ["a", "b"]}).encode()}
    shard = make_shard(tmp_path / "0.tar", [0, 1], fields)
    index_shards(str(shard))
    assert read_head(shard).max_captions == 1
    index_shards(str(shard), captions=["title", "alt"])
    assert read_head(shard).max_captions == 3
    with pytest.raises(UserError, match=r"has no caption: its \.json has no text under name"):
        index_shards(str(shard), captions=["name"])


def test_digests_tell_texts_and_sizes(tmp_path, make_tar, png):
    one = build_index(make_tar(tmp_path / "0.tar", [("a.png", png(1)), ("a.txt", b"one")]))[0].digests[0]
    two = build_index(make_tar(tmp_path / "1.tar", [("a.png", png(1)), ("a.txt", b"two")]))[0].digests[0]
    three = build_index(make_tar(tmp_path / "2.tar", [("a.png", png(1) + b" "), ("a.txt", b"one")]))[0].digests[0]
    assert (one == two).tolist() == [True, False]
    assert (one == three).tolist() == [False, True]


def test_bad_arguments(tmp_path):
    with pytest.raises(UserError, match='`on_error` must be "raise" or "skip"'):
        index_shards("0.tar", base=tmp_path, on_error="ignore")  # pyright: ignore[reportArgumentType]
    with pytest.raises(FileNotFoundError, match=r"`shards`: '0\.tar' finds no file"):
        index_shards("0.tar", base=tmp_path)


def test_samples():
    assert member_kind("a.b/c.d.jpeg") == ("a.b/c.d", IMAGE)
    assert member_kind("a.mp3") is None
    assert sample_captions(b" text ", b'{"caption": "other"}', [], "here") == ["text"]
    assert sample_captions(None, b'{"caption": "other"}', [], "here") == ["other"]
    assert sample_captions(None, None, [], "here") == []
    assert sample_label(None, b" cat\n", "cls", "here") == "cat"
    assert sample_label(b'{"cls": "dog"}', None, "cls", "here") == "dog"
    with pytest.raises(UserError, match=r"`label`: here has no 'kind'; its \.json has: caption"):
        sample_label(b'{"caption": "x"}', None, "kind", "here")
    with pytest.raises(UserError, match="is not JSON"):
        parse_fields(b"{", "here")


def test_reading_beyond_the_end(tmp_path: Path):
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    descriptor = os.open(path, os.O_RDONLY)
    try:
        assert read_at(descriptor, 1, 3) == b"234"
        with pytest.raises(OSError, match="the file ends at byte 5, before byte 9"):
            read_at(descriptor, 2, 7)
    finally:
        os.close(descriptor)


def test_an_index_of_another_version(tmp_path, make_shard, monkeypatch):
    shard = make_shard(tmp_path / "0.tar", [0])
    monkeypatch.setattr("guidestar.data.pairs.shard_index.FORMAT", "guidestar shard index 0")
    index_shards(str(shard))
    monkeypatch.undo()
    with pytest.raises(UserError, match="must be a 'guidestar shard index 1', found 'guidestar shard index 0'"):
        read_head(shard)


def test_taking_samples(tmp_path, make_shard):
    index, _ = build_index(make_shard(tmp_path / "0.tar", [0, 1, 2]))
    taken = index.take(np.array([2, 0]))
    assert [taken.keys[0], taken.keys[1], taken.head.samples, taken.head.skipped] == ["k2", "k0", 2, 1]
