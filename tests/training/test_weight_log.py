"""The log of the weights: means over visits, the last rho, and a state like any other."""

from __future__ import annotations

import torch

from guidestar.training.weight_log import WeightLog


def filled() -> WeightLog:
    log = WeightLog(5)
    log.add(torch.tensor([4, 1]), torch.tensor([1.0, 2.0]), torch.tensor([0.5, -1.0]))
    log.add(torch.tensor([1, 2]), torch.tensor([4.0, 0.0]), torch.tensor([-2.0, 3.0]))
    return log


def test_means_over_visits() -> None:
    rows, weights, rho = filled().mean()
    assert rows.tolist() == [1, 2, 4]
    assert weights.tolist() == [3.0, 0.0, 1.0]
    assert rho.tolist() == [-2.0, 3.0, 0.5]
    assert weights.dtype == rho.dtype == torch.float32


def test_nothing_visited() -> None:
    assert [len(values) for values in WeightLog(3).mean()] == [0, 0, 0]


def test_it_resumes() -> None:
    resumed = WeightLog(5)
    resumed.load_state_dict(filled().state_dict())
    for log in (first := filled(), resumed):
        log.add(torch.tensor([2]), torch.tensor([0.1]), torch.tensor([0.2]))
    assert all(torch.equal(a, b) for a, b in zip(first.mean(), resumed.mean(), strict=True))


def test_many_small_weights_are_not_lost() -> None:
    log = WeightLog(1)
    log.add(torch.tensor([0]), torch.tensor([1e8]), torch.tensor([0.0]))
    for _ in range(10):
        log.add(torch.tensor([0]), torch.tensor([1.0]), torch.tensor([0.0]))
    assert log.total.tolist() == [1e8 + 10]  # float32 sums would stay at 1e8
