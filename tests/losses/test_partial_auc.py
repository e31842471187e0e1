"""PartialAUCLoss: any risk over the negatives of a positive, written out, and by every path."""

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
    set_paths,
)

from guidestar import KL, ChiSquare, CVaR, KLBall, Mean, TopK
from guidestar.losses import PairwiseAUCLoss, PartialAUCLoss, TwoWayPartialAUCLoss
from guidestar.risks.base import Risk, Rows
from guidestar.surrogates import hinge, logistic, squared_hinge

PATHS = ["matrix", "closed", "tiles"]


def one_by_one(draw, risk: Risk, surrogate) -> Tensor:
    """The mean of the risk of each positive's row of pairwise losses, whose rows are given to the risk itself."""
    losses = [torch.stack([draw.pair(surrogate, i, j) for j in draw.negatives]) for i in draw.positives]
    index = torch.tensor([draw.index[i] for i in draw.positives])
    stateful = any(name.endswith("values") for name in risk.state_dict())
    return risk(torch.stack(losses), index if stateful else None).mean()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("surrogate", [squared_hinge, hinge, logistic])
@pytest.mark.parametrize(
    "make",
    [
        Mean,
        lambda: TopK(0.3),
        lambda: KL(0.5),
        lambda: KL(0.5, SAMPLES, 0.3),
        lambda: CVaR(0.3, num_rows=SAMPLES, lr=0.5),
        lambda: CVaR(0.3, num_rows=SAMPLES, lr=0.5, smoothing=0.25),
        lambda: ChiSquare(0.4),
        lambda: KLBall(0.3, num_rows=SAMPLES, gamma=0.3, per_row=True, lr=0.1),
    ],
    ids=["Mean", "TopK", "KL", "KL rows", "CVaR", "smooth CVaR", "ChiSquare", "KLBall"],
)
def test_every_risk_is_that_of_each_positives_row(make, surrogate, path, monkeypatch) -> None:
    set_paths(monkeypatch, path)
    loss, risk = PartialAUCLoss(make(), surrogate).double(), make().double()
    for draw in draws(4):
        check_same(draw.call(loss), one_by_one(draw, risk, surrogate), draw.scores)
    for name, value in risk.state_dict().items():
        torch.testing.assert_close(loss.risk.state_dict()[name], value, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "make", [lambda rows: KL(0.5, rows, 0.3), lambda rows: CVaR(0.3, num_rows=rows, lr=0.5)], ids=["KL", "CVaR"]
)
def test_several_labels_are_losses_of_their_own(make, path, monkeypatch) -> None:
    set_paths(monkeypatch, path)
    check_labels_are_losses_of_their_own(PartialAUCLoss(make(3 * SAMPLES)), lambda: PartialAUCLoss(make(SAMPLES)))


@pytest.mark.parametrize("risk", [Mean(), TopK(0.3), ChiSquare(0.2), KLBall(0.2, lr=1e-9)])
def test_several_labels_of_risks_without_rows(risk) -> None:
    scores, truth, _ = labelled(0)
    values = [PartialAUCLoss(risk)(*(x[~truth[:, n].isnan(), n] for x in (scores, truth))) for n in range(3)]
    check_same(PartialAUCLoss(risk).double()(scores, truth), torch.stack(values).mean(), scores)


def test_the_top_share_is_the_auc_of_the_hardest_negatives() -> None:
    # Eq. 6.23: k = 2 of 4 negatives, those with the largest scores.
    draw = draws(1)[0]
    hardest = sorted(draw.negatives, key=lambda j: -float(draw.scores[j].detach()))[:2]
    expected = torch.stack([draw.pair(squared_hinge, i, j) for i in draw.positives for j in hardest]).mean()
    check_same(draw.call(PartialAUCLoss(TopK(0.5))), expected, draw.scores)
    check_same(draw.call(PartialAUCLoss(TopK(1.0))), draw.call(PairwiseAUCLoss()), draw.scores)


def test_a_risk_of_ones_own_is_used_as_it_is() -> None:
    class Double(KL):  # must not be taken for the KL that it derives from
        def value(self, rows: Rows) -> Tensor:
            return 2 * super().value(rows)

    draw = draws(1)[0]
    check_same(draw.call(PartialAUCLoss(Double(0.5))), 2 * draw.call(PartialAUCLoss(KL(0.5))), draw.scores)


def test_a_shared_threshold_moves_by_the_mean_of_all_positives() -> None:
    loss, risk = PartialAUCLoss(CVaR(0.3, lr=0.5)).double(), CVaR(0.3, lr=0.5).double()
    for draw in draws(3):
        losses = [torch.stack([draw.pair(squared_hinge, i, j) for j in draw.negatives]) for i in draw.positives]
        check_same(loss(draw.scores, draw.labels), risk(torch.stack(losses)).mean(), draw.scores)
    assert torch.equal(loss.risk.dual.memory.values, risk.dual.memory.values)


def test_evaluation_is_the_objective_of_the_batch_and_writes_nothing() -> None:
    check_evaluation(PartialAUCLoss(KL(0.5, SAMPLES, 0.3)), PartialAUCLoss(KL(0.5)))


@pytest.mark.parametrize(
    "make", [lambda: KL(0.5, SAMPLES, 0.5), lambda: CVaR(0.5, num_rows=SAMPLES), lambda: TopK(0.5)]
)
def test_one_class_only(make) -> None:
    check_one_class_only(lambda: PartialAUCLoss(make()))


def test_a_label_without_positives_in_a_batch_is_no_empty_row_of_the_risk() -> None:
    scores, truth, _ = labelled(0)
    truth[:, 2] = 0.0
    loss = PartialAUCLoss(TopK(0.5))
    loss(scores, truth)
    assert loss.metrics()["empty"] == 1


def test_errors() -> None:
    scores, labels = torch.zeros(3, requires_grad=True), torch.tensor([1, 0, 1])
    with pytest.raises(TypeError, match=r"`risk` must be a risk such as KL.*Found KL"):
        PartialAUCLoss(KL)
    with pytest.raises(TypeError, match=r"`surrogate` must be a function of a tensor.*Found str"):
        PartialAUCLoss(Mean(), "hinge")
    with pytest.raises(ValueError, match="`index` is needed"):
        PartialAUCLoss(KL(0.5, 3, 0.5))(scores, labels)
    with pytest.raises(ValueError, match="`index` is needed"):
        PartialAUCLoss(CVaR(0.5, num_rows=3))(scores, labels)
    with pytest.raises(IndexError, match=r"`index` must lie in \[0, 2\).*Found 2"):
        PartialAUCLoss(CVaR(0.5, num_rows=2))(scores, labels, torch.arange(3))
    with pytest.raises(TypeError, match="`index` must be an int64 tensor"):
        PartialAUCLoss(CVaR(0.5, num_rows=3))(scores, labels, torch.zeros(3))


@pytest.mark.parametrize("wrap", [lambda risk: PartialAUCLoss(risk), lambda risk: TwoWayPartialAUCLoss(risk, Mean())])
def test_other_data_are_evaluated_without_an_index(wrap) -> None:
    scores, labels, _ = labelled(0)
    found = wrap(CVaR(0.3, num_rows=SAMPLES)).double().eval()(scores, labels)
    assert torch.equal(found, wrap(TopK(0.3)).double().eval()(scores, labels))
