"""Pairs from a function of the user's own."""

from __future__ import annotations

import numpy as np
import pytest

from guidestar.data.pairs import FunctionPairs, load_pairs
from guidestar.errors import UserError

CODE = """
import numpy as np

def load(**changes):
    base = {"images": np.arange(3 * 4 * 5 * 3, dtype=np.uint8).reshape(3, 4, 5, 3), "captions": ["a", ["b", "c"], "d"]}
    base.update({key: value for key, value in changes.items() if value is not None})
    return {key: value for key, value in base.items() if not isinstance(value, str)}

def number(**changes):
    return 7

def encoded(**changes):
    return {"images": [b"not an image"] * 2, "captions": ["a", "b"], "keys": ["p", "q"], **changes}
"""


@pytest.fixture
def load(tmp_path):
    (tmp_path / "mine.py").write_text(CODE)

    def call(function="load", on_error="raise", class_names=None, limit=None, other=None, **options):
        settings = FunctionPairs(function=f"mine.py:{function}", options=options, class_names=class_names, limit=limit)
        return load_pairs(settings, base=tmp_path, on_error=on_error, class_names=other)

    return call


def test_arrays(load):
    pairs = load(labels=["x", "y", "x"], keys=["p", "q", "r"])
    assert pairs.keys([2, 0]) == ["r", "p"]
    assert pairs.captions(1) == ["b", "c"]
    assert np.asarray(pairs.picture(1)).tolist() == np.arange(60, 120).reshape(4, 5, 3).tolist()
    assert pairs.labels.tolist() == [0, 1, 0]
    assert pairs.class_names == ["x", "y"]
    assert pairs.max_captions == 2
    assert load().keys([2]) == ["2"]


def test_labels(load):
    assert load(labels=[1, 0, 1], class_names=["x", "y", "z"]).class_names == ["x", "y", "z"]
    assert load(labels=["y", "y", "y"], other=["x", "y"]).labels.tolist() == [1, 1, 1]
    with pytest.raises(UserError, match='returned no "labels", which `class_names` would name'):
        load(class_names=["x", "y"])
    with pytest.raises(UserError, match="`label`: 2 in row 1 is none of the 2 classes"):
        load(labels=[1, 2, 0], class_names=["x", "y"])


def test_skipping_and_limits(load):
    captions = ["a", "", ["b"]]
    with pytest.raises(UserError, match=r"`function` 'mine\.py:load': row 1 has no caption"):
        load(captions=captions)
    skipped = load(captions=captions, on_error="skip", labels=["x", None, "y"])
    assert skipped.keys([0, 1]) == ["0", "2"]
    assert skipped.labels.tolist() == [0, 1]
    assert len(load(limit=2)) == 2
    assert len(load(limit=5)) == 3


def test_pairs_are_taken_as_they_are(tmp_path, make_pairs, monkeypatch):
    pairs = make_pairs(4)
    monkeypatch.setattr("math.my_pairs", lambda: pairs, raising=False)
    assert load_pairs(FunctionPairs(function="math:my_pairs"), base=tmp_path) is pairs


def test_fingerprints_depend_on_content(load):
    one, two = np.zeros((3, 4, 5, 3), np.uint8), np.zeros((3, 4, 5, 3), np.uint8)
    two[1] = 1
    found = {load(images=images).fingerprint() for images in (one, two, one.copy())}
    assert len(found) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"captions": "leave"}, r"`function` 'mine\.py:load' must return the entries .*; 'captions' is missing"),
        ({"texts": ["a"]}, "must return the entries 'images', 'captions', .* found 'texts'"),
        ({"captions": ["a"]}, "`captions` must have one entry an image: there are 3 images, found 1"),
        ({"labels": [1]}, "`labels` must have one entry an image: there are 3 images, found 1"),
        ({"keys": ["p", "q", "p"]}, "`keys` must be unique, found 'p' 2 times"),
        ({"captions": ["a", 3, "b"]}, "a caption must be a text, found int in row 1"),
        ({"images": [[1]]}, "each of `images` must be bytes, found list in row 0"),
        ({"images": np.zeros((3, 4, 5))}, r"uint8 \[n, height, width, 3\], found float64 \[3, 4, 5\]"),
    ],
)
def test_bad_returns(load, options, message):
    with pytest.raises(UserError, match=message):
        load(**options)


def test_no_dictionary(load):
    with pytest.raises(TypeError, match=r"must return pairs or a dictionary .* found int"):
        load("number")


def test_broken_bytes_are_named(load):
    with pytest.raises(UserError, match="the image of 'q' cannot be read"):
        load("encoded").picture(1)
