"""Batches are a pure function of seed and number, and the processes' parts make up the whole batch."""

from __future__ import annotations

import pytest

from guidestar.errors import UserError
from guidestar.training.batches import BatchPlan


def test_a_batch_is_the_same_whenever_it_is_asked_for() -> None:
    straight = BatchPlan(10, 3, 7)
    in_order = [straight.rows(number) for number in range(12)]
    other = BatchPlan(10, 3, 7)
    backwards = [other.rows(number) for number in reversed(range(12))]
    assert backwards[::-1] == in_order
    assert [BatchPlan(10, 3, 7).rows(number) for number in range(12)] == in_order


def test_a_pass_has_no_row_twice_and_passes_and_seeds_differ() -> None:
    plan = BatchPlan(10, 3, 7)
    assert plan.batches_per_pass == 3
    first, second = ([row for n in range(start, start + 3) for row in plan.rows(n)] for start in (0, 3))
    assert len(set(first)) == len(first) == 9
    assert set(first) <= set(range(10))
    assert first != second
    assert BatchPlan(10, 3, 8).rows(0) != plan.rows(0)


def test_over_many_passes_every_row_is_left_out_equally_often() -> None:
    plan = BatchPlan(5, 2, 0)
    visits = [0] * 5
    for number in range(2 * 1000):
        for row in plan.rows(number):
            visits[row] += 1
    assert all(abs(count - 800) < 60 for count in visits)  # 4.7 standard deviations of Binomial(1000, 0.8)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_the_processes_share_the_batch(world: int) -> None:
    whole = BatchPlan(20, 6, 1)
    parts = [BatchPlan(20, 6, 1, rank=rank, world=world) for rank in range(world)]
    for number in (0, 2, 5, 11):
        assert [row for part in parts for row in part.rows(number)] == whole.rows(number)


def test_resuming_in_the_middle_gives_the_remaining_batches() -> None:
    assert list(BatchPlan(9, 2, 3).between(5, 11)) == list(BatchPlan(9, 2, 3).between(0, 11))[5:]
    assert list(BatchPlan(9, 2, 3).between(4, 4)) == []


def test_errors() -> None:
    with pytest.raises(UserError, match=r"`batch_size` must be in \[1, 5\], the number of rows. Found 6"):
        BatchPlan(5, 6, 0)
    with pytest.raises(UserError, match=r"`batch_size` must be in \[1, 5\].*Found 0"):
        BatchPlan(5, 0, 0)
    with pytest.raises(UserError, match=r"`batch_size` must be a multiple of 2, the number of processes.*Found 3"):
        BatchPlan(5, 3, 0, world=2)
    with pytest.raises(IndexError, match=r"`number` counts batches from 0. Found -1"):
        BatchPlan(5, 3, 0).rows(-1)
