"""LDRLoss: the worst case over distributions of the label."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from guidestar.losses import LDRLoss

TIGHT = {"rtol": 1e-10, "atol": 1e-10}


def example(seed: int = 0, size: int = 5, classes: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    logits = 2.0 * torch.randn(size, classes, generator=rng, dtype=torch.float64)
    return logits.requires_grad_(), torch.randint(classes, (size,), generator=rng)


@pytest.mark.parametrize(("lam", "margin"), [(0.3, 0.0), (1.0, 0.1), (10.0, 2.0)])
def test_the_closed_form(lam, margin) -> None:
    logits, labels = example()
    terms = []
    for f, y in zip(logits, labels.tolist(), strict=True):
        terms.append(lam * (sum(((f[k] - f[y] + margin * (k != y)) / lam).exp() for k in range(4)) / 4).log())
    expected = sum(terms) / 5
    found = LDRLoss(lam, margin)(logits, labels)
    torch.testing.assert_close(found, expected, **TIGHT)
    torch.testing.assert_close(*(torch.autograd.grad(x, logits)[0] for x in (found, expected)), **TIGHT)


def test_no_distribution_of_the_label_does_worse() -> None:
    logits, labels = example(1)
    found = float(LDRLoss(0.7, 0.2)(logits, labels).detach())
    errors = (logits - logits.gather(1, labels[:, None]) + 0.2 * (torch.arange(4) != labels[:, None]).double()).detach()

    def at(p: torch.Tensor) -> float:
        return float(((p * errors).sum(1) - 0.7 * (p * (4 * p).log()).sum(1)).mean())

    assert at(torch.softmax(errors / 0.7, 1)) == pytest.approx(found, rel=1e-10)
    for _ in range(200):
        assert at(torch.distributions.Dirichlet(torch.ones(5, 4, dtype=torch.float64)).sample()) <= found + 1e-12


def test_its_ends() -> None:
    logits, labels = example(2)
    errors = logits - logits.gather(1, labels[:, None]) + 0.5 * (torch.arange(4) != labels[:, None])
    torch.testing.assert_close(LDRLoss(1e-6, 0.5)(logits, labels), errors.amax(1).mean(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(LDRLoss(1e6, 0.5)(logits, labels), errors.mean(1).mean(), rtol=1e-5, atol=1e-5)
    plain = functional.cross_entropy(logits, labels) - math.log(4)
    torch.testing.assert_close(LDRLoss(1.0, 0.0)(logits, labels), plain, **TIGHT)


def test_a_masked_sample_may_have_any_label_and_any_logits() -> None:
    logits, labels = example(3)
    expected = LDRLoss()(logits[1:], labels[1:])
    spoilt = torch.cat([torch.full((1, 4), float("nan"), dtype=torch.float64), logits[1:]])
    labels[0] = -100
    found = LDRLoss()(spoilt, labels, mask=torch.arange(5) > 0)
    torch.testing.assert_close(found, expected, **TIGHT)
    assert torch.isfinite(torch.autograd.grad(found, logits)[0]).all()


def test_errors() -> None:
    loss, logits = LDRLoss(), torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"`labels` must lie in \[0, 3\), as the logits have 3 columns. Found 3"):
        loss(logits, torch.tensor([0, 3]))
    with pytest.raises(ValueError, match=r"Found -1. Mask out samples without a class"):
        loss(logits, torch.tensor([0, -1]))
    with pytest.raises(ValueError, match=r"`logits` must be \[B, C\] and `labels` \[B\]. Found \(2, 3\) and \(3,\)"):
        loss(logits, torch.tensor([0, 1, 2]))
    with pytest.raises(ValueError, match=r"`logits` must have at least 2 classes \(columns\). Found 1"):
        loss(logits[:, :1], torch.tensor([0, 0]))
    with pytest.raises(TypeError, match=r"`labels` must hold the number of each sample's class, int64. Found dtype"):
        loss(logits, torch.tensor([0.0, 1.0]))
    with pytest.raises(ValueError, match=r"`lam` must be a positive number. Found 0"):
        LDRLoss(0)
    with pytest.raises(ValueError, match=r"`margin` must be at least 0 and finite. Found -1"):
        LDRLoss(1.0, -1.0)
