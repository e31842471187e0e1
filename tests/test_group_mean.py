"""GroupMean: the inner functions of Eq. 6.17."""

from __future__ import annotations

import pytest
import torch

import guidestar as gs


def test_it_is_step_6_of_algorithm_25_for_the_groups_of_the_batch() -> None:
    groups, rng = gs.GroupMean(4, gamma=0.25).double(), torch.Generator().manual_seed(0)
    u: dict[int, float] = {}
    for _ in range(6):
        losses = torch.randn(5, generator=rng, dtype=torch.float64).requires_grad_()
        group = torch.randint(3, (5,), generator=rng)  # group 3 never comes
        for g in set(group.tolist()):
            mean = float(losses.detach()[group == g].mean())
            u[g] = 0.75 * u[g] + 0.25 * mean if g in u else mean
        values, known = groups(losses, group)
        torch.testing.assert_close(values.tolist(), [u.get(g, 0.0) for g in range(4)], rtol=1e-13, atol=1e-13)
        assert known.tolist() == [g in u for g in range(4)]
        scale = torch.tensor([1.0, 10.0, 100.0, 1000.0], dtype=torch.float64)
        (gradient,) = torch.autograd.grad((values * scale).sum(), losses)
        expected = [float(scale[g]) / int((group == g).sum()) for g in group]
        torch.testing.assert_close(gradient.tolist(), expected, rtol=1e-13, atol=1e-13)


def test_masked_losses_do_not_count() -> None:
    groups = gs.GroupMean(3, gamma=0.5)
    losses = torch.tensor([1.0, float("nan"), 5.0, 7.0], requires_grad=True)
    mask = torch.tensor([True, False, True, False])
    values, known = groups(losses, torch.tensor([0, 0, 2, 1]), mask)
    assert values.tolist() == [1.0, 0.0, 5.0]
    assert known.tolist() == [True, False, True]
    (gradient,) = torch.autograd.grad(values.sum(), losses)
    assert gradient.tolist() == [1.0, 0.0, 1.0, 0.0]


def test_a_batch_without_losses_knows_no_group() -> None:
    groups = gs.GroupMean(2, gamma=0.5)
    groups(torch.tensor([1.0]), torch.tensor([0]))
    for losses, mask in ((torch.ones(0), None), (torch.ones(1), torch.tensor([False]))):
        values, known = groups(losses.requires_grad_(), torch.zeros(len(losses), dtype=torch.int64), mask)
        assert values.tolist() == [1.0, 0.0]
        assert known.tolist() == [False, False]


def test_without_memory_or_out_of_training_it_is_the_mean_of_the_batch() -> None:
    losses, group = torch.tensor([1.0, 3.0, 5.0]), torch.tensor([0, 0, 2])
    for groups in (gs.GroupMean(3, gamma=1.0), gs.GroupMean(3).eval()):
        values, known = groups(losses, group)
        assert values.tolist() == [2.0, 0.0, 5.0]
        assert known.tolist() == [True, False, True]
    assert gs.GroupMean(3, gamma=1.0).state_dict() == {}


def test_bad_inputs() -> None:
    groups = gs.GroupMean(3)
    with pytest.raises(ValueError, match=r"`losses` and `group` must both have shape \[m\]. Found \(2,\) and \(3,\)"):
        groups(torch.ones(2), torch.zeros(3, dtype=torch.int64))
    for bad in (3, -1):
        with pytest.raises(IndexError, match=rf"`group` must lie in \[0, 3\). Found {bad}"):
            groups(torch.ones(2), torch.tensor([0, bad]))
    with pytest.raises(TypeError, match="`mask` must be a bool tensor"):
        groups(torch.ones(1), torch.tensor([0]), torch.ones(1))
    with pytest.raises(TypeError, match="must be floating-point"):
        groups(torch.ones(1, dtype=torch.int64), torch.tensor([0]))
