"""`GroupSampler`: groups uniformly, and samples of each from its own shuffled list."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guidestar.samplers import GroupSampler


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    samples=st.integers(1, 5),
    seed=st.integers(0, 3),
    data=st.data(),
)
@settings(max_examples=80, deadline=None)
def test_groups_equally_often_and_samples_evenly(
    sizes: list[int], samples: int, seed: int, data: st.DataObject
) -> None:
    groups = data.draw(st.integers(1, len(sizes)))
    group = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)) * 3, sizes))
    drawn, used = Counter(), Counter()
    sampler = GroupSampler(group, groups, samples, steps=11, seed=seed)
    for batch in sampler:
        of = group[batch].reshape(groups, samples)
        assert (of == of[:, :1]).all()
        assert len(set(of[:, 0].tolist())) == groups
        drawn.update(of[:, 0].tolist())
        used.update(batch)
    times = [drawn.get(number * 3, 0) for number in range(len(sizes))]
    assert max(times) - min(times) <= 1
    for number, size in enumerate(sizes):
        counts = [used.get(row, 0) for row in np.flatnonzero(group == number * 3).tolist()]
        assert sum(counts) == times[number] * samples
        assert max(counts) - min(counts) <= 1 or size < samples
    assert sampler.short == [number * 3 for number, size in enumerate(sizes) if size < samples]


def test_a_small_group_is_drawn_as_often_as_a_large_one() -> None:
    group = np.array([5] * 990 + [8] * 10)
    sampler = GroupSampler(group, 1, 4)
    assert len(sampler) == 250
    assert Counter(group[batch][0] for batch in sampler) == {5: 125, 8: 125}


@pytest.mark.parametrize(
    ("group", "options", "message"),
    [
        ([0, 1, -1], (1, 1), "`group` must be at least 0, found -1 in 1 of 3 rows"),
        ([0, 0.5], (1, 1), "`group` must hold whole numbers"),
        ([0, float("nan")], (1, 1), "`group` must hold whole numbers"),
        ([0, 1], (3, 1), "`groups_per_batch` must be at most 2, the number of groups. Found 3"),
        ([0, 1], (1, 0), "`samples_per_group` must be at least 1"),
        ([], (1, 1), "`group` is empty"),
    ],
)
def test_values_that_do_not_work(group: list, options: tuple[int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GroupSampler(group, *options)


def test_names_are_not_numbers() -> None:
    with pytest.raises(TypeError, match="`group` must hold numbers"):
        GroupSampler(["a", "b"], 1, 1)
