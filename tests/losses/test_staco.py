"""STACOLoss: Eq. 6.32 in its min-max form and the lines of Alg. 31, pair by pair."""

from __future__ import annotations

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
    set_paths,
)

from guidestar import TopK
from guidestar.losses import PairwiseAUCLoss, STACOLoss, TwoWayPartialAUCLoss
from guidestar.surrogates import logistic, squared_hinge


@pytest.mark.parametrize("path", ["matrix", "closed", "tiles"])
@pytest.mark.parametrize("surrogate", [squared_hinge, logistic])
@pytest.mark.parametrize(("alpha", "beta"), [(0.5, 0.5), (0.75, 0.2), (0.0, 1.0)])
def test_algorithm_31(surrogate, alpha, beta, path, monkeypatch) -> None:
    # The book's lines, but for the sign of the y step; k2 / n- = beta, k1 / n+ = 1 - alpha.
    set_paths(monkeypatch, path)
    lr, lr_outer, lr_weight = 0.25, 0.15, 0.2
    eta1, eta1_outer, eta2 = lr / beta, lr_outer / ((1 - alpha) * beta), lr_weight / beta
    loss = STACOLoss(SAMPLES, alpha, beta, lr=lr, lr_outer=lr_outer, lr_weight=lr_weight, surrogate=surrogate).double()
    y, nu, outer = dict.fromkeys(range(SAMPLES), 1 - alpha), dict.fromkeys(range(SAMPLES), 0.0), 0.0
    moved = set()
    for draw in draws(8):
        b1, b2 = len(draw.positives), len(draw.negatives)
        value, weights, total = 0.0, {}, 0.0
        for i in draw.positives:
            row = draw.index[i]
            pairs = {j: float(draw.pair(surrogate, i, j).detach()) for j in draw.negatives}
            p = {j: float(pair > nu[row]) for j, pair in pairs.items()}  # step 4
            g = sum(max(pair - nu[row], 0.0) for pair in pairs.values()) / b2 + beta * (nu[row] - outer)
            y[row] = min(max(y[row] + eta2 * g, 0.0), 1.0)  # step 6
            value += y[row] * g / b1
            nu[row] -= eta1 * y[row] * (beta - sum(p.values()) / b2)
            total += y[row]
            weights.update({(i, j): y[row] * p[j] / b1 / b2 for j in p})  # step 10
            moved |= {y[row] not in (0.0, 1.0)}
        value += (1 - alpha) * beta * outer  # Eq. 6.32
        outer -= eta1_outer * ((1 - alpha) * beta - beta * total / b1)  # step 9
        scale = (1 - alpha) * beta
        check_step(draw.call(loss), draw, value / scale, estimator(draw, surrogate, weights) / scale)
        for dual, expected in ((loss.weight, y), (loss.threshold, nu), (loss.outer, {0: outer})):
            values = torch.tensor(list(expected.values()), dtype=torch.float64)
            torch.testing.assert_close(dual.memory.values, values, rtol=1e-10, atol=1e-10)
    assert alpha == 0.0 or True in moved


def test_the_first_step_is_that_of_all_positives_alike() -> None:
    # Not 1 / (1 - alpha) times it, as with weights that start at 1.
    draw = draws(1)[0]
    first = draw.call(STACOLoss(SAMPLES, 0.875, 1.0, lr_weight=1e-12))
    check_same(first, draw.call(PairwiseAUCLoss()), draw.scores)


def test_the_saddle_point_is_equation_6_29() -> None:
    # Five positives and seven negatives: k1 = 2 and k2 = 3 of them. Thresholds and weights that have moved over batches
    # of two and three give the value and, on average, the gradient of the whole data's top pairs.
    rng = torch.Generator().manual_seed(0)
    scores = torch.randn(SAMPLES, generator=rng, dtype=torch.float64).requires_grad_()
    labels = (torch.arange(SAMPLES) < 5).long()
    loss = STACOLoss(SAMPLES, 0.6, 3 / 7, lr=0.02, lr_outer=0.01, lr_weight=0.02).double()
    values, gradients = [], []
    for step in range(1600):
        rows = torch.cat([torch.randperm(5, generator=rng)[:2], 5 + torch.randperm(7, generator=rng)[:3]])
        found = loss(scores[rows], labels[rows], rows)
        if step >= 600:
            values.append(found.detach())
            gradients.append(torch.autograd.grad(found, scores)[0])
    exact = loss.eval()(scores, labels)
    assert float(torch.stack(values).mean()) == pytest.approx(float(exact.detach()), rel=0.05)
    (gradient,) = torch.autograd.grad(exact, scores)
    mean = torch.stack(gradients).mean(0)
    assert float((mean - gradient).norm()) < 0.25 * float(gradient.norm())
    # The mini-batch's own top pairs are far from it.
    rows = [
        torch.cat([torch.randperm(5, generator=rng)[:2], 5 + torch.randperm(7, generator=rng)[:3]]) for _ in range(500)
    ]
    batches = torch.stack([loss(scores[each], labels[each]).detach() for each in rows])
    assert abs(float(batches.mean()) - float(exact.detach())) > 0.15 * float(exact.detach())


def test_several_labels_are_losses_of_their_own() -> None:
    check_labels_are_losses_of_their_own(
        STACOLoss(SAMPLES, 0.5, 0.4, num_labels=3), lambda: STACOLoss(SAMPLES, 0.5, 0.4)
    )


def test_evaluation_is_equation_6_29_of_the_batch_and_writes_nothing() -> None:
    check_evaluation(STACOLoss(SAMPLES, 0.4, 0.5), TwoWayPartialAUCLoss(TopK(0.5), TopK(0.6)))


def test_one_class_only() -> None:
    check_one_class_only(lambda: STACOLoss(SAMPLES, 0.5, 0.5))


def test_errors() -> None:
    for alpha in (-0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match=rf"`alpha` is the smallest true positive rate.*Found {alpha}"):
            STACOLoss(3, alpha, 0.5)
    with pytest.raises(ValueError, match=r"`beta` is a share and must be in \(0, 1\]. Found 0"):
        STACOLoss(3, 0.5, 0.0)
    for name in ("lr", "lr_outer", "lr_weight"):
        with pytest.raises(ValueError, match=rf"`{name}` must be a positive number. Found -1"):
            STACOLoss(3, 0.5, 0.5, **{name: -1.0})
    with pytest.raises(ValueError, match="`index` is needed"):
        STACOLoss(3, 0.5, 0.5)(torch.zeros(3, requires_grad=True), torch.tensor([1, 0, 1]))
    with pytest.raises(IndexError, match=r"`index` must lie in \[0, 3\).*Found 3"):
        STACOLoss(3, 0.5, 0.5)(torch.zeros(3, requires_grad=True), torch.tensor([1, 0, 1]), torch.tensor([3, 0, 1]))
