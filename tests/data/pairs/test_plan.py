"""Batches of a shuffle over parts."""

from __future__ import annotations

import pytest

from guidestar.data.pairs import ShardPlan
from guidestar.errors import UserError

PARTS = [("a", 0, 7), ("b", 7, 8), ("c", 8, 20), ("d", 20, 30), ("e", 30, 33)]


@pytest.mark.parametrize("window", [1, 2, 3, 5, 100])
def test_each_row_once_a_pass(window):
    plan = ShardPlan(PARTS, batch_size=3, seed=0, window=window)
    assert plan.batches_per_pass == 11
    passes = [[row for number in range(11 * k, 11 * k + 11) for row in plan.rows(number)] for k in range(3)]
    assert all(sorted(rows) == list(range(33)) for rows in passes)
    assert len({tuple(rows) for rows in passes}) == 3


@pytest.mark.parametrize("window", [1, 2, 5])
def test_any_batch_at_any_time(window):
    plan = ShardPlan(PARTS, batch_size=4, seed=3, window=window)
    batches = [plan.rows(number) for number in range(20)]
    for number in (19, 3, 8, 7, 0):
        assert plan.rows(number) == batches[number]
        assert ShardPlan(PARTS, batch_size=4, seed=3, window=window).rows(number) == batches[number]
    assert list(plan.requests(5, 8)) == [(number, batches[number]) for number in (5, 6, 7)]
    assert ShardPlan(PARTS, batch_size=4, seed=4, window=window).rows(0) != batches[0]


def test_a_window_bounds_the_parts_of_a_batch():
    parts = [(str(number), 10 * number, 10 * number + 10) for number in range(12)]
    for window in (1, 3, 4):
        plan = ShardPlan(parts, batch_size=10, seed=0, window=window)
        for number in range(12):
            touched = {row // 10 for row in plan.rows(number)}
            assert len(touched) <= window
    mixed = ShardPlan(parts, batch_size=40, seed=0, window=4).rows(0)
    assert [row // 10 for row in mixed] != sorted(row // 10 for row in mixed)


@pytest.mark.parametrize("world", [1, 2, 4])
def test_processes_share_each_batch(world):
    whole = ShardPlan(PARTS, batch_size=8, seed=1, window=2)
    shares = [ShardPlan(PARTS, batch_size=8, seed=1, window=2, rank=rank, world=world) for rank in range(world)]
    for number in range(9):
        assert [row for share in shares for row in share.rows(number)] == whole.rows(number)


def test_bad_sizes():
    with pytest.raises(UserError, match=r"`batch_size` must be in \[1, 33\], the number of rows. Found 34"):
        ShardPlan(PARTS, batch_size=34, seed=0)
    with pytest.raises(UserError, match=r"`window` must be at least 1 part. Found 0"):
        ShardPlan(PARTS, batch_size=3, seed=0, window=0)
    with pytest.raises(UserError, match="`batch_size` must be a multiple of 2"):
        ShardPlan(PARTS, batch_size=3, seed=0, world=2)
    with pytest.raises(IndexError, match=r"`number` counts batches from 0. Found -1"):
        ShardPlan(PARTS, batch_size=3, seed=0).rows(-1)
