"""`QuerySampler`: lists of a fixed length, whatever the queries have."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from guidestar.samplers import QuerySampler


@given(
    shapes=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 8)), min_size=1, max_size=6),
    relevant=st.integers(1, 4),
    items=st.integers(0, 5),
    seed=st.integers(0, 3),
)
@settings(max_examples=150, deadline=None)
def test_lists(shapes: list[tuple[int, int]], relevant: int, items: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    pairs = [(2 * q, r) for q, (some, others) in enumerate(shapes) for r in [2] * some + [0] * others]
    if not pairs:
        return
    query, relevance = random.permutation(np.array(pairs)).T
    usable = [2 * q for q, (some, others) in enumerate(shapes) if some and some + others > 1]
    length = relevant + items
    if not usable:
        with pytest.raises(ValueError, match="`queries_per_batch` must be at most 0"):
            QuerySampler(query, relevance, 1, relevant, items)
        return
    sampler = QuerySampler(query, relevance, 1, relevant, items, seed=seed)
    batches = list(sampler)
    assert sorted(int(query[batch[0]]) for batch in batches) == usable  # each once an epoch
    assert sampler.excluded == sorted(set(query.tolist()) - set(usable))
    for batch in batches:
        assert len(batch) == length == sampler.length
        assert len({int(query[row]) for row in batch}) == 1
        some, others = shapes[int(query[batch[0]]) // 2]
        counts = Counter(batch)
        if some + others >= length:
            assert len(counts) == length
            found = int((relevance[batch] > 0).sum())
            assert found == max(min(relevant, some), length - others)
            assert (relevance[batch[:found]] > 0).all()
        else:
            assert len(counts) == some + others
            assert max(counts.values()) - min(counts.values()) <= 1
        assert int(sampler.mask(torch.tensor(batch)).sum()) == len(counts)


def test_every_item_is_drawn_in_time() -> None:
    sampler = QuerySampler([0] * 12, [1] * 3 + [0] * 9, 1, 2, 3)
    lists = [next(iter(sampler)) for _ in range(200)]
    counts = Counter(row for rows in lists for row in rows)
    assert all(90 < counts[row] < 175 for row in range(3))  # 2/3 of 200
    assert all(40 < counts[row] < 95 for row in range(3, 12))  # 1/3 of 200


def test_rest_of_the_queries_waits_for_the_next_epoch() -> None:
    query = np.repeat(np.arange(7), 3)
    sampler = QuerySampler(query, np.tile([1, 0, 0], 7), 3, 1, 1)
    assert len(sampler) == 2
    left = [set(range(7)) - {int(query[row]) for batch in sampler for row in batch} for _ in range(30)]
    assert all(len(queries) == 1 for queries in left)
    assert set.union(*left) == set(range(7))


def test_mask_of_a_batch() -> None:
    sampler = QuerySampler([0, 0, 1, 1], [1, 0, 1, 0], 2, 1, 2)
    rows = torch.tensor([[1, 0, 1], [2, 2, 3]])
    expected = [[True, True, False], [True, False, True]]
    assert sampler.mask(rows).tolist() == sampler.mask(rows.flatten()).tolist() == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0, 0], [1, 0, 0], 1, 1, 1), "`query` has 2 rows and `relevance` 3"),
        (([0, 0], [1, -1], 1, 1, 1), "`relevance` must be at least 0. It is negative or NaN in 1 rows"),
        (([0, 0], [1, float("nan")], 1, 1, 1), "negative or NaN in 1 rows"),
        (([0, -3], [1, 0], 1, 1, 1), "`query` must be at least 0, found -3"),
        (([0, 0], [1, 0], 2, 1, 1), "`queries_per_batch` must be at most 1, found 2: of the 1 queries, 0 have"),
        (([0, 0, 1, 1, 2], [1, 0, 0, 0, 1], 2, 1, 1), "at most 1, found 2: of the 3 queries, 2 have no relevant row"),
        (([0, 0], [1, 0], 1, 0, 1), "`relevant` must be at least 1"),
        (([0, 0], [1, 0], 1, 1, -1), "`items` must be at least 0"),
    ],
)
def test_values_that_do_not_work(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        QuerySampler(*arguments)
