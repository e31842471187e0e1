"""Pairs in Hugging Face data sets on disk."""

from __future__ import annotations

import pickle
import sys

import pytest

from guidestar.data.pairs import HubPairs, load_pairs
from guidestar.errors import UserError

datasets = pytest.importorskip("datasets")


@pytest.fixture
def path(tmp_path, png):
    """A data set of two splits with images, two columns of captions, and class labels."""
    features = datasets.Features(
        image=datasets.Image(),
        caption=datasets.Value("string"),
        more=datasets.List(datasets.Value("string")),
        kind=datasets.ClassLabel(names=["bag", "shoe"]),
    )

    def split(numbers):
        rows = {
            "image": [{"bytes": png(number), "path": None} for number in numbers],
            "caption": [f"caption {number}" for number in numbers],
            "more": [[f"more {number}"] * (number % 3) for number in numbers],
            "kind": [1] * len(numbers),
        }
        return datasets.Dataset.from_dict(rows, features=features)

    folder = tmp_path / "dataset"
    datasets.DatasetDict(train=split(range(5)).select([4, 2, 0]), test=split([7])).save_to_disk(str(folder))
    split(range(2)).save_to_disk(str(tmp_path / "single"))
    return folder


def test_rows_in_any_order(tmp_path, path):
    settings = HubPairs(path="dataset", captions=["caption", "more"], label="kind")
    pairs = load_pairs(settings, base=tmp_path)
    assert pairs.keys(range(3)) == ["0", "1", "2"]
    assert [pairs.captions(row) for row in (2, 0, 1)] == [
        ["caption 0"],
        ["caption 4", "more 4"],
        ["caption 2", "more 2", "more 2"],
    ]
    assert pairs.picture(0).getpixel((0, 0)) == (40, 215, 128)
    assert pairs.max_captions == 3
    assert pairs.parts() == [("block-00000", 0, 3)]
    assert pairs.labels is not None
    assert pairs.labels.tolist() == [1, 1, 1]
    assert pairs.class_names == ["bag", "shoe"]
    copy = pickle.loads(pickle.dumps(pairs))
    assert copy.captions(1) == pairs.captions(1)
    assert copy.fingerprint() == pairs.fingerprint()
    test = load_pairs(settings, base=tmp_path, name="test", class_names=pairs.class_names)
    assert test.captions(0) == ["caption 7", "more 7"]
    assert test.fingerprint() != pairs.fingerprint()


def test_bad_settings(tmp_path, path):
    with pytest.raises(NotADirectoryError, match="`path` must be a folder written by `save_to_disk`"):
        load_pairs(HubPairs(path="nothing"), base=tmp_path)
    with pytest.raises(UserError, match=r"`split`: .* has no split `valid`; it has: train, test"):
        load_pairs(HubPairs(path="dataset", split="valid"), base=tmp_path)
    with pytest.raises(UserError, match="is a single data set without splits"):
        load_pairs(HubPairs(path="single", split="train"), base=tmp_path)
    assert len(load_pairs(HubPairs(path="single"), base=tmp_path)) == 2
    with pytest.raises(UserError, match=r"`label`: .* has no column `label`"):
        load_pairs(HubPairs(path="dataset", label="label"), base=tmp_path)
    with pytest.raises(UserError, match=r"`image`: column `kind` of .* must hold the bytes of images, found int64"):
        load_pairs(HubPairs(path="dataset", image="kind"), base=tmp_path)


def test_without_datasets(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r"guidestar\[hf\]"):
        load_pairs(HubPairs(path="dataset"), base=tmp_path)
