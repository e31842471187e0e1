"""Subsets, recaptioned copies, mismatches, and what they share."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from guidestar.data.pairs import Pairs, mismatch
from guidestar.data.pairs.rows import check_rows, equal_blocks
from guidestar.data.pairs.strings import CaptionLists, Strings
from guidestar.errors import UserError


def test_any_order(make_pairs):
    pairs = make_pairs(5, captions=2, labels=torch.tensor([0, 1, 0, 1, 0]), class_names=["x", "y"])
    assert isinstance(pairs, Pairs)
    subset = pairs.subset(torch.tensor([3, 1]), name="some")
    assert (len(subset), subset.name, subset.keys([0, 1])) == (2, "some", ["k3", "k1"])
    assert subset.captions(1) == ["1 0", "1 1"]
    assert subset.labels is not None
    assert subset.labels.tolist() == [1, 1]
    assert subset.parts() == [("block-00000", 0, 2)]
    assert pairs.subset([]).parts() == []


def test_other_captions(make_pairs):
    pairs = make_pairs(3)
    changed = pairs.with_captions([["a"], ["b", "c"], ["d"]])
    assert changed.captions(1) == ["b", "c"]
    assert pairs.captions(1) == ["1 0"]
    assert changed.max_captions == 2
    assert changed.subset([2, 1]).captions(1) == ["b", "c"]
    assert changed.fingerprint() != pairs.fingerprint()
    assert pairs.with_captions([pairs.captions(row) for row in range(3)]).fingerprint() == pairs.fingerprint()
    with pytest.raises(UserError, match="`captions` must be one list a row: there are 3 rows, found 1"):
        pairs.with_captions([["a"]])
    with pytest.raises(UserError, match="at least one text a row, found none in row 1"):
        pairs.with_captions([["a"], [], ["b"]])
    with pytest.raises(TypeError, match="must be lists of texts, found a text in row 0"):
        pairs.with_captions(["a", "b", "c"])


def test_fingerprints(make_pairs):
    labels = torch.tensor([0, 1, 0, 1])
    pairs = make_pairs(4)
    variants = [
        pairs,
        pairs.subset([0, 1, 3, 2]),
        pairs.subset([0, 1, 2]),
        make_pairs(4, captions=2),
        make_pairs(4, size=(8, 12)),
        make_pairs(4, labels=labels, class_names=["x", "y"]),
        make_pairs(4, labels=labels, class_names=["x", "z"]),
        make_pairs(4, labels=1 - labels, class_names=["x", "y"]),
    ]
    assert len({variant.fingerprint() for variant in variants}) == len(variants)
    assert pairs.subset(range(4), name="test").fingerprint() == make_pairs(4).fingerprint()


def test_rows_are_checked(make_pairs):
    pairs = make_pairs(3)
    with pytest.raises(IndexError, match=r"`rows` must be in 0 \.\. 2, found 3"):
        pairs.keys([0, 3])
    with pytest.raises(IndexError, match="found -1"):
        pairs.subset([-1])
    with pytest.raises(TypeError, match="`rows` must be row numbers, found bool"):
        pairs.subset(torch.tensor([True, False, True]))
    with pytest.raises(IndexError, match=r"`row` must be in 0 \.\. 2, found -1"):
        pairs.captions(-1)
    assert check_rows([], 0).dtype == np.int64
    assert equal_blocks(0) == []


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.2, 4), (0.5, 10), (1.0, 20), (0.1, 2)])
def test_mismatch(make_pairs, share, count):
    pairs = make_pairs(20, captions=2, labels=torch.arange(20) % 3, class_names=["x", "y", "z"])
    changed, moved = mismatch(pairs, share, seed=1)
    assert int(moved.sum()) == count
    for row in range(20):
        assert (changed.captions(row) == pairs.captions(row)) == (not moved[row])
    assert sorted(changed.captions(row) for row in range(20)) == sorted(pairs.captions(row) for row in range(20))
    assert changed.keys(range(20)) == pairs.keys(range(20))
    assert torch.equal(changed.labels, pairs.labels)  # pyright: ignore[reportArgumentType]
    again, same = mismatch(pairs, share, seed=1)
    assert again.fingerprint() == changed.fingerprint()
    assert torch.equal(moved, same)
    if count > 2:
        assert mismatch(pairs, share, seed=2)[0].fingerprint() != changed.fingerprint()


def test_bad_shares(make_pairs):
    with pytest.raises(UserError, match=r"`share` must be a fraction in \[0, 1\], found 20"):
        mismatch(make_pairs(4), 20, seed=0)
    with pytest.raises(UserError, match=r"`share` 0\.25 of 4 rows is one row"):
        mismatch(make_pairs(4), 0.25, seed=0)


def test_packed_strings():
    texts = ["", "a", "näh", "\udcff", "日本"]
    packed = Strings.of(texts)
    assert [packed[at] for at in range(len(packed))] == texts
    lists = CaptionLists.of([["a", "b"], [], ["c"]])
    assert [lists[at] for at in range(len(lists))] == [["a", "b"], [], ["c"]]
    assert CaptionLists.of([]).largest == 0
