"""Pairs in tar shards."""

from __future__ import annotations

import json
import os
import pickle

import numpy as np
import pytest
import torch

from guidestar.data.pairs import PairDataset, Pairs, ShardPairs, ShardPlan, index_shards, load_pairs
from guidestar.errors import UserError

FIELDS = {
    ".json": lambda number: json.dumps({"title": [f"t{number}", f"u{number}"], "kind": "ab"[number % 2]}).encode(),
    ".cls": lambda number: str(number % 3).encode(),
}


@pytest.fixture
def shards(tmp_path, make_shard):
    """Three shards of different sizes, indexed."""
    for name, numbers in (("a/0.tar", [0, 1, 2]), ("a/1.tar", [3]), ("b/0.tar", [4, 5])):
        make_shard(tmp_path / name, numbers, FIELDS)
    index_shards("*/*.tar", base=tmp_path)
    return tmp_path


def load(base, **settings):
    return load_pairs(ShardPairs(shards=["a/{0..1}.tar", "b/*.tar"], **settings), base=base)


def test_rows_in_any_order(shards):
    pairs = load(shards)
    assert isinstance(pairs, Pairs)
    assert len(pairs) == 6
    assert pairs.keys([5, 0, 3]) == ["k5", "k0", "k3"]
    for row in (5, 0, 4, 2, 3, 1):
        assert pairs.captions(row) == [f"caption {row}"]
        assert pairs.picture(row).getpixel((0, 0)) == (10 * row, 255 - 10 * row, 128)
    assert pairs.parts() == [("a/0.tar", 0, 3), ("a/1.tar", 3, 4), ("b/0.tar", 4, 6)]
    assert pairs.max_captions == 1
    assert pairs.labels is None
    with pytest.raises(IndexError, match=r"`row` must be in 0 \.\. 5, found 6"):
        pairs.picture(6)


def test_captions_and_labels_of_the_json(shards):
    pairs = load(shards, captions=["title"], label="kind")
    assert pairs.captions(4) == ["t4", "u4"]
    assert pairs.max_captions == 2  # the index did not look under this key
    assert pairs.labels is not None
    assert pairs.labels.tolist() == [0, 1] * 3
    assert pairs.class_names == ["a", "b"]
    classes = load(shards, label="cls", class_names=["x", "y", "z"])
    assert classes.labels is not None
    assert classes.labels.tolist() == [0, 1, 2] * 2
    with pytest.raises(UserError, match="has no caption under nothing"):
        load(shards, captions=["nothing"]).captions(0)


def test_subsets_keep_to_the_shards(shards):
    pairs = load(shards, label="cls")
    subset = pairs.subset([1, 2, 4], name="part")
    assert subset.name == "part"
    assert subset.parts() == [("a/0.tar", 0, 2), ("b/0.tar", 2, 3)]
    assert subset.keys(range(3)) == ["k1", "k2", "k4"]
    assert subset.captions(2) == ["caption 4"]
    assert subset.subset([2]).captions(0) == ["caption 4"]
    assert pairs.subset([4, 1]).parts() == [("block-00000", 0, 2)]
    assert load(shards, limit=4, limit_seed=1).keys(range(4)) == load(shards, limit=4, limit_seed=1).keys(range(4))


def test_fingerprints(shards):
    pairs = load(shards)
    found = {
        pairs.fingerprint(),
        pairs.subset([0, 1, 2, 3, 5, 4]).fingerprint(),
        pairs.subset(range(5)).fingerprint(),
        load(shards, captions=["title"]).fingerprint(),
        load(shards, label="cls").fingerprint(),
    }
    assert len(found) == 5
    assert load(shards).fingerprint() == pairs.fingerprint() == pairs.subset(range(6)).fingerprint()


def test_no_index(shards, make_shard):
    make_shard(shards / "b" / "9.tar", [9])
    with pytest.raises(UserError, match=r"9\.tar has no index\. Make it with `guidestar index"):
        load(shards)


def test_a_shard_of_another_size(shards, make_shard):
    make_shard(shards / "a" / "1.tar", list(range(30, 60)))
    with pytest.raises(
        UserError, match=r"1\.tar has changed since it was indexed: it has .* bytes instead of .* score"
    ):
        load(shards)


def test_a_shard_of_another_content(shards):
    shard = shards / "a" / "1.tar"
    os.utime(shard, ns=(1, 1))
    assert len(load(shards)) == 6  # copied: another time, the same content
    content = shard.read_bytes()
    shard.write_bytes(content.replace(b"caption 3", b"caption 4"))
    with pytest.raises(UserError, match=r"1\.tar has changed since it was indexed: it has another content"):
        load(shards)


def test_indexed_again_while_in_use(shards, make_shard):
    pairs = load(shards)
    make_shard(shards / "a" / "1.tar", [3, 30])
    index_shards("a/1.tar", base=shards)
    with pytest.raises(UserError, match=r"1\.tar was indexed again while it was in use"):
        pairs.captions(3)


def test_shards_with_nothing(tmp_path, make_tar):
    make_tar(tmp_path / "0.tar", [("a.txt", b"one")])
    index_shards("0.tar", base=tmp_path, on_error="skip")
    with pytest.raises(UserError, match="`shards`: none of the 1 shards has a sample"):
        load_pairs(ShardPairs(shards="0.tar"), base=tmp_path)


def test_few_shards_are_held_open(tmp_path, make_shard, monkeypatch):
    monkeypatch.setattr("guidestar.data.pairs.shards._OPEN", 2)
    for number in range(5):
        make_shard(tmp_path / f"{number}.tar", [number])
    index_shards("*.tar", base=tmp_path)
    pairs = load_pairs(ShardPairs(shards="*.tar"), base=tmp_path)
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    for row in [0, 1, 2, 3, 4, 0, 4, 2]:
        assert pairs.captions(row) == [f"caption {row}"]
    if before:
        assert len(os.listdir("/proc/self/fd")) == before + 2


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_read_what_one_process_reads(shards, letters, workers):
    pairs = load(shards)
    pairs.captions(0)  # an open file must not trouble forked workers
    dataset = PairDataset(pairs, size=8, tokenizer=letters, crop="random", flip=True, seed=3)
    plan = ShardPlan(pairs.blocks(), batch_size=2, seed=1, window=2)
    loader = torch.utils.data.DataLoader(
        dataset, batch_sampler=list(plan.requests(2, 8)), collate_fn=lambda batch: batch, num_workers=workers
    )
    for number, batch in enumerate(loader, start=2):
        expected = dataset.__getitems__((number, plan.rows(number)))
        assert torch.equal(batch.images, expected.images)
        assert torch.equal(batch.tokens, expected.tokens)
        assert batch.rows.tolist() == plan.rows(number)


def test_pairs_travel_to_other_processes(shards):
    pairs = load(shards)
    pairs.picture(5)
    copy = pickle.loads(pickle.dumps(pairs))
    assert copy.captions(5) == pairs.captions(5)
    assert np.array_equal(np.asarray(copy.picture(5)), np.asarray(pairs.picture(5)))
    assert copy.fingerprint() == pairs.fingerprint()
