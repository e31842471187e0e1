from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from guidestar.losses import ListwiseCrossEntropyLoss

TIGHT = {"rtol": 1e-10, "atol": 1e-10}


def batch(seed: int) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    relevance = torch.randint(3, (3, 5), generator=rng)
    relevance[:, 2] = 1
    return 2 * torch.randn(3, 5, generator=rng, dtype=torch.float64), relevance


def test_whole_lists_have_the_list_wise_cross_entropy() -> None:
    scores, relevance = batch(0)
    left, right = scores.clone().requires_grad_(), scores.clone().requires_grad_()
    value = ListwiseCrossEntropyLoss(gamma=1.0)(left, relevance)
    expected = -torch.log_softmax(right, dim=1)[relevance > 0].mean()
    torch.testing.assert_close(value, expected, **TIGHT)
    torch.testing.assert_close(*(torch.autograd.grad(f, x)[0] for f, x in ((value, left), (expected, right))), **TIGHT)


def test_lists_of_different_lengths() -> None:
    scores, relevance = batch(1)
    mask = torch.ones(3, 5, dtype=torch.bool)
    mask[1, 3:] = False
    expected = torch.cat(
        [
            -torch.log_softmax(row[keep], 0)[grade[keep] > 0]
            for row, keep, grade in zip(scores, mask, relevance, strict=True)
        ]
    )
    scores[1, 3:] = torch.nan
    value = ListwiseCrossEntropyLoss(gamma=1.0)(scores, relevance, mask=mask)
    torch.testing.assert_close(value, expected.mean(), **TIGHT)


def test_its_steps_written_out() -> None:
    gamma, memory = 0.3, {}
    loss = ListwiseCrossEntropyLoss(50, gamma).double()
    for seed, queries in enumerate(([0, 3, 7], [3, 7, 1], [1, 0, 3])):
        scores, relevance = batch(seed)
        scores.requires_grad_()
        index = torch.tensor(queries).unsqueeze(1) * 5 + torch.arange(5)
        value = loss(scores, relevance, index, query_sizes=torch.tensor([30, 40, 50]))
        pairs = (relevance > 0).nonzero().tolist()
        objective, estimator = 0.0, torch.zeros_like(scores)
        for q, i in pairs:
            inner = torch.exp(scores[q] - scores[q, i]).mean()
            row, u = int(index[q, i]), float(inner.detach())
            u = (1 - gamma) * memory[row] + gamma * u if row in memory else u
            memory[row] = u
            objective += (math.log([30, 40, 50][q]) + math.log(u)) / len(pairs)
            estimator += torch.autograd.grad(inner, scores)[0] / u / len(pairs)
        assert float(value.detach()) == pytest.approx(objective, abs=1e-10)
        torch.testing.assert_close(torch.autograd.grad(value, scores)[0], estimator, **TIGHT)


def test_what_is_remembered_does_not_depend_on_the_rest_of_the_batch() -> None:
    # A second query whose scores lie far apart: an average taken after subtracting a maximum over the batch would mix
    # two scales in the first query's row.
    scores, relevance = batch(0)
    alone, beside = (ListwiseCrossEntropyLoss(50, 0.5) for _ in range(2))
    index = torch.arange(10).reshape(2, 5)
    for step in range(3):
        wide = torch.stack([scores[0], scores[1] * 50 * (step == 1)])
        expected = alone(scores[:1].clone().requires_grad_(), relevance[:1], index[:1])
        beside(wide.requires_grad_(), relevance[:2], index)
    torch.testing.assert_close(beside.tracker.memory.values[:5], alone.tracker.memory.values[:5])
    exact = -torch.log_softmax(scores[0], 0)[relevance[0] > 0].mean()
    torch.testing.assert_close(expected.detach(), exact, rtol=1e-6, atol=1e-6)


def test_far_scores_neither_overflow_nor_vanish() -> None:
    scores = torch.tensor([[1000.0, 0.0, -1000.0]], requires_grad=True)
    loss = ListwiseCrossEntropyLoss(3, 0.5)
    for _ in range(2):
        value = loss(scores, torch.tensor([[0, 0, 1]]), torch.arange(3).reshape(1, 3))
    assert float(value.detach()) == pytest.approx(2000.0)
    gradient = torch.autograd.grad(value, scores)[0]
    torch.testing.assert_close(gradient, torch.tensor([[1.0, 0.0, -1.0]]))


def test_queries_with_nothing_to_learn_from() -> None:
    scores, relevance = batch(2)
    loss = ListwiseCrossEntropyLoss(gamma=1.0)
    expected = loss(scores, relevance)
    more = torch.cat([scores, torch.zeros(2, 5)])
    mask = torch.ones(5, 5, dtype=torch.bool)
    mask[4, 1:] = False
    value = loss(more, torch.cat([relevance, torch.tensor([[0] * 5, [1] * 5])]), mask=mask)
    torch.testing.assert_close(value, expected)
    assert loss.metrics() == {"empty": 2.0}
    assert float(loss(torch.zeros(1, 5), torch.zeros(1, 5))) == 0.0
    assert loss(torch.full((1, 5), torch.nan), torch.zeros(1, 5)).isnan()


def test_evaluation_needs_no_rows() -> None:
    scores, relevance = batch(0)
    loss = ListwiseCrossEntropyLoss(50, 0.5).eval()
    torch.testing.assert_close(loss(scores, relevance), ListwiseCrossEntropyLoss(gamma=1.0)(scores, relevance))


def test_bad_input() -> None:
    scores, relevance = batch(0)
    scores.requires_grad_()
    loss = ListwiseCrossEntropyLoss(15, 0.5)
    with pytest.raises(ValueError, match="`index` is needed with gamma < 1"):
        loss(scores, relevance)
    with pytest.raises(ValueError, match=r"`scores` and `relevance` must both have shape \[Q, M\]"):
        loss(scores, relevance[0], torch.arange(15).reshape(3, 5))
    with pytest.raises(IndexError, match=r"`index` must lie in \[0, 15\)"):
        loss(scores, relevance, torch.arange(15).reshape(3, 5) + 3)
    with pytest.raises(ValueError, match="`query_sizes` must not be smaller than the batch's list"):
        loss(scores, relevance, torch.arange(15).reshape(3, 5), query_sizes=torch.tensor([5, 4, 5]))
    with pytest.raises(ValueError, match="`num_rows` must be at least 1"):
        ListwiseCrossEntropyLoss(0)
