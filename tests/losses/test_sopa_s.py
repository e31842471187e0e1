"""SOPAsLoss: Eq. 6.28 and Alg. 30, pair by pair, and what LibAUC's loss gets wrong."""

from __future__ import annotations

import math

import pytest
import torch
from written_out_ranks import (
    SAMPLES,
    check_evaluation,
    check_labels_are_losses_of_their_own,
    check_one_class_only,
    check_same,
    check_step,
    draws,
    estimator,
    mean_exp,
    mixed,
    set_paths,
)

from guidestar.losses import SOPAsLoss
from guidestar.surrogates import logistic, squared_hinge

paths = pytest.mark.parametrize("path", ["matrix", "closed", "tiles"])
surrogates = pytest.mark.parametrize("surrogate", [squared_hinge, logistic])


@paths
@surrogates
def test_gamma_of_one_is_the_objective_6_28_of_the_batch(surrogate, path, monkeypatch) -> None:
    set_paths(monkeypatch, path)
    loss = SOPAsLoss(SAMPLES, 0.5, gamma=1.0, surrogate=surrogate)
    for draw in draws(3):
        terms = []
        for i in draw.positives:
            pairs = torch.stack([draw.pair(surrogate, i, j) for j in draw.negatives])
            terms.append(0.5 * torch.log(torch.exp(pairs / 0.5).mean()))
        check_same(draw.call(loss), torch.stack(terms).mean(), draw.scores)
    assert not [name for name in loss.state_dict() if name.endswith("values")]


@paths
@surrogates
@pytest.mark.parametrize("gamma", [0.9, 0.1])
def test_algorithm_30(surrogate, gamma, path, monkeypatch) -> None:
    set_paths(monkeypatch, path)
    tau = 0.7
    loss = SOPAsLoss(SAMPLES, tau, gamma=gamma, surrogate=surrogate).double()
    u: dict[int, float] = {}
    for draw in draws(6):
        size = len(draw.positives) * len(draw.negatives)
        value, p = 0.0, {}
        for i in draw.positives:
            average = mixed(u, draw.index[i], mean_exp(draw, surrogate, i, tau), gamma)
            value += tau * math.log(average) / len(draw.positives)
            for j in draw.negatives:
                p[i, j] = math.exp(float(draw.pair(surrogate, i, j).detach()) / tau) / average / size
        check_step(draw.call(loss), draw, value, estimator(draw, surrogate, p))
        values, seen = loss.risk.tracker.remembered()
        assert {row: pytest.approx(math.exp(values[row]), rel=1e-10) for row in range(SAMPLES) if seen[row]} == u


def test_scores_that_overflow_a_linear_average() -> None:
    # LibAUC: exp((1 + 9)^2) is inf and the loss NaN; with sigmoid scores the same at a temperature of 0.04.
    labels, index = torch.tensor([1, 0, 0]), torch.arange(3)
    for scores, tau in (([0.0, 9.0, -1.0], 1.0), ([0.05, 0.98, 0.9], 0.04)):
        values = torch.tensor(scores, requires_grad=True)
        loss = SOPAsLoss(3, tau, gamma=0.5)
        found = [loss(values, labels, index) for _ in range(2)][1]
        gap = values[1:].detach() - values[0].detach()
        expected = tau * (torch.logsumexp(squared_hinge(gap).double() / tau, 0) - math.log(2))
        assert float(found.detach()) == pytest.approx(float(expected), rel=1e-5)
        (gradient,) = torch.autograd.grad(found, values)
        assert torch.isfinite(gradient).all()
        assert float(gradient[0]) < 0 < float(gradient[1])


def test_the_first_visit_is_not_a_visit_from_zero() -> None:
    # LibAUC starts at u = 0: its first weights at gamma = 0.1 are ten times too large.
    draw = draws(1)[0]
    check_same(draw.call(SOPAsLoss(SAMPLES, gamma=0.1)), draw.call(SOPAsLoss(SAMPLES, gamma=1.0)), draw.scores)


def test_several_labels_are_losses_of_their_own() -> None:
    check_labels_are_losses_of_their_own(
        SOPAsLoss(SAMPLES, 0.5, gamma=0.3, num_labels=3), lambda: SOPAsLoss(SAMPLES, 0.5, gamma=0.3)
    )


def test_evaluation_is_that_of_the_batch_and_writes_nothing() -> None:
    check_evaluation(SOPAsLoss(SAMPLES, 0.5, gamma=0.3), SOPAsLoss(1, 0.5, gamma=1.0))


def test_one_class_only() -> None:
    check_one_class_only(lambda: SOPAsLoss(SAMPLES))


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"`tau` must be a positive number. Found 0"):
        SOPAsLoss(3, 0.0)
    with pytest.raises(ValueError, match=r"`gamma` must be in \(0, 1\].*Found 2"):
        SOPAsLoss(3, gamma=2.0)
    with pytest.raises(ValueError, match="`index` is needed"):
        SOPAsLoss(3)(torch.zeros(3, requires_grad=True), torch.tensor([1, 0, 1]))
    with pytest.raises(IndexError, match=r"`index` must lie in \[0, 3\).*Found 5"):
        SOPAsLoss(3)(torch.zeros(3, requires_grad=True), torch.tensor([1, 0, 1]), torch.tensor([5, 0, 1]))


# One positive with score x and ten negatives with scores 0 to 2.25, two in a batch, and a pull x^2 / 2 that gives the
# objective a minimum. A batch's log of a mean of two is too small on average: without memory x stops short.
NEGATIVES = torch.arange(10, dtype=torch.float64) / 4


def train(gamma: float, steps: int = 1500) -> torch.Tensor:
    """Stochastic gradient descent; the mean over the second half of the steps."""
    rng = torch.Generator().manual_seed(0)
    loss = SOPAsLoss(1, 0.5, gamma=gamma).double()
    x, total = torch.zeros((), dtype=torch.float64).requires_grad_(), 0.0
    for step in range(steps):
        others = NEGATIVES[torch.randperm(10, generator=rng)[:2]]
        value = loss(torch.cat([x.reshape(1), others]), torch.tensor([1, 0, 0]), torch.zeros(3).long()) + x**2 / 2
        x = (x - 0.03 * torch.autograd.grad(value, x)[0]).detach().requires_grad_()
        total = total + x.detach() * (2 * step >= steps)
    return total / (steps / 2)


def test_small_batches_reach_the_optimum_with_memory_and_not_without() -> None:
    grid = torch.linspace(0, 3, 30001, dtype=torch.float64)

    def objective(x: torch.Tensor) -> torch.Tensor:
        pairs = squared_hinge(NEGATIVES - x.unsqueeze(1)) / 0.5
        return 0.5 * (torch.logsumexp(pairs, 1) - math.log(10)) + x**2 / 2

    gaps = objective(torch.stack([train(0.02), train(1.0)])) - objective(grid).min()
    assert 0 <= gaps[0] < gaps[1] / 10
