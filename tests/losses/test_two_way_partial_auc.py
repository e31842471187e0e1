"""TwoWayPartialAUCLoss: a risk over the positives of risks over their negatives, written out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from written_out_ranks import (
    SAMPLES,
    check_evaluation,
    check_labels_are_losses_of_their_own,
    check_one_class_only,
    check_same,
    draws,
    labelled,
)

from guidestar import KL, ChiSquare, CVaR, KLBall, Mean, TopK
from guidestar.losses import PartialAUCLoss, TwoWayPartialAUCLoss
from guidestar.surrogates import hinge, logistic, squared_hinge

INNER = {
    "TopK": lambda: TopK(0.5),
    "KL": lambda: KL(0.5, SAMPLES, 0.3),
    "CVaR": lambda: CVaR(0.4, num_rows=SAMPLES, lr=0.25),
}
OUTER = {
    "TopK": lambda: TopK(0.6),
    "KL": lambda: KL(0.7, 1, 0.4),
    "CVaR": lambda: CVaR(0.6, lr=0.25),
    "KLBall": lambda: KLBall(0.2, lr=0.1),
    "ChiSquare": lambda: ChiSquare(0.3),
}


@pytest.mark.parametrize("surrogate", [squared_hinge, logistic])
@pytest.mark.parametrize("outer", OUTER)
@pytest.mark.parametrize("inner", INNER)
def test_two_risks_are_those_of_a_matrix(inner, outer, surrogate) -> None:
    loss = TwoWayPartialAUCLoss(INNER[inner](), OUTER[outer](), surrogate).double()
    rows, column = INNER[inner]().double(), OUTER[outer]().double()
    for draw in draws(4):
        pairs = [torch.stack([draw.pair(surrogate, i, j) for j in draw.negatives]) for i in draw.positives]
        index = None if inner == "TopK" else torch.tensor([draw.index[i] for i in draw.positives])
        expected: Tensor = column(rows(torch.stack(pairs), index))
        check_same(draw.call(loss), expected, draw.scores)
    for risk, reference in ((loss.inner, rows), (loss.outer, column)):
        for name, value in reference.state_dict().items():
            torch.testing.assert_close(risk.state_dict()[name], value, rtol=1e-10, atol=1e-10)


def test_top_shares_are_equation_6_29() -> None:
    # k1 = 2 of 4 positives, those with the lowest scores, and k2 = 2 of 4 negatives, those with the highest.
    draw = draws(3)[2]
    scores = draw.scores.tolist()
    lowest = sorted(draw.positives, key=lambda i: scores[i])[:2]
    highest = sorted(draw.negatives, key=lambda j: -scores[j])[:2]
    expected = torch.stack([draw.pair(hinge, i, j) for i in lowest for j in highest]).mean()
    check_same(draw.call(TwoWayPartialAUCLoss(TopK(0.5), TopK(0.5), hinge)), expected, draw.scores)


def test_the_mean_over_the_positives_is_one_way() -> None:
    for draw in draws(3):
        two, one = TwoWayPartialAUCLoss(TopK(0.5), Mean()), PartialAUCLoss(TopK(0.5))
        check_same(draw.call(two), draw.call(one), draw.scores)


def test_several_labels_are_losses_of_their_own() -> None:
    for outer in (lambda rows: KL(0.5, rows, 0.3), lambda rows: CVaR(0.5, num_rows=rows)):
        check_labels_are_losses_of_their_own(
            TwoWayPartialAUCLoss(KL(0.5, 3 * SAMPLES, 0.3), outer(3)),
            lambda outer=outer: TwoWayPartialAUCLoss(KL(0.5, SAMPLES, 0.3), outer(1)),
        )


@pytest.mark.parametrize("outer", [TopK(0.6), Mean(), ChiSquare(0.2)])
def test_several_labels_of_risks_without_rows(outer) -> None:
    scores, truth, _ = labelled(0)
    loss = TwoWayPartialAUCLoss(TopK(0.5), outer)
    values = [loss(*(x[~truth[:, n].isnan(), n] for x in (scores, truth))) for n in range(3)]
    check_same(loss(scores, truth), torch.stack(values).mean(), scores)


def test_evaluation_is_the_objective_of_the_batch_and_writes_nothing() -> None:
    check_evaluation(
        TwoWayPartialAUCLoss(KL(0.5, SAMPLES, 0.3), KL(0.7, 1, 0.3)), TwoWayPartialAUCLoss(KL(0.5), KL(0.7))
    )


def test_one_class_only() -> None:
    check_one_class_only(lambda: TwoWayPartialAUCLoss(CVaR(0.5, num_rows=SAMPLES), KL(0.5, 1, 0.5)))


def test_errors() -> None:
    with pytest.raises(TypeError, match=r"`risk` must be a risk such as KL.*Found str"):
        TwoWayPartialAUCLoss("SOTAs", Mean())
    with pytest.raises(TypeError, match=r"`risk` must be a risk such as KL.*Found float"):
        TwoWayPartialAUCLoss(Mean(), 0.5)
    with pytest.raises(TypeError, match=r"`surrogate` must be a function of a tensor.*Found str"):
        TwoWayPartialAUCLoss(Mean(), Mean(), "hinge")
    scores, truth, index = labelled(0)
    with pytest.raises(IndexError, match=r"`index` must lie in \[0, 1\).*Found 2"):
        TwoWayPartialAUCLoss(Mean(), CVaR(0.5))(scores, truth, index)
