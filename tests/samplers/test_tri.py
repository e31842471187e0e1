"""`TriSampler`: tasks, and positives and negatives of each."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guidestar.samplers import TriSampler

NAN = float("nan")


@given(seed=st.integers(0, 30), size=st.integers(2, 7), tasks=st.integers(1, 4), rate=st.floats(0.05, 0.95))
@settings(max_examples=60, deadline=None)
def test_shape_tasks_and_classes(seed: int, size: int, tasks: int, rate: float) -> None:
    random = np.random.default_rng(seed)
    labels = (random.random((30, 6)) < 0.3).astype(float)
    labels[0], labels[1] = 1, 0
    labels[2:][random.random((28, 6)) < 0.2] = NAN
    sampler = TriSampler(labels, size, tasks, rate, steps=12, seed=seed)
    drawn = Counter()
    for batch in sampler:
        rows, of = np.array(batch).T.reshape(2, tasks, size)
        assert (of == of[:, :1]).all()
        assert len(set(of[:, 0])) == tasks
        assert (labels[rows, of][:, : sampler.positives] == 1).all()
        assert (labels[rows, of][:, sampler.positives :] == 0).all()
        drawn.update(of[:, 0].tolist())
    assert max(drawn.values()) - min(drawn.get(task, 0) for task in range(6)) <= 1


def test_lists_of_a_task_are_used_up_before_they_are_shuffled() -> None:
    labels = np.zeros((10, 2))
    labels[:3, 0], labels[5:, 1] = 1, 1
    for task, positives in ((0, {0, 1, 2}), (1, {5, 6, 7, 8, 9})):
        batches = [[row for row, of in batch if of == task] for batch in TriSampler(labels, 3, 2, 0.34, steps=15)]
        assert {rows[0] for rows in batches[: len(positives)]} == positives
        assert all(len(set(rows)) == 3 for rows in batches)


def test_a_task_with_fewer_positives_than_asked_repeats_them_evenly() -> None:
    labels = np.zeros((12, 1))
    labels[:2] = 1
    for batch in TriSampler(labels, 8, 1, 0.6, steps=6):  # five positives of two
        counts = Counter(row for row, _ in batch[:5])
        assert sorted(counts.values()) == [2, 3]


def test_tasks_without_both_classes_are_excluded_and_counted() -> None:
    labels = np.array([[1, 0, 1, NAN, 0], [0, 0, 1, 1, 1], [0, 0, 1, NAN, NAN]])
    sampler = TriSampler(labels, 2, 2, steps=5)
    assert sampler.excluded == [1, 2, 3]
    assert {task for batch in sampler for _, task in batch} == {0, 4}
    with pytest.raises(ValueError, match="`tasks` must be at most 2, found 3: of the 5 tasks in `labels`, 3 have no"):
        TriSampler(labels, 2, 3)


def test_length_of_an_epoch() -> None:
    labels = np.zeros((100, 3))
    labels[:9] = 1
    assert len(TriSampler(labels, 8, 3)) == 4
    assert len(TriSampler(labels, 80, 3)) == 1
    assert len(TriSampler(labels, 8, 3, steps=77)) == 77


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        ([0, 1], {}, "`labels` must have the shape \\[n, tasks\\], found \\[2\\]"),
        ([[0], [3]], {}, "`labels` must be 0 or 1. Found also 3"),
        ([[0], [1]], {"tasks": 0}, "`tasks` must be at least 1"),
        ([[0], [1]], {"rate": 1.5}, "`rate` is the fraction"),
        ([[0], [1]], {"batch_size_per_task": 1}, "`batch_size_per_task` must be at least 2"),
        ([[0], [1]], {"steps": 0}, "`steps` must be at least 1"),
    ],
)
def test_values_that_do_not_work(labels: list, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TriSampler(labels, **{"batch_size_per_task": 2, "tasks": 1, **options})
