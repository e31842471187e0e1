"""`DualSampler`: the book's Figure 6.14, exact epochs, and errors that say what would work."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from guidestar.samplers import DualSampler

FIGURE = [1] * 4 + [0] * 9


def test_figure_6_14() -> None:
    sampler = DualSampler(FIGURE, batch_size=8, rate=0.5)
    assert (sampler.positives, sampler.negatives, len(sampler)) == (4, 4, 2)
    orders, lists = set(), []
    for _ in range(20):
        batches = list(sampler)
        # The four positives are in each batch: once used up, their list alone is shuffled again.
        assert [sorted(batch[:4]) for batch in batches] == [[0, 1, 2, 3]] * 2
        orders |= {tuple(batch[:4]) for batch in batches}
        # The first four negatives, then the next four; then both lists are shuffled again.
        negatives = [row for batch in batches for row in batch[4:]]
        assert len(set(negatives)) == 8
        assert set(negatives) <= set(range(4, 13))
        lists.append(tuple(negatives))
    assert len(orders) > 10
    assert len(set(lists)) == 20
    assert {row for negatives in lists for row in negatives} == set(range(4, 13))


def test_rest_of_the_positives_is_taken_before_they_are_shuffled_again() -> None:
    sampler = DualSampler([1] * 5 + [0] * 30, batch_size=6, rate=0.5)
    for _ in range(10):
        positives = [batch[:3] for batch in sampler]
        assert len(positives) == 10
        assert all(len(set(batch)) == 3 for batch in positives)  # also where one pass ends and the next begins
        flat = [row for batch in positives for row in batch]
        assert all(sorted(flat[start : start + 5]) == [0, 1, 2, 3, 4] for start in range(0, 30, 5))


@given(
    positives=st.integers(1, 12),
    negatives=st.integers(1, 40),
    batch_size=st.integers(2, 16),
    rate=st.floats(0.01, 0.99),
    seed=st.integers(0, 3),
)
@settings(max_examples=150, deadline=None)
def test_counts_and_coverage(positives: int, negatives: int, batch_size: int, rate: float, seed: int) -> None:
    labels = np.random.default_rng(seed).permutation([1] * positives + [0] * negatives)
    asked = min(max(int(batch_size * rate + 0.5), 1), batch_size - 1)
    if asked > positives or batch_size - asked > negatives:
        with pytest.raises(ValueError, match="What would work"):
            DualSampler(labels, batch_size, rate)
        return
    sampler = DualSampler(labels, batch_size, rate, seed=seed)
    for _ in range(2):
        batches = list(sampler)
        assert len(batches) == len(sampler) == negatives // (batch_size - asked)
        assert all(len(set(batch)) == len(batch) == batch_size for batch in batches)
        assert all(labels[batch].tolist() == [1] * asked + [0] * (batch_size - asked) for batch in batches)
        used = np.bincount(np.concatenate(batches), minlength=len(labels))
        assert used[labels == 0].max() == 1
        assert used[labels == 1].max() - used[labels == 1].min() <= 1


@pytest.mark.parametrize(
    ("batch_size", "rate", "expected"),
    [
        (64, 0.1, 6),
        (64, 0.5, 32),
        (32, 0.1, 3),
        (5, 0.5, 3),
        (64, 0.001, 1),
        (64, 0.999, 63),
        (2, 0.5, 1),
        (100, 0.29, 29),
    ],
)
def test_rounding_of_the_rate(batch_size: int, rate: float, expected: int) -> None:
    sampler = DualSampler([0, 1] * 100, batch_size, rate)
    assert (sampler.positives, sampler.negatives) == (expected, batch_size - expected)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float32, torch.bfloat16, torch.uint8])
def test_labels_of_any_dtype(dtype: torch.dtype) -> None:
    expected = list(DualSampler(FIGURE, 8, 0.5))
    assert list(DualSampler(torch.tensor(FIGURE).to(dtype), 8, 0.5)) == expected
    assert list(DualSampler(np.array(FIGURE, dtype=np.int8), 8, 0.5)) == expected


def test_many_labels() -> None:
    labels = np.zeros(300_000, dtype=np.int8)
    labels[::100] = 1
    sampler = DualSampler(labels, 1000, 0.1)
    assert len(sampler) == 297_000 // 900
    assert sorted(np.concatenate([batch[100:] for batch in sampler]).tolist()) == np.flatnonzero(labels == 0).tolist()


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        ([0] * 9, (4, 0.5), "`labels` has no positive \\(no 1\\) among its 9 rows"),
        ([1] * 9, (4, 0.5), "`labels` has no negative \\(no 0\\) among its 9 rows"),
        (FIGURE, (10, 0.5), "5 positives and 5 negatives, but `labels` has 4 positives and 9 negatives. What would "
         "work: a `rate` from 1/10 to 4/10, or a `batch_size` of at most 8"),
        ([1] * 30 + [0] * 2, (8, 0.5), "a `rate` from 6/8 to 7/8, or a `batch_size` of at most 4"),
        (FIGURE, (100, 0.5), "What would work: a `batch_size` of at most 8"),
        ([-1, 1, 1, -1], (2, 0.5), "`labels` must be 0 or 1. Found also -1 \\(2 of 4\\). For labels of -1 and 1"),
        ([0, 1, 2, 0.5], (2, 0.5), "Found also 0.5, 2 \\(2 of 4\\)"),
        ([0, 1, float("nan")], (2, 0.5), "`labels` is NaN for 1 of 3 rows"),
        ([[0, 1]], (2, 0.5), "`labels` must have the shape \\[n\\], found \\[1, 2\\]"),
        ([], (2, 0.5), "`labels` is empty"),
        (FIGURE, (8, 0.0), "`rate` is the fraction of positives.*Found 0.0"),
        (FIGURE, (8, 1.0), "`rate` is the fraction"),
        (FIGURE, (8, float("nan")), "`rate` is the fraction"),
        (FIGURE, (1, 0.5), "`batch_size` must be at least 2, found 1"),
    ],
)  # fmt: skip
def test_values_that_do_not_work(labels: list, options: tuple[int, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DualSampler(labels, *options)


def test_what_the_error_proposes_works() -> None:
    for rate in (1 / 10, 4 / 10):
        assert len(DualSampler(FIGURE, 10, rate)) >= 1
    assert len(DualSampler(FIGURE, 8, 0.5)) == 2


def test_types_that_do_not_work() -> None:
    with pytest.raises(TypeError, match="`labels` must hold numbers or booleans"):
        DualSampler(["a", "b"], 2, 0.5)
    with pytest.raises(TypeError, match=r"`batch_size` must be an integer, found 2\.5"):
        DualSampler(FIGURE, 2.5, 0.5)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="`seed` must be an integer"):
        DualSampler(FIGURE, 2, 0.5, seed=None)  # pyright: ignore[reportArgumentType]
