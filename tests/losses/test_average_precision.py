"""AveragePrecisionLoss: Eq. 6.22 and Alg. 28, pair by pair."""

from __future__ import annotations

from functools import partial

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
    labelled,
    mixed,
    set_paths,
)

from guidestar.losses import AveragePrecisionLoss
from guidestar.ranking.positive_rows import positive_rows
from guidestar.surrogates import hinge, logistic, sigmoid, squared_hinge

surrogates = pytest.mark.parametrize("surrogate", [squared_hinge, partial(hinge, margin=0.5), logistic, sigmoid])


def objective(draw, surrogate) -> torch.Tensor:
    """Eq. 6.22 of a batch."""
    terms = []
    for i in draw.positives:
        g1 = sum(draw.pair(surrogate, i, j) for j in draw.positives) / len(draw.index)
        g2 = sum(draw.pair(surrogate, i, j) for j in range(len(draw.index))) / len(draw.index)
        terms.append(-g1 / g2)
    return torch.stack(terms).mean()


@surrogates
@pytest.mark.parametrize("path", ["matrix", "closed", "tiles"])
def test_gamma_of_one_is_the_objective_6_22_of_the_batch(surrogate, path, monkeypatch) -> None:
    set_paths(monkeypatch, path)
    loss = AveragePrecisionLoss(SAMPLES, gamma=1.0, surrogate=surrogate)
    for draw in draws(3):
        check_same(draw.call(loss), objective(draw, surrogate), draw.scores)
    assert not [name for name in loss.state_dict() if name.endswith("values")]


def test_a_steep_surrogate_gives_the_average_precision_itself() -> None:
    # The ranks are then exact, but that a positive counts half in its own: the precision at rank r is (p - 1/2) / (r - 1/2).
    scores = torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0], dtype=torch.float64)
    loss = AveragePrecisionLoss(5, gamma=1.0, surrogate=partial(sigmoid, scale=1e3))
    expected = -(0.5 / 0.5 + 1.5 / 2.5 + 2.5 / 4.5) / 3
    assert float(loss(scores, torch.tensor([1, 0, 1, 0, 1]))) == pytest.approx(expected, rel=1e-12)


@surrogates
@pytest.mark.parametrize("gamma", [0.9, 0.1])
def test_algorithm_28(surrogate, gamma) -> None:
    loss = AveragePrecisionLoss(SAMPLES, gamma=gamma, surrogate=surrogate).double()
    u1, u2 = {}, {}
    for draw in draws(6):
        size, positives = len(draw.index), draw.positives
        value, weights = 0.0, {}
        for i in positives:
            row = draw.index[i]
            pairs = [float(draw.pair(surrogate, i, j).detach()) for j in range(size)]
            first = mixed(u1, row, sum(pairs[j] for j in positives) / size, gamma)
            second = mixed(u2, row, sum(pairs) / size, gamma)
            value -= first / second / len(positives)
            for j in range(size):
                weights[i, j] = (first - second * (j in positives)) / second**2 / size / len(positives)
        check_step(draw.call(loss), draw, value, estimator(draw, surrogate, weights))
        values, seen = loss.tracker.remembered()
        assert {row for row in range(SAMPLES) if seen[row]} == set(u1)
        for row in u1:
            assert values[row].tolist() == pytest.approx([u1[row], u2[row]], rel=1e-10)


def test_the_first_visit_is_not_a_visit_from_zero() -> None:
    # LibAUC starts at u = 0: its first gradient at gamma = 0.1 is ten times that of the objective.
    draw = draws(1)[0]
    found = draw.call(AveragePrecisionLoss(SAMPLES, gamma=0.1))
    check_same(found, objective(draw, squared_hinge), draw.scores)


def test_several_labels_are_losses_of_their_own() -> None:
    check_labels_are_losses_of_their_own(
        AveragePrecisionLoss(SAMPLES, gamma=0.3, num_labels=3), lambda: AveragePrecisionLoss(SAMPLES, gamma=0.3)
    )


def test_rows_of_the_positives_alone_are_enough() -> None:
    truth = torch.stack([labelled(seed)[1][:, 0] for seed in range(3)], dim=1)  # 8 samples, 3 labels
    rows = positive_rows(truth)
    dense = AveragePrecisionLoss(8, gamma=0.3, num_labels=3).double()
    sparse = AveragePrecisionLoss(int((rows >= 0).sum()), gamma=0.3).double()
    for seed in range(4):
        index = torch.randperm(8, generator=torch.Generator().manual_seed(seed))[:6]
        scores = torch.randn(6, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()
        check_same(sparse(scores, truth[index], rows[index]), dense(scores, truth[index], index), scores)
    assert sparse.tracker.memory.values.shape[0] < dense.tracker.memory.values.shape[0] / 2
    with pytest.raises(IndexError, match="Found -1"):
        sparse(scores, 1 - truth[index], rows[index])


def test_a_positive_without_any_surrogate_loss_has_precision_one_and_no_gradient() -> None:
    surrogate = partial(squared_hinge, margin=0.0)
    scores = torch.tensor([3.0, 0.0, -1.0, 1.0], dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([1, 0, 0, 0])
    for gamma in (1.0, 0.5):
        loss = AveragePrecisionLoss(4, gamma=gamma, surrogate=surrogate)
        found = loss(scores, labels, torch.arange(4))
        assert float(found.detach()) == -1.0
        assert not torch.autograd.grad(found, scores)[0].any()
    # A NaN is no zero.
    assert loss(scores.detach() * float("nan"), labels, torch.arange(4)).isnan()


def test_evaluation_is_the_objective_of_the_batch_and_writes_nothing() -> None:
    # LibAUC writes its averages in eval mode and under no_grad.
    check_evaluation(AveragePrecisionLoss(SAMPLES, gamma=0.5), AveragePrecisionLoss(1, gamma=1.0))


def test_one_class_only() -> None:
    check_one_class_only(lambda: AveragePrecisionLoss(SAMPLES, gamma=0.5))


def test_errors() -> None:
    scores, labels = torch.zeros(3), torch.tensor([1, 0, 1])
    with pytest.raises(TypeError, match=r"`surrogate` must be a function of a tensor.*Found str"):
        AveragePrecisionLoss(3, surrogate="squared_hinge")
    with pytest.raises(ValueError, match=r"`gamma` must be in \(0, 1\].*Found 0"):
        AveragePrecisionLoss(3, gamma=0.0)
    with pytest.raises(ValueError, match=r"`num_rows` must be at least 1. Found 0"):
        AveragePrecisionLoss(0)
    loss = AveragePrecisionLoss(3)
    with pytest.raises(ValueError, match="`index` is needed: the tracker has 3 rows"):
        loss(scores.requires_grad_(), labels)
    with pytest.raises(IndexError, match=r"`index` must lie in \[0, 3\).*Found 3"):
        loss(scores, labels, torch.tensor([3, 1, 2]))
    with pytest.raises(ValueError, match=r"`labels` must be 0 or 1.*Found -1"):
        loss(scores, torch.tensor([1, -1, 1]), torch.arange(3))
    with pytest.raises(ValueError, match=r"`num_labels` must be the number of columns of `scores`, 2. Found 1"):
        loss(torch.zeros(3, 2), torch.zeros(3, 2), torch.arange(3))


# Two positives, both in every batch, and six negatives, of which a batch has two; the scores are START + x SLOPE. What
# the batches estimate on average has its optimum in x at 1.16, the ratio of their own estimates at 1.67 on average.
START = torch.tensor([0.1, -0.4, -0.8, -0.2, -0.4, -2.8, 1.4, 0.5], dtype=torch.float64)
SLOPE = torch.tensor([0.7, 0.1, -1.1, 0.1, 1.3, -1.3, -1.0, -1.7], dtype=torch.float64)


def expected_objective(x: torch.Tensor) -> torch.Tensor:
    """Eq. 6.22 with the expectations of g_1 and g_2 over the batches (times the batch's size), at many x."""
    s = START + x.unsqueeze(1) * SLOPE
    pairs = torch.relu(1 + s[:, None, :] - s[:, :2, None]).square()
    among_positives = pairs[..., :2].sum(-1)
    return -(among_positives / (among_positives + pairs[..., 2:].sum(-1) * 2 / 6)).mean(-1)


def train(gamma: float, steps: int = 1200) -> torch.Tensor:
    """Stochastic gradient descent; the mean over the second half of the steps."""
    rng = torch.Generator().manual_seed(0)
    loss = AveragePrecisionLoss(8, gamma=gamma).double()
    x, total = torch.ones((), dtype=torch.float64).requires_grad_(), 0.0
    for step in range(steps):
        rows = torch.cat([torch.arange(2), 2 + torch.randperm(6, generator=rng)[:2]])
        value = loss(START[rows] + x * SLOPE[rows], (rows < 2).long(), rows)
        x = (x - 0.2 * torch.autograd.grad(value, x)[0]).detach().requires_grad_()
        total = total + x.detach() * (2 * step >= steps)
    return total / (steps / 2)


def test_small_batches_reach_the_optimum_with_memory_and_not_without() -> None:
    least = expected_objective(torch.linspace(-4, 4, 8001, dtype=torch.float64)).min()
    ends = torch.stack([train(0.03), train(1.0)])
    gaps = expected_objective(ends) - least
    assert 0 <= gaps[0] < gaps[1] / 10
