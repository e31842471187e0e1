"""DistillationLoss: the softened divergence, written out."""

from __future__ import annotations

import pytest
import torch

from guidestar.losses import DistillationLoss


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_it_is_the_divergence(temperature) -> None:
    student = torch.randn(5, 4, dtype=torch.float64).requires_grad_()
    teacher = torch.randn(5, 4, dtype=torch.float64)
    q, p = torch.softmax(teacher / temperature, -1), torch.softmax(student / temperature, -1)
    expected = temperature**2 * (q * (q / p).log()).sum() / 5
    value = DistillationLoss(temperature)(student, teacher)
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-10)
    # Its gradient is T / B (p - q), written out by hand.
    (gradient,) = torch.autograd.grad(value, student)
    torch.testing.assert_close(gradient, temperature / 5 * (p - q).detach(), rtol=1e-10, atol=1e-12)


def test_equal_logits_cost_nothing() -> None:
    logits = torch.randn(3, 4)
    torch.testing.assert_close(DistillationLoss()(logits, logits + 7.0), torch.tensor(0.0), atol=1e-6, rtol=0)


def test_the_teacher_gets_no_gradient() -> None:
    teacher = torch.randn(3, 4, requires_grad=True)
    DistillationLoss()(torch.randn(3, 4, requires_grad=True), teacher).backward()
    assert teacher.grad is None


def test_masked_samples_do_not_count_whatever_they_hold() -> None:
    student, teacher = torch.randn(4, 3), torch.randn(4, 3)
    mask = torch.tensor([True, False, True, False])
    expected = DistillationLoss()(student[mask], teacher[mask])
    student[1], teacher[3] = float("nan"), float("nan")
    value = DistillationLoss()(student.requires_grad_(), teacher, mask=mask)
    torch.testing.assert_close(value, expected)
    value.backward()
    assert torch.isfinite(student.grad).all()
    assert not student.grad[~mask].any()


def test_bad_inputs() -> None:
    with pytest.raises(ValueError, match=r"`temperature` must be a positive number. Found 0"):
        DistillationLoss(0.0)
    with pytest.raises(ValueError, match=r"must both be \[B, C\]. Found \(2, 3\) and \(2, 4\)"):
        DistillationLoss()(torch.ones(2, 3), torch.ones(2, 4))
