"""SOPALoss: Eq. 6.26 and Alg. 29, pair by pair."""

from __future__ import annotations

import pytest
import torch
from written_out_ranks import (
    SAMPLES,
    check_evaluation,
    check_labels_are_losses_of_their_own,
    check_one_class_only,
    check_step,
    draws,
    estimator,
    set_paths,
)

from guidestar import CVaR, TopK
from guidestar.losses import PartialAUCLoss, SOPALoss
from guidestar.surrogates import logistic, squared_hinge


@pytest.mark.parametrize("path", ["matrix", "closed", "tiles"])
@pytest.mark.parametrize("surrogate", [squared_hinge, logistic])
@pytest.mark.parametrize("beta", [0.5, 0.3])
def test_algorithm_29(surrogate, beta, path, monkeypatch) -> None:
    set_paths(monkeypatch, path)
    lr = 0.25
    loss = SOPALoss(SAMPLES, beta, lr=lr, surrogate=surrogate).double()
    nu = dict.fromkeys(range(SAMPLES), 0.0)
    for draw in draws(6):
        size = len(draw.positives), len(draw.negatives)
        value, p = 0.0, {}
        for i in draw.positives:
            row = draw.index[i]
            pairs = {j: float(draw.pair(surrogate, i, j).detach()) for j in draw.negatives}
            p.update({(i, j): float(pairs[j] > nu[row]) for j in pairs})
            value += beta * nu[row] + sum(max(pair - nu[row], 0.0) for pair in pairs.values()) / size[1]  # Eq. 6.26
            nu[row] -= lr / beta * (beta - sum(p[i, j] for j in pairs) / size[1])  # eta_2 = lr / beta
        z = estimator(draw, surrogate, {pair: p[pair] / size[0] / size[1] for pair in p})
        check_step(draw.call(loss), draw, value / size[0] / beta, z / beta)
        values = loss.risk.dual.memory.values
        torch.testing.assert_close(values, torch.tensor(list(nu.values()), dtype=values.dtype), rtol=1e-10, atol=1e-10)


def test_the_thresholds_find_the_tail_that_no_batch_holds() -> None:
    # One positive against 20 negatives of which 4 count, two of them in a batch: its threshold ends between the 4th and
    # the 5th largest loss, whatever the batches, and F is then Eq. 6.23 of all data.
    scores = torch.cat([torch.zeros(1), torch.linspace(-3, 3, 20)]).double()
    labels = (torch.arange(21) == 0).long()
    loss = SOPALoss(1, 0.2, lr=0.05).double()
    rng = torch.Generator().manual_seed(0)
    for _ in range(600):
        rows = torch.cat([torch.zeros(1).long(), 1 + torch.randperm(20, generator=rng)[:2]])
        loss(scores[rows].requires_grad_(), labels[rows], torch.zeros(3).long())
    pairs = squared_hinge(scores[1:]).sort(descending=True).values
    nu = float(loss.risk.dual.memory.values)
    assert float(pairs[4]) - 0.2 < nu < float(pairs[3]) + 0.2
    everything = PartialAUCLoss(CVaR(0.2, lr=0.05)).double()
    everything.risk.dual.memory.values.fill_(nu)
    assert float(everything(scores, labels)) == pytest.approx(float(pairs[:4].mean()), rel=1e-2)
    # The mini-batch baseline takes the larger of any two for the tail: it is off by far.
    batch = PartialAUCLoss(TopK(0.2))
    means = [batch(scores[[0, 1 + j, 1 + k]], labels[[0, 1 + j, 1 + k]]) for j in range(20) for k in range(j)]
    assert float(torch.stack(means).mean()) < 0.75 * float(pairs[:4].mean())


def test_several_labels_are_losses_of_their_own() -> None:
    check_labels_are_losses_of_their_own(SOPALoss(SAMPLES, 0.4, num_labels=3), lambda: SOPALoss(SAMPLES, 0.4))


def test_evaluation_is_that_of_the_batch_and_writes_nothing() -> None:
    check_evaluation(SOPALoss(SAMPLES, 0.4), PartialAUCLoss(TopK(0.4)))


def test_one_class_only() -> None:
    check_one_class_only(lambda: SOPALoss(SAMPLES, 0.4))


def test_errors() -> None:
    for beta in (0.0, 1.5):
        with pytest.raises(ValueError, match=rf"`beta` is a share and must be in \(0, 1\]. Found {beta}"):
            SOPALoss(3, beta)
    with pytest.raises(ValueError, match=r"`lr` must be positive and finite. Found 0"):
        SOPALoss(3, 0.5, lr=0.0)
    with pytest.raises(TypeError, match=r"`surrogate` must be a function of a tensor.*Found float"):
        SOPALoss(3, 0.5, surrogate=1.0)
    with pytest.raises(ValueError, match="`index` is needed"):
        SOPALoss(3, 0.5)(torch.zeros(3, requires_grad=True), torch.tensor([1, 0, 1]))
    with pytest.raises(ValueError, match=r"`num_labels` must be the number of columns of `scores`, 2. Found 1"):
        SOPALoss(3, 0.5)(torch.zeros(3, 2), torch.zeros(3, 2), torch.arange(3))
