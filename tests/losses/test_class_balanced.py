"""ClassBalancedLoss: weights by the effective number of samples."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from torch.nn import functional

from guidestar.losses import ClassBalancedLoss
from guidestar.losses.class_balanced import class_balanced_weights

TIGHT = {"rtol": 1e-10, "atol": 1e-10}


@pytest.mark.parametrize("beta", [0.5, 0.99, 0.9999])
def test_the_weights(beta) -> None:
    counts = [5000, 50, 3]
    inverse = [(1 - beta) / (1 - beta**n) for n in counts]
    expected = [3 * x / sum(inverse) for x in inverse]
    torch.testing.assert_close(class_balanced_weights(counts, beta).tolist(), expected, rtol=1e-9, atol=0)


def test_the_ends_of_beta() -> None:
    assert class_balanced_weights([7, 3], 0.0).tolist() == [1.0, 1.0]


def test_no_digits_are_lost_for_a_beta_near_one() -> None:
    # beta^n is near 1: as a difference of floating-point numbers, 1 - beta^n has half of its digits.
    beta = 1 - 1e-9
    inverse = [1 / (1 - Fraction(beta) ** n) for n in (10, 7)]
    expected = [float(2 * x / sum(inverse)) for x in inverse]
    torch.testing.assert_close(class_balanced_weights([10, 7], beta).tolist(), expected, rtol=1e-12, atol=0)


def test_the_mean_of_the_weighted_cross_entropy() -> None:
    logits = torch.randn(6, 3, dtype=torch.float64).requires_grad_()
    labels = torch.tensor([0, 0, 1, 0, 2, 0])
    weights = class_balanced_weights([100, 10, 2], 0.9)
    each = functional.cross_entropy(logits, labels, reduction="none")
    expected = sum(weights[y] * x for y, x in zip(labels, each, strict=True)) / 6
    found = ClassBalancedLoss([100, 10, 2], 0.9)(logits, labels)
    torch.testing.assert_close(found, expected, **TIGHT)
    torch.testing.assert_close(*(torch.autograd.grad(x, logits)[0] for x in (found, expected)), **TIGHT)


def test_errors() -> None:
    for bad in ([3], [3, 0], [3, -1], [3, float("nan")], [[1, 2]]):
        with pytest.raises(ValueError, match=r"`counts` must have one positive number for each of at least 2 classes"):
            ClassBalancedLoss(bad)
    for bad in (1.0, -0.1):
        with pytest.raises(ValueError, match=r"`beta` must be in \[0, 1\)"):
            ClassBalancedLoss([1, 2], bad)
    with pytest.raises(
        ValueError, match=r"`counts` must have one number for each class. Found 2 for logits with 3 columns"
    ):
        ClassBalancedLoss([1, 2])(torch.zeros(1, 3), torch.tensor([0]))
    with pytest.raises(ValueError, match=r"`labels` must lie in \[0, 2\)"):
        ClassBalancedLoss([1, 2])(torch.zeros(1, 2), torch.tensor([2]))
