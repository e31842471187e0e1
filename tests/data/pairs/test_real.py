"""The public data sets of pairs, through a function of one's own and as shards."""

from __future__ import annotations

import pytest

from guidestar.data.pairs import FunctionPairs, PairDataset, ShardPairs, ShardPlan, index_shards, load_pairs, mismatch

CODE = """
import gzip, json
import numpy as np

def _jpegs(path):
    found = np.load(path)
    content, at = found["jpeg"].tobytes(), found["offsets"].tolist()
    return [content[first:end] for first, end in zip(at, at[1:])]

def flickr(folder, split):
    with gzip.open(f"{folder}/flickr8k/captions.jsonl.gz", "rt", encoding="utf-8") as stream:
        rows = [json.loads(line) for line in stream]
    images = _jpegs(f"{folder}/flickr8k/flickr8k_96px.npz")
    kept = [at for at, row in enumerate(rows) if row["split"] == split]
    return {
        "images": [images[at] for at in kept],
        "captions": [rows[at]["captions"] for at in kept],
        "keys": [rows[at]["name"] for at in kept],
    }

def fashion(folder):
    with gzip.open(f"{folder}/fashion_products/products.jsonl.gz", "rt", encoding="utf-8") as stream:
        rows = [json.loads(line) for line in stream]
    return {
        "images": _jpegs(f"{folder}/fashion_products/fashion_products_72px.npz"),
        "captions": [row["title"] for row in rows],
        "labels": [row["articleType"] for row in rows],
        "keys": [str(row["id"]) for row in rows],
    }
"""


@pytest.fixture
def load(tmp_path, shared_data):
    (tmp_path / "mine.py").write_text(CODE)

    def call(function, **options):
        settings = FunctionPairs(function=f"mine.py:{function}", options={"folder": str(shared_data), **options})
        return load_pairs(settings, base=tmp_path)

    return call


def test_flickr(load, letters):
    pairs = load("flickr", split=1)
    assert len(pairs) == 1000
    assert pairs.max_captions == 5
    letters.length = 300
    batch = PairDataset(pairs, size=64, tokenizer=letters, crop="random", flip=True).__getitems__(
        (0, range(0, 1000, 50))
    )
    assert batch.images.shape == (20, 3, 64, 64)
    assert 0.2 < float(batch.images.mean()) < 0.7
    assert set(batch.choice.tolist()) == {0, 1, 2, 3, 4}
    changed, moved = mismatch(pairs, 0.4, seed=0)
    assert int(moved.sum()) == 400
    assert sum(changed.captions(row) != pairs.captions(row) for row in range(1000)) == 400


def test_fashion_in_memory_and_as_shards(load, letters, make_tar, tmp_path, shared_data):
    pairs = load("fashion")
    assert (len(pairs), len(pairs.class_names)) == (9583, 75)
    assert pairs.parts() == [("block-00000", 0, 4096), ("block-00001", 4096, 8192), ("block-00002", 8192, 9583)]
    jpegs = pairs._content._images  # pyright: ignore[reportAttributeAccessIssue]
    for shard in range(3):
        files = []
        for row in range(100 * shard, 100 * shard + 100):
            key = pairs.keys([row])[0]
            label = pairs.class_names[int(pairs.labels[row])]
            files += [(f"{key}.jpg", jpegs[row]), (f"{key}.txt", pairs.captions(row)[0].encode())]
            files += [(f"{key}.cls", label.encode())]
        make_tar(tmp_path / f"{shard:05d}.tar", files)
    index_shards("{00000..00002}.tar", base=tmp_path)
    shards = load_pairs(ShardPairs(shards="*.tar", label="cls"), base=tmp_path, class_names=pairs.class_names)
    assert shards.keys(range(300)) == pairs.keys(range(300))
    assert shards.labels.tolist() == pairs.labels[:300].tolist()
    letters.length = 300
    plan = ShardPlan(shards.blocks(), batch_size=64, seed=0, window=2)
    options = {"size": 40, "tokenizer": letters, "crop": "random", "seed": 4}
    one, other = PairDataset(shards, **options), PairDataset(pairs, **options)
    for request in plan.requests(2, 4):
        assert (one.__getitems__(request).images == other.__getitems__(request).images).all()
        assert (one.__getitems__(request).tokens == other.__getitems__(request).tokens).all()
