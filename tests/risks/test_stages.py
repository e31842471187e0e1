"""Stages: each stage is the risk alone, from its first epoch on, with memory of its own."""

from __future__ import annotations

import pytest
import torch

import guidestar as gs


def batches(number: int) -> list[torch.Tensor]:
    return list(torch.randn(number, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64))


def run(risk, data: list[torch.Tensor]) -> list[torch.Tensor]:
    """Values and gradients."""
    results = []
    for losses in data:
        leaf = losses.clone().requires_grad_()
        value = risk(leaf)
        results += [value.detach(), torch.autograd.grad(value, leaf)[0]]
    return results


def test_each_stage_is_its_risk_alone() -> None:
    data = batches(8)
    risk = gs.Stages(gs.KL(10.0, gamma=0.5), gs.CVaR(0.5, lr=0.1), epochs=2)
    found = run(risk, data[:2])
    risk.set_epoch(1)
    found += run(risk, data[2:4])
    risk.set_epoch(2)
    found += run(risk, data[4:])
    expected = run(gs.KL(10.0, gamma=0.5), data[:4]) + run(gs.CVaR(0.5, lr=0.1), data[4:])
    for left, right in zip(found, expected, strict=True):
        assert torch.equal(left, right)


def test_the_average_at_the_old_temperature_does_not_enter_the_new_stage() -> None:
    # v belongs to its tau: tau v at the new one would be far off. The second stage begins with its first batch.
    data = batches(4)
    risk = gs.Stages(gs.KL(100.0, gamma=0.1), gs.KL(0.1, gamma=0.1), epochs=1)
    run(risk, data[:3])
    old = risk.first_risk.tracker.memory.values.clone()
    assert not risk.then_risk.tracker.memory.seen().any()
    risk.set_epoch(1)
    value, weights = run(risk, data[3:])
    torch.testing.assert_close(value, gs.KL(0.1)(data[3]))
    torch.testing.assert_close(weights, torch.softmax(data[3] / 0.1, 0))
    assert torch.equal(risk.first_risk.tracker.memory.values, old)


def test_going_back_continues_the_first_stage() -> None:
    data = batches(5)
    risk, alone = gs.Stages(gs.KL(1.0, gamma=0.5), gs.Mean(), epochs=1), gs.KL(1.0, gamma=0.5)
    expected = run(alone, data[:2] + data[4:])
    found = run(risk, data[:2])
    risk.set_epoch(1)
    run(risk, data[2:4])
    risk.set_epoch(0)
    found += run(risk, data[4:])
    assert all(torch.equal(left, right) for left, right in zip(found, expected, strict=True))


def test_rows_that_are_masked_touch_neither_stage() -> None:
    risk = gs.Stages(gs.KL(1.0, 3, gamma=0.5), gs.CVaR(0.5, num_rows=3), epochs=1)
    losses, index = torch.rand(2, 4) + 0.1, torch.tensor([0, 2])
    mask = torch.tensor([[True] * 4, [False] * 4])
    for epoch in (0, 1):
        risk.set_epoch(epoch)
        risk(losses, index, mask)
    assert risk.first_risk.tracker.memory.seen().tolist() == [True, False, False]
    assert (risk.then_risk.dual.memory.values != 0).tolist() == [True, False, False]
    assert int(risk.empty.count) == 2
    assert int(risk.first_risk.empty.count) == int(risk.then_risk.empty.count) == 0


def test_bad_settings() -> None:
    for epochs in (0, -1, 1.5):
        with pytest.raises(ValueError, match=f"`epochs` must be a whole number, at least 1. Found {epochs}"):
            gs.Stages(gs.Mean(), gs.Mean(), epochs=epochs)
    one = gs.KL(1.0)
    with pytest.raises(ValueError, match="`first` and `then` must be two objects"):
        gs.Stages(one, one, epochs=1)
    with pytest.raises(TypeError, match="`risk` must be a risk such as"):
        gs.Stages(gs.KL, gs.Mean(), epochs=1)
