"""LogitAdjustedLoss: the classes' frequencies as margins."""

from __future__ import annotations

import pytest
import torch

from guidestar.losses import LogitAdjustedLoss

TIGHT = {"rtol": 1e-10, "atol": 1e-10}


@pytest.mark.parametrize("tau", [0.5, 1.0, 2.0])
def test_the_formula(tau) -> None:
    logits = torch.randn(5, 3, dtype=torch.float64).requires_grad_()
    labels, priors = torch.tensor([0, 2, 1, 1, 0]), [0.7, 0.2, 0.1]
    terms = []
    for f, y in zip(logits, labels.tolist(), strict=True):
        adjusted = [f[k].exp() * priors[k] ** tau for k in range(3)]
        terms.append(-(adjusted[y] / sum(adjusted)).log())
    found, expected = LogitAdjustedLoss(priors, tau)(logits, labels), sum(terms) / 5
    torch.testing.assert_close(found, expected, **TIGHT)
    torch.testing.assert_close(*(torch.autograd.grad(x, logits)[0] for x in (found, expected)), **TIGHT)


def test_counts_serve_as_frequencies() -> None:
    logits, labels = torch.randn(5, 3), torch.tensor([0, 2, 1, 1, 0])
    left = LogitAdjustedLoss([70, 20, 10])(logits, labels)
    torch.testing.assert_close(left, LogitAdjustedLoss(torch.tensor([0.7, 0.2, 0.1]))(logits, labels))


def test_its_minimiser_scores_classes_by_the_balanced_posterior() -> None:
    # One input, seen 9 times with label 0 and 3 times with label 1, where label 0 is 9 times as frequent overall.
    scores = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0] * 9 + [1] * 3)
    loss = LogitAdjustedLoss([0.9, 0.1])
    optimizer = torch.optim.LBFGS([scores], max_iter=100, tolerance_grad=1e-12)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value = loss(scores.expand(12, 2), labels)
        value.backward()
        return value

    optimizer.step(closure)
    odds = float((scores[0, 1] - scores[0, 0]).detach().exp())
    assert odds == pytest.approx((3 / 0.1) / (9 / 0.9), rel=1e-4)


def test_errors() -> None:
    for bad in ([1.0], [0.5, 0.0], [0.5, -0.5], [0.5, float("inf")]):
        with pytest.raises(ValueError, match=r"`priors` must have one positive number for each of at least 2 classes"):
            LogitAdjustedLoss(bad)
    with pytest.raises(ValueError, match=r"`tau` must be a positive number. Found 0"):
        LogitAdjustedLoss([0.5, 0.5], 0)
    with pytest.raises(
        ValueError, match=r"`priors` must have one number for each class. Found 2 for logits with 3 columns"
    ):
        LogitAdjustedLoss([0.5, 0.5])(torch.zeros(1, 3), torch.tensor([0]))
    with pytest.raises(ValueError, match=r"`labels` must lie in \[0, 2\)"):
        LogitAdjustedLoss([0.5, 0.5])(torch.zeros(1, 2), torch.tensor([2]))
