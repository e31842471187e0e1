"""SOTAsLoss: Eq. 6.33 and the lines of Alg. 32, pair by pair."""

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

from guidestar.losses import SOTAsLoss
from guidestar.ranking.positive_rows import positive_rows
from guidestar.surrogates import logistic, squared_hinge

paths = pytest.mark.parametrize("path", ["matrix", "closed", "tiles"])
surrogates = pytest.mark.parametrize("surrogate", [squared_hinge, logistic])


@paths
@surrogates
def test_gammas_of_one_are_the_objective_6_33_of_the_batch(surrogate, path, monkeypatch) -> None:
    set_paths(monkeypatch, path)
    loss = SOTAsLoss(SAMPLES, 0.5, 0.8, gamma_inner=1.0, gamma_outer=1.0, surrogate=surrogate)
    for draw in draws(3):
        powers = []
        for i in draw.positives:
            pairs = torch.stack([draw.pair(surrogate, i, j) for j in draw.negatives])
            powers.append(torch.exp(pairs / 0.5).mean() ** (0.5 / 0.8))
        check_same(draw.call(loss), 0.8 * torch.log(torch.stack(powers).mean()), draw.scores)
    assert not [name for name in loss.state_dict() if name.endswith("values")]


@paths
@surrogates
@pytest.mark.parametrize("gammas", [(0.9, 0.9), (0.2, 0.6)])
def test_algorithm_32(surrogate, gammas, path, monkeypatch) -> None:
    set_paths(monkeypatch, path)
    tau2, tau1 = 0.7, 1.1
    loss = SOTAsLoss(SAMPLES, tau2, tau1, gamma_inner=gammas[0], gamma_outer=gammas[1], surrogate=surrogate).double()
    u: dict[int, float] = {}
    v: dict[int, float] = {}
    for draw in draws(6):
        size = len(draw.positives) * len(draw.negatives)
        for i in draw.positives:  # steps 4 to 6
            mixed(u, draw.index[i], mean_exp(draw, surrogate, i, tau2), gammas[0])
        own = {i: u[draw.index[i]] for i in draw.positives}
        mixed(v, 0, sum(average ** (tau2 / tau1) for average in own.values()) / len(own), gammas[1])  # step 8
        p = {}
        for i in draw.positives:  # step 9
            for j in draw.negatives:
                weight = math.exp(float(draw.pair(surrogate, i, j).detach()) / tau2)
                p[i, j] = weight * own[i] ** (tau2 / tau1 - 1) / v[0] / size
        check_step(draw.call(loss), draw, tau1 * math.log(v[0]), estimator(draw, surrogate, p))
        values, seen = loss.inner.tracker.remembered()
        assert {row: pytest.approx(math.exp(values[row]), rel=1e-10) for row in range(SAMPLES) if seen[row]} == u
        assert math.exp(loss.outer.tracker.memory.values) == pytest.approx(v[0], rel=1e-10)


def test_scores_that_overflow_a_linear_average() -> None:
    # LibAUC: exp((1 + 9)^2) is inf, and the loss NaN.
    scores = torch.tensor([0.0, 1.0, 9.0, -1.0], requires_grad=True)
    loss = SOTAsLoss(4, gamma_inner=0.5, gamma_outer=0.5)
    for _ in range(2):
        found = loss(scores, torch.tensor([1, 1, 0, 0]), torch.arange(4))
        assert float(found.detach()) == pytest.approx(100 - math.log(4), rel=1e-5)
        assert torch.isfinite(torch.autograd.grad(found, scores)[0]).all()


def test_several_labels_are_losses_of_their_own() -> None:
    settings = {"gamma_inner": 0.3, "gamma_outer": 0.6}
    check_labels_are_losses_of_their_own(
        SOTAsLoss(SAMPLES, 0.5, 0.8, num_labels=3, **settings), lambda: SOTAsLoss(SAMPLES, 0.5, 0.8, **settings)
    )


def test_rows_of_the_positives_alone_are_enough() -> None:
    truth = torch.tensor([[1, 0, 0], [0, 1, 0], [1, 0, 1], [0, 0, 0], [0, 1, 0]])
    rows = positive_rows(truth)
    dense, sparse = SOTAsLoss(5, num_labels=3).double(), SOTAsLoss(2, num_labels=3).double()  # 5 positives, 3 labels
    for seed in range(3):
        rng = torch.Generator().manual_seed(seed)
        scores = torch.randn(5, 3, generator=rng, dtype=torch.float64).requires_grad_()
        check_same(sparse(scores, truth, rows), dense(scores, truth, torch.arange(5)), scores)


def test_evaluation_is_that_of_the_batch_and_writes_nothing() -> None:
    check_evaluation(SOTAsLoss(SAMPLES, 0.5, 0.8), SOTAsLoss(1, 0.5, 0.8, gamma_inner=1.0, gamma_outer=1.0))


def test_one_class_only() -> None:
    check_one_class_only(lambda: SOTAsLoss(SAMPLES))


def test_errors() -> None:
    for name in ("tau_inner", "tau_outer"):
        with pytest.raises(ValueError, match=rf"`{name}` must be a positive number. Found 0"):
            SOTAsLoss(3, **{name: 0.0})
    for name in ("gamma_inner", "gamma_outer"):
        with pytest.raises(ValueError, match=r"`gamma` must be in \(0, 1\].*Found 0"):
            SOTAsLoss(3, **{name: 0.0})
    scores = torch.zeros(4, 2, requires_grad=True)
    labels = torch.tensor([[1, 1], [0, 0], [1, 0], [0, 1]])
    with pytest.raises(ValueError, match="`index` is needed"):
        SOTAsLoss(4, num_labels=2)(scores, labels)
    with pytest.raises(ValueError, match=r"`num_labels` must be the number of columns of `scores`, 2. Found 3"):
        SOTAsLoss(4, num_labels=3)(scores, labels, torch.arange(4))
