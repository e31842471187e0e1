"""Batches: what is in them, what they depend on, and what stands in for rows that cannot be read."""

from __future__ import annotations

import logging
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from guidestar.data.pairs import MemoryContent, PairDataset, RowPairs, pad_tokens
from guidestar.data.pairs.cache import PictureCache
from guidestar.data.pairs.strings import CaptionLists
from guidestar.errors import UserError


@pytest.fixture
def textured():
    """Six pictures of noise, smoothed so that scaling them changes little, with three captions each."""
    noise = np.random.default_rng(0).integers(0, 256, (6, 6, 9, 3), dtype=np.uint8)
    images = np.stack([np.asarray(Image.fromarray(one).resize((72, 48))) for one in noise])
    captions = CaptionLists.of([[f"{row} {number}" for number in range(3)] for row in range(6)])
    return RowPairs(MemoryContent(images, captions, None, 10_000), name="train")


def same(one, two):
    return all(torch.equal(getattr(one, name), getattr(two, name)) for name in ("images", "tokens", "rows", "choice"))


def test_a_plain_batch(textured, letters):
    dataset = PairDataset(textured, size=48, tokenizer=letters, captions="first")
    batch = dataset.__getitems__((7, [4, 0]))
    expected = np.asarray(textured.picture(4))[:, 12:60].transpose(2, 0, 1) / np.float32(255)
    assert torch.equal(batch.images[0], torch.from_numpy(expected))
    assert batch.images.dtype == torch.float32
    assert batch.images.is_contiguous()
    assert batch.tokens.tolist() == [[ord("4"), ord(" "), ord("0")] + [0] * 5, [ord("0"), ord(" "), ord("0")] + [0] * 5]
    assert batch.rows.tolist() == [4, 0]
    assert batch.choice.tolist() == [0, 0]
    assert batch.replaced.numel() == 0
    assert len(batch) == 2
    assert same(batch.to("cpu"), batch)
    assert same(dataset.__getitems__((7, torch.tensor([4, 0]))), batch)
    assert same(dataset[3], dataset.__getitems__((0, [3])))
    assert len(dataset) == 6


def test_padding():
    assert pad_tokens([[1] * 9, [2]], length=77, pad=5).shape == (2, 16)
    assert pad_tokens([[1] * 9, [2]], length=10, pad=5).shape == (2, 10)
    assert pad_tokens([[1] * 9, [2]], length=10, pad=5)[1].tolist() == [2] + [5] * 9
    assert pad_tokens([], length=10, pad=0).shape == (0, 0)
    with pytest.raises(UserError, match=r"`tokenizer` must return at most 8 tokens a text, its `length`. Found 9"):
        pad_tokens([[1] * 9], length=8, pad=0)


def test_batches_depend_on_seed_number_and_row_only(textured, letters):
    options = {"size": 16, "tokenizer": letters, "crop": "random", "flip": True}
    dataset = PairDataset(textured, seed=5, **options)
    whole = dataset.__getitems__((3, [0, 1, 2, 3]))
    half = PairDataset(textured, seed=5, **options).__getitems__((3, [2, 3]))
    assert torch.equal(whole.images[2:], half.images)
    assert torch.equal(whole.choice[2:], half.choice)
    other_number, other_seed = dataset.__getitems__((4, [0, 1, 2, 3])), PairDataset(textured, seed=6, **options)
    assert not torch.equal(whole.images, other_number.images)
    assert not torch.equal(whole.images, other_seed.__getitems__((3, [0, 1, 2, 3])).images)


def test_options_leave_each_other_alone(textured, letters):
    rows = list(range(6))
    plain = PairDataset(textured, size=16, tokenizer=letters, crop="random", seed=1).__getitems__((0, rows))
    flipped = PairDataset(textured, size=16, tokenizer=letters, crop="random", flip=True, seed=1).__getitems__(
        (0, rows)
    )
    assert torch.equal(plain.choice, flipped.choice)
    mirrored = [torch.equal(plain.images[row].flip(-1), flipped.images[row]) for row in rows]
    kept = [torch.equal(plain.images[row], flipped.images[row]) for row in rows]
    assert all(one != other for one, other in zip(mirrored, kept, strict=True))
    assert any(mirrored)
    assert any(kept)


def test_all_captions_are_chosen(textured, letters):
    dataset = PairDataset(textured, size=4, tokenizer=letters)
    choices = torch.cat([dataset.__getitems__((number, [0, 1])).choice for number in range(100)])
    counts = torch.bincount(choices, minlength=3)
    assert counts.min() > 40  # 200 draws from three, 67 each on average, deviation 7
    batch = dataset.__getitems__((0, [5]))
    assert bytes(batch.tokens[0, :3].tolist()).decode() == f"5 {int(batch.choice[0])}"


@pytest.mark.parametrize("crop", ["center", "squash"])
def test_the_cache_changes_nothing(textured, letters, crop):
    options = {"size": 20, "tokenizer": letters, "crop": crop, "flip": True, "seed": 2}
    plain, cached = PairDataset(textured, **options), PairDataset(textured, cache=True, **options)
    for number in range(3):
        assert same(plain.__getitems__((number, [0, 5, 3])), cached.__getitems__((number, [0, 5, 3])))


def test_random_crops_from_the_cache_are_close(textured, letters):
    options = {"size": 20, "tokenizer": letters, "crop": "random", "flip": True, "seed": 2}
    plain, cached = PairDataset(textured, **options), PairDataset(textured, cache=True, **options)
    first, again = (cached.__getitems__((1, [0, 5, 3])) for _ in range(2))
    assert same(first, again)  # decoded, and out of the memory
    error = (plain.__getitems__((1, [0, 5, 3])).images - first.images).abs().mean()
    assert 0 < error < 0.02
    other = plain.__getitems__((2, [0, 5, 3])).images
    assert (other - first.images).abs().mean() > 2 * error  # another crop is much further away


def test_cached_pictures_are_read_once(textured, letters, monkeypatch):
    dataset = PairDataset(textured, size=8, tokenizer=letters, cache=True)
    first = dataset.__getitems__((0, [1, 2]))
    monkeypatch.setattr(MemoryContent, "picture", None)
    assert torch.equal(dataset.__getitems__((0, [1, 2])).images, first.images)


def test_workers_fill_the_same_cache(textured, letters):
    dataset = PairDataset(textured, size=8, tokenizer=letters, cache=True)
    loader = torch.utils.data.DataLoader(
        dataset,
        batch_sampler=[(0, [0, 1]), (1, [4, 5])],
        collate_fn=lambda batch: batch,
        num_workers=2,
        multiprocessing_context="fork",
    )
    batches = list(loader)
    cache = dataset._cache
    assert cache is not None
    assert [cache.get(row) is not None for row in range(6)] == [True, True, False, False, True, True]
    assert torch.equal(dataset.__getitems__((0, [0, 1])).images, batches[0].images)


def test_a_cache_that_travels_is_empty():
    cache = PictureCache(rows=2, side=4)
    cache.put(0, Image.new("RGB", (4, 4)))
    copy = pickle.loads(pickle.dumps(cache))
    assert copy.get(0) is None
    assert copy.put(1, Image.new("RGB", (8, 4), "red")).size == (4, 4)
    with pytest.raises(UserError, match=r"`cache` needs .* GiB for 1,000,000,000 pictures of 1000 x 1000"):
        PictureCache(rows=10**9, side=1000)


@pytest.fixture
def broken(png):
    """Six PNGs; rows 1, 2 and 4 cannot be read."""
    images = [png(row) for row in range(6)]
    images[1], images[2], images[4] = images[1][:40], b"", b"text"
    captions = CaptionLists.of([[f"caption {row}"] for row in range(6)])
    return RowPairs(MemoryContent(images, captions, None, 10_000), name="train")


def test_unreadable_rows_raise(broken, letters):
    dataset = PairDataset(broken, size=4, tokenizer=letters)
    with pytest.raises(UserError, match=r"the image of '1' cannot be read .* Set `on_error: skip` to train"):
        dataset.__getitems__((0, [0, 1]))


def test_another_row_stands_in(broken, letters, caplog):
    dataset = PairDataset(broken, size=4, tokenizer=letters, on_error="skip", seed=1)
    with caplog.at_level(logging.WARNING, "guidestar"):
        batch = dataset.__getitems__((0, [0, 1, 4]))
    assert batch.rows.tolist() == [0, 3, 5]
    assert batch.replaced.tolist() == [1, 4]
    assert bytes(batch.tokens[1, :9].tolist()).decode() == "caption 3"
    assert torch.equal(batch.images[1:2], dataset.__getitems__((0, [3])).images)
    assert dataset.skipped == 3  # 2 was tried on the way
    assert caplog.text.count("skipped: the image of") == 3
    caplog.clear()
    dataset.__getitems__((1, [1]))
    assert not caplog.records  # each is named once
    again = PairDataset(broken, size=4, tokenizer=letters, on_error="skip", seed=1).__getitems__((0, [0, 1, 4]))
    assert same(batch, again)


def test_rows_are_left_out(broken, letters):
    dataset = PairDataset(broken, size=4, tokenizer=letters, on_error="omit")
    batch = dataset.__getitems__((0, [0, 1, 2, 3]))
    assert batch.rows.tolist() == [0, 3]
    assert batch.replaced.tolist() == [1, 2]
    assert torch.equal(batch.images, dataset.__getitems__((0, [0, 3])).images)
    nothing = dataset.__getitems__((0, [1, 2]))
    assert len(nothing) == 0
    assert nothing.images.shape == (0, 3, 4, 4)


def test_no_row_stands_in(broken, letters):
    dataset = PairDataset(broken, size=4, tokenizer=letters, on_error="skip")
    with pytest.raises(UserError, match=r"row 1 \('1'\) cannot be read, and none of the 100 rows after it"):
        dataset.__getitems__((0, [0, 1, 3, 5]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"captions": "all"}, '`captions` must be "random" or "first". Found \'all\''),
        ({"on_error": "no"}, '`on_error` must be "raise", "skip" or "omit"'),
        ({"seed": -1}, "`seed` must not be negative. Found -1"),
        ({"size": 0}, "`size` must be at least 1 pixel"),
        ({"crop": "corner"}, '`crop` must be "center", "random" or "squash"'),
        ({"scale": (0.0, 1.0)}, "`scale` must be 0 < smallest <= largest <= 1"),
    ],
)
def test_bad_options(textured, letters, options, message):
    with pytest.raises(UserError, match=message):
        PairDataset(textured, tokenizer=letters, **{"size": 8, **options})


def test_rows_out_of_range(textured, letters):
    with pytest.raises(IndexError, match=r"must be in 0 \.\. 5, found 6"):
        PairDataset(textured, size=8, tokenizer=letters).__getitems__((0, [6]))


def test_faults_of_the_whole_data_are_not_skipped(broken, letters, monkeypatch):
    def changed(self, position):
        raise UserError("the shard was indexed again")

    monkeypatch.setattr(MemoryContent, "picture", changed)
    with pytest.raises(UserError, match="the shard was indexed again"):
        PairDataset(broken, size=4, tokenizer=letters, on_error="skip").__getitems__((0, [0]))
