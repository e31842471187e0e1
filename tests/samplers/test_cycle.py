"""Passes over a list: each row once a pass, no row twice in a batch, and any batch from its number."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guidestar.samplers.cycle import Cycle, Cycles, generator

SIZES = st.integers(1, 24)


def stream(size: int, take: int, batches: int, seed: int = 0) -> list[list[int]]:
    cycle = Cycle(np.arange(100, 100 + size), take, (seed,))
    return [cycle.batch(number).tolist() for number in range(batches)]


@given(size=SIZES, take=SIZES, seed=st.integers(0, 5))
@settings(max_examples=150, deadline=None)
def test_each_pass_holds_each_row_once_and_no_batch_a_row_twice(size: int, take: int, seed: int) -> None:
    batches = stream(size, take, 12, seed)
    rows = [row for batch in batches for row in batch]
    for batch in batches:
        counts = Counter(batch)
        assert len(batch) == take
        # A list longer than the batch: at most once. A shorter one: as evenly as possible.
        assert max(counts.values()) == -(-take // size)
        assert min(counts.get(row, 0) for row in range(100, 100 + size)) == take // size
    if take <= size:
        for start in range(0, len(rows) - size + 1, size):
            assert sorted(rows[start : start + size]) == list(range(100, 100 + size))


@given(size=SIZES, take=SIZES, numbers=st.lists(st.integers(0, 40), min_size=1, max_size=6))
@settings(max_examples=100, deadline=None)
def test_a_batch_depends_on_its_number_and_not_on_what_was_asked_before(
    size: int, take: int, numbers: list[int]
) -> None:
    expected = stream(size, take, 41)
    cycle = Cycle(np.arange(100, 100 + size), take, (0,))
    for number in numbers:
        assert cycle.batch(number).tolist() == expected[number]


def test_every_row_comes_first_equally_often() -> None:
    first = Counter(stream(4, 1, 1, seed)[0][0] for seed in range(2000))
    assert all(400 < first[row] < 600 for row in range(100, 104))


def test_passes_are_shuffled_differently() -> None:
    assert len({tuple(batch) for batch in stream(8, 8, 20)}) == 20


def test_keys_of_different_lengths_are_different() -> None:
    draws = {tuple(generator(*key).integers(0, 1000, 4)) for key in [(1,), (1, 0), (1, 0, 0), (0, 1), ()]}
    assert len(draws) == 5


def test_cycles_are_those_of_one_epoch() -> None:
    cycles = Cycles(seed=3)
    rows = np.arange(50)

    def refuse() -> np.ndarray:
        raise AssertionError("the list was asked for again")

    first = cycles.get(0, (1,), lambda: rows, 50).batch(0)
    assert np.array_equal(cycles.get(0, (1,), refuse, 50).batch(0), first)
    other = cycles.get(1, (1,), lambda: rows, 50).batch(0)
    assert not np.array_equal(other, first)
    assert np.array_equal(Cycles(seed=3).get(0, (1,), lambda: rows, 50).batch(0), first)
    with pytest.raises(AssertionError):
        cycles.get(1, (2,), refuse, 50)
