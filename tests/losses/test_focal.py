"""FocalLoss: values and gradients written out, and where probabilities round to 0 and 1."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from guidestar.losses import FocalLoss
from guidestar.losses.class_balanced import class_balanced_weights

TIGHT = {"rtol": 1e-10, "atol": 1e-10}


def example(*shape: int) -> torch.Tensor:
    rng = torch.Generator().manual_seed(0)
    return torch.randn(*shape, generator=rng, dtype=torch.float64).requires_grad_()


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("alpha", [None, [1.0, 2.0, 0.5]])
def test_several_classes(gamma, alpha) -> None:
    logits, labels = example(5, 3), torch.tensor([0, 2, 1, 1, 0])
    terms = []
    for f, y in zip(logits, labels.tolist(), strict=True):
        p = f.exp()[y] / f.exp().sum()
        terms.append(-(alpha[y] if alpha else 1.0) * (1 - p) ** gamma * p.log())
    found, expected = FocalLoss(gamma, alpha)(logits, labels), sum(terms) / 5
    torch.testing.assert_close(found, expected, **TIGHT)
    torch.testing.assert_close(*(torch.autograd.grad(x, logits)[0] for x in (found, expected)), **TIGHT)


@pytest.mark.parametrize("dtype", [torch.int64, torch.float64, torch.bool])
def test_one_class_against_the_rest(dtype) -> None:
    logits, labels = example(5), torch.tensor([1, 0, 1, 1, 0])
    p = torch.where(labels == 1, torch.sigmoid(logits), 1 - torch.sigmoid(logits))
    weight = torch.tensor([0.3, 0.7, 0.3, 0.3, 0.7], dtype=torch.float64)
    found, expected = FocalLoss(2.0, 0.3)(logits, labels.to(dtype)), (-weight * (1 - p) ** 2 * p.log()).mean()
    torch.testing.assert_close(found, expected, **TIGHT)
    torch.testing.assert_close(*(torch.autograd.grad(x, logits)[0] for x in (found, expected)), **TIGHT)


def test_gamma_of_zero_is_the_cross_entropy() -> None:
    logits, labels = example(5, 3), torch.tensor([0, 2, 1, 1, 0])
    torch.testing.assert_close(FocalLoss(0.0)(logits, labels), functional.cross_entropy(logits, labels), **TIGHT)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_where_the_probability_rounds_to_one_or_zero(gamma) -> None:
    # (1 - p)^gamma with gamma below 1 has an infinite slope at p = 1: computed directly, the gradient is NaN there.
    for logits, labels in (
        (torch.tensor([[200.0, 0.0], [-200.0, 0.0]]), torch.tensor([0, 0])),
        (torch.tensor([200.0, -200.0]), torch.tensor([1, 1])),
    ):
        logits.requires_grad_()
        value = FocalLoss(gamma)(logits, labels)
        assert float(value.detach()) == pytest.approx(100.0)
        (gradient,) = torch.autograd.grad(value, logits)
        assert torch.isfinite(gradient).all()
        assert gradient.any()


def test_class_balanced_focal() -> None:
    logits, labels = example(4, 2), torch.tensor([0, 1, 1, 0])
    weights = class_balanced_weights([100, 5], 0.99)
    plain = [FocalLoss(2.0)(logits[i : i + 1], labels[i : i + 1]) for i in range(4)]
    expected = sum(weights[labels[i]] * plain[i] for i in range(4)) / 4
    torch.testing.assert_close(FocalLoss(2.0, weights)(logits, labels), expected, **TIGHT)


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"`labels` must be 0 or 1 for logits \[B\]. Found -1. For labels of -1 and 1"):
        FocalLoss()(torch.zeros(2), torch.tensor([1, -1]))
    with pytest.raises(ValueError, match=r"`logits` and `labels` must both be \[B\]. Found \(2,\) and \(3,\)"):
        FocalLoss()(torch.zeros(2), torch.zeros(3))
    with pytest.raises(ValueError, match=r"`labels` must lie in \[0, 2\)"):
        FocalLoss()(torch.zeros(1, 2), torch.tensor([2]))
    with pytest.raises(ValueError, match=r"`gamma` must be at least 0 and finite. Found -1"):
        FocalLoss(-1.0)
    with pytest.raises(
        ValueError, match=r"`alpha` as one number is the weight of label 1 and must be in \(0, 1\). Found 2"
    ):
        FocalLoss(2.0, 2)
    with pytest.raises(ValueError, match=r"`alpha` must be numbers of at least 0, one a class"):
        FocalLoss(2.0, [1.0, -1.0])
    with pytest.raises(ValueError, match=r"`alpha` must be one number, the weight of label 1, for logits \[B\]"):
        FocalLoss(2.0, [1.0, 2.0])(torch.zeros(2), torch.zeros(2))
    with pytest.raises(
        ValueError, match=r"`alpha` must have one number for each class for logits \[B, C\]. Found 0.25"
    ):
        FocalLoss(2.0, 0.25)(torch.zeros(2, 2), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(
        ValueError, match=r"`alpha` must have one number for each class. Found 3 for logits with 2 columns"
    ):
        FocalLoss(2.0, [1.0, 1.0, 1.0])(torch.zeros(2, 2), torch.zeros(2, dtype=torch.int64))
