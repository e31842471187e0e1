"""DRRhoCrossEntropyLoss: Eq. 6.113 with cross-entropy, and Algorithm 24 with the RHO loss."""

from __future__ import annotations

import math

import pytest
import torch

import guidestar as gs
from guidestar.losses import DRRhoCrossEntropyLoss
from guidestar.losses.drrho_cross_entropy import sample_cross_entropy


def batch(seed: int = 0, size: int = 6):
    rng = torch.Generator().manual_seed(seed)
    logits = torch.randn(size, 3, generator=rng, dtype=torch.float64).requires_grad_()
    return logits, torch.randint(3, (size,), generator=rng), torch.rand(size, generator=rng, dtype=torch.float64)


def cross_entropy(logits, labels):
    return torch.stack([torch.log(torch.exp(row - row[y]).sum()) for row, y in zip(logits, labels, strict=True)])


@pytest.mark.parametrize("with_reference", [True, False])
def test_full_batch_equals_the_objective(with_reference) -> None:
    logits, labels, reference = batch()
    losses = cross_entropy(logits, labels) - (reference if with_reference else 0.0)
    expected = 0.5 * torch.log(torch.exp(losses / 0.5).mean())  # Eq. 6.118
    value = DRRhoCrossEntropyLoss(gs.KL(0.5))(logits, labels, reference_losses=reference if with_reference else None)
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(
        torch.autograd.grad(value, logits)[0], torch.autograd.grad(expected, logits)[0], rtol=1e-10, atol=1e-10
    )


def test_algorithm_24_with_the_rho_loss() -> None:
    loss, tau, gamma, u = DRRhoCrossEntropyLoss(gs.KL(0.5, gamma=0.25)).double(), 0.5, 0.25, None
    for seed in range(4):
        logits, labels, reference = batch(seed)
        losses = cross_entropy(logits, labels)
        rho = [float(each) for each in (losses - reference).detach()]
        g = sum(math.exp(each / tau) for each in rho) / 6
        u = g if u is None else (1 - gamma) * u + gamma * g
        surrogate = sum(math.exp(each / tau) / u * own for each, own in zip(rho, losses, strict=True)) / 6  # Eq. 6.119
        value = loss(logits, labels, reference_losses=reference)
        assert float(value.detach()) == pytest.approx(tau * math.log(u), abs=1e-12)
        torch.testing.assert_close(
            torch.autograd.grad(value, logits)[0], torch.autograd.grad(surrogate, logits)[0], rtol=1e-11, atol=1e-12
        )


def test_the_mean_is_cross_entropy() -> None:
    logits, labels, _ = batch()
    value = DRRhoCrossEntropyLoss(gs.Mean())(logits, labels)
    torch.testing.assert_close(value, torch.nn.functional.cross_entropy(logits, labels))


def test_the_reference_gets_no_gradient() -> None:
    logits, labels, reference = batch()
    DRRhoCrossEntropyLoss(gs.KL(0.5))(logits, labels, reference_losses=reference.requires_grad_()).backward()
    assert reference.grad is None


def test_masked_samples_do_not_count_whatever_they_hold() -> None:
    logits, labels, reference = batch()
    mask = torch.tensor([True, False, True, True, False, True])
    loss = DRRhoCrossEntropyLoss(gs.KL(0.5))
    expected = loss(logits[mask], labels[mask], reference_losses=reference[mask])
    poisoned = logits.detach().clone()
    poisoned[~mask] = float("nan")
    reference[~mask] = float("nan")
    value = loss(poisoned.requires_grad_(), labels, reference_losses=reference, mask=mask)
    torch.testing.assert_close(value, expected)
    value.backward()
    assert torch.isfinite(poisoned.grad).all()
    assert not poisoned.grad[~mask].any()


def test_metrics() -> None:
    loss = DRRhoCrossEntropyLoss(gs.KL(0.5))
    assert loss.metrics() == {"empty": 0.0}
    logits, labels, _ = batch()
    loss(logits, labels, mask=torch.zeros(6, dtype=torch.bool))
    assert loss.metrics() == {"empty": 1.0}
    loss.reset()
    assert loss.metrics() == {"empty": 0.0}


def test_bad_inputs() -> None:
    loss = DRRhoCrossEntropyLoss(gs.Mean())
    with pytest.raises(ValueError, match=r"`logits` must be \[B, C\] and `labels` \[B\]. Found \(3, 2\) and \(2,\)"):
        loss(torch.ones(3, 2), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"`logits` must be \[B, C\]"):
        loss(torch.ones(3), torch.zeros(3, dtype=torch.int64), mask=torch.ones(3, dtype=torch.bool))
    for label in (2, -100):  # torch's cross-entropy would give -100 a loss of 0, which would count
        with pytest.raises(ValueError, match=rf"`labels` must lie in \[0, 2\).*Found {label}. Mask out"):
            loss(torch.ones(2, 2), torch.tensor([0, label]))
    masked = loss(torch.ones(2, 2), torch.tensor([0, -100]), mask=torch.tensor([True, False]))
    assert float(masked) == pytest.approx(0.6931472)
    with pytest.raises(ValueError, match=r"`reference_losses` must have the shape of `losses`, \(3,\). Found \(2,\)"):
        loss(torch.ones(3, 2), torch.zeros(3, dtype=torch.int64), reference_losses=torch.ones(2))
    with pytest.raises(ValueError, match=r"`mask` must broadcast to the shape of `losses`, \(3,\). Found \(2,\)"):
        loss(torch.ones(3, 2), torch.zeros(3, dtype=torch.int64), mask=torch.ones(2, dtype=torch.bool))
    with pytest.raises(TypeError, match="floating-point"):
        sample_cross_entropy(torch.ones(3, 2, dtype=torch.int64), torch.zeros(3, dtype=torch.int64))
