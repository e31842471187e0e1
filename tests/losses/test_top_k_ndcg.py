"""K-SONG: `NDCGLoss` with `top_k`, by ranks (6.36) and by thresholds (6.37)."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from guidestar.losses import NDCGLoss, RankInclusion, ThresholdInclusion
from guidestar.ranking.queries import ideal_dcg
from guidestar.surrogates import squared_hinge

DOUBLE = {"dtype": torch.float64}
TIGHT = {"rtol": 1e-10, "atol": 1e-10}


def step(t: Tensor) -> Tensor:
    return (t >= 0).to(t.dtype)


def positive(t: Tensor) -> Tensor:
    return (t > 0).to(t.dtype)


def lists(seed: int, queries: int = 3, items: int = 8) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    relevance = torch.randint(4, (queries, items), generator=rng)
    relevance[:, 0] = 2
    return torch.randn(queries, items, generator=rng, **DOUBLE), relevance


def metric(scores: Tensor, relevance: Tensor, top_k: int) -> float:
    values = []
    for row, grades in zip(scores, relevance, strict=True):
        ordered = grades[row.argsort(descending=True)].tolist()
        found, best = (
            sum((2**grade - 1) / math.log2(place + 2) for place, grade in enumerate(some[:top_k]))
            for some in (ordered, sorted(grades.tolist(), reverse=True))
        )
        values.append(found / best)
    return sum(values) / len(values)


def terms(scores: Tensor, relevance: Tensor, top_k: int):
    """For each relevant item, as loops: its query, the item, its surrogate rank, and its term of 6.34."""
    ideal = ideal_dcg(relevance.double(), top_k)
    for q, i in (relevance > 0).nonzero().tolist():
        rank = sum(squared_hinge(other - scores[q, i]) for other in scores[q])
        yield q, i, rank, (1 - 2 ** int(relevance[q, i])) / (ideal[q] * torch.log2(rank + 1))


@pytest.mark.parametrize("top_k", [1, 3, 8, 20])
@pytest.mark.parametrize("seed", [0, 1])
def test_with_step_functions_it_is_minus_the_top_k_ndcg(seed, top_k) -> None:
    scores, relevance = lists(seed)
    expected = pytest.approx(-metric(scores, relevance, top_k), abs=1e-12)
    by_rank = NDCGLoss(gamma=1.0, surrogate=step, top_k=top_k, inclusion=RankInclusion(psi=step))
    assert float(by_rank(scores, relevance)) == expected
    inclusion = ThresholdInclusion(3, psi=positive)
    by_threshold = NDCGLoss(gamma=1.0, surrogate=step, top_k=top_k, inclusion=inclusion).eval()
    assert float(by_threshold(scores, relevance)) == expected


def test_inclusion_by_rank_equals_the_written_out_objective() -> None:
    scores, relevance = lists(2)
    left, right = scores.clone().requires_grad_(), scores.clone().requires_grad_()
    value = NDCGLoss(gamma=1.0, top_k=3, inclusion=RankInclusion(temperature=2.0))(left, relevance)
    expected = sum(torch.sigmoid((3 - rank) / 2) * term for _, _, rank, term in terms(right, relevance, 3)) / 3
    torch.testing.assert_close(value, expected, **TIGHT)
    torch.testing.assert_close(*(torch.autograd.grad(f, x)[0] for f, x in ((value, left), (expected, right))), **TIGHT)


def test_inclusion_by_rank_uses_the_tracked_rank() -> None:
    (before, relevance), (scores, _) = lists(2), lists(3)
    loss = NDCGLoss(24, gamma=0.25, top_k=3, inclusion=RankInclusion(2.0)).double()
    index = torch.arange(24).reshape(3, 8)
    loss(before.requires_grad_(), relevance, index)
    value = loss(scores.requires_grad_(), relevance, index)
    ideal, expected, gradient = ideal_dcg(relevance.double(), 3), 0.0, torch.zeros_like(scores)
    old = {(q, i): float(rank.detach()) for q, i, rank, _ in terms(before, relevance, 3)}
    for q, i, rank, _ in terms(scores, relevance, 3):
        u = (0.75 * old[q, i] + 0.25 * rank.detach()).requires_grad_()
        outer = torch.sigmoid((3 - u) / 2) * (1 - 2 ** int(relevance[q, i])) / (ideal[q] * torch.log2(u + 1)) / 3
        expected += float(outer.detach())
        gradient += torch.autograd.grad(outer, u)[0] * torch.autograd.grad(rank, scores)[0]
    assert float(value.detach()) == pytest.approx(expected, abs=1e-10)
    torch.testing.assert_close(torch.autograd.grad(value, scores)[0], gradient, **TIGHT)


@pytest.mark.parametrize(("smoothing", "regularisation"), [(0.0, 0.0), (0.5, 0.1)])
def test_the_practical_update_after_6_37(smoothing, regularisation) -> None:
    # The derivative of Lemma 6.3's objective: a minus before the mean of the indicators, where the book prints a plus.
    inclusion = ThresholdInclusion(
        5, lr=0.5, temperature=0.5, eps=0.25, smoothing=smoothing, regularisation=regularisation
    )
    loss = NDCGLoss(gamma=1.0, top_k=2, inclusion=inclusion).double()
    thresholds = torch.zeros(5, **DOUBLE)
    for seed, rows in enumerate(([4, 0, 2], [2, 4, 1], [1, 0, 4])):
        scores, relevance = lists(seed)
        scores.requires_grad_()
        value = loss(scores, relevance, query_index=torch.tensor(rows))
        for q, row in enumerate(rows):
            above = scores[q].detach() - thresholds[row]
            slope = (above > 0).double() if smoothing == 0 else (above / smoothing).clamp(0, 1)
            thresholds[row] -= 0.5 * (2.25 / 8 + regularisation * thresholds[row] - slope.mean())
        expected = 0.0
        for q, i, _, term in terms(scores, relevance, 2):
            weight = torch.sigmoid((scores[q, i] - thresholds[rows[q]]) / 0.5).detach()
            expected = expected + weight * term / 3
        torch.testing.assert_close(value, expected, **TIGHT)
        torch.testing.assert_close(
            torch.autograd.grad(value, scores)[0], torch.autograd.grad(expected, scores)[0], **TIGHT
        )
    torch.testing.assert_close(inclusion.dual.memory.values, thresholds)


def test_the_threshold_comes_to_the_largest_score_outside_the_top_k() -> None:
    scores, relevance = lists(0)
    inclusion = ThresholdInclusion(3, lr=0.02)
    loss = NDCGLoss(gamma=1.0, top_k=3, inclusion=inclusion)
    for _ in range(600):
        loss(scores.clone().requires_grad_(), relevance, query_index=torch.arange(3))
    expected = scores.sort(descending=True).values[:, 3]
    torch.testing.assert_close(inclusion.dual.memory.values.double(), expected, rtol=0, atol=0.02)


def smooth_threshold(scores: Tensor, top_k: int, smoothing: float, regularisation: float) -> Tensor:
    """The solution of the smoothed and regularised lower problem, by bisection."""
    low, high = torch.full((len(scores),), -50.0, **DOUBLE), torch.full((len(scores),), 50.0, **DOUBLE)
    for _ in range(100):
        middle = (low + high) / 2
        slope = ((scores - middle.unsqueeze(1)) / smoothing).clamp(0, 1).mean(1)
        rises = (top_k + 0.5) / scores.shape[1] + regularisation * middle - slope > 0
        low, high = torch.where(rises, low, middle), torch.where(rises, middle, high)
    return (low + high) / 2


def test_the_full_gradient_is_that_of_the_bilevel_objective() -> None:
    scores, relevance = lists(4)
    smoothing, regularisation = 1.5, 0.2
    inclusion = ThresholdInclusion(
        3, lr=0.5, smoothing=smoothing, regularisation=regularisation, full_gradient=True, gamma=1.0
    )
    loss = NDCGLoss(gamma=1.0, top_k=2, inclusion=inclusion).double()
    for _ in range(400):  # the threshold comes to its solution
        leaf = scores.clone().requires_grad_()
        value = loss(leaf, relevance, query_index=torch.arange(3))
    solution = smooth_threshold(scores, 2, smoothing, regularisation)
    torch.testing.assert_close(inclusion.dual.memory.values, solution, **TIGHT)

    def objective(at: Tensor) -> float:
        threshold = smooth_threshold(at, 2, smoothing, regularisation)
        return float(
            sum(torch.sigmoid(at[q, i] - threshold[q]) * term for q, i, _, term in terms(at, relevance, 2)) / 3
        )

    assert float(value.detach()) == pytest.approx(objective(scores), abs=1e-10)
    gradient = torch.autograd.grad(value, leaf)[0]
    for entry in range(scores.numel()):
        shift = torch.zeros_like(scores)
        shift.view(-1)[entry] = 1e-5
        slope = (objective(scores + shift) - objective(scores - shift)) / 2e-5
        assert float(gradient.view(-1)[entry]) == pytest.approx(slope, abs=1e-7)


def test_lists_that_are_not_longer_than_k_are_the_top_as_a_whole() -> None:
    scores, relevance = lists(0)
    mask = torch.ones(3, 8, dtype=torch.bool)
    mask[1, 4:] = False
    for inclusion in (RankInclusion(psi=torch.zeros_like), ThresholdInclusion(3, lr=0.5, psi=torch.zeros_like)):
        loss = NDCGLoss(gamma=1.0, top_k=4, inclusion=inclusion)
        leaf = scores.clone().requires_grad_()
        value = loss(leaf, relevance, mask=mask, query_index=torch.arange(3))
        expected = NDCGLoss(gamma=1.0)(scores[1:2, :4], relevance[1:2, :4]) / 3
        torch.testing.assert_close(value.detach(), expected)
    moved = loss.inclusion.dual.memory.values != 0
    assert moved.tolist() == [True, False, True]


def test_sampled_lists_are_evaluated_at_their_share_of_k() -> None:
    # 4 of 8 items stand for a list of 16: the top 4 of it are the top 1 here.
    scores = torch.tensor([[0.0, 3.0, 1.0, 2.0]], **DOUBLE)
    inclusion = ThresholdInclusion(1, psi=positive)
    loss = NDCGLoss(gamma=1.0, surrogate=step, top_k=4, inclusion=inclusion).eval()
    sizes = {"query_sizes": torch.tensor([16]), "ideal_dcg": torch.ones(1)}
    assert float(loss(scores, torch.tensor([[0, 1, 0, 0]]), **sizes)) == pytest.approx(-1 / math.log2(5))
    assert float(loss(scores, torch.tensor([[0, 0, 0, 1]]), **sizes)) == 0.0


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: NDCGLoss(top_k=5), ValueError, "`top_k` and `inclusion` go together.*top_k=5 and inclusion=None"),
        (lambda: NDCGLoss(inclusion=RankInclusion()), ValueError, "`top_k` and `inclusion` go together"),
        (
            lambda: NDCGLoss(top_k=0, inclusion=RankInclusion()),
            ValueError,
            "`top_k` must be a whole number, at least 1",
        ),
        (lambda: NDCGLoss(top_k=5, inclusion=RankInclusion), TypeError, "such as .*Found RankInclusion"),
        (lambda: NDCGLoss(top_k=5, inclusion="rank"), TypeError, "Found str"),
        (lambda: RankInclusion(0.0), ValueError, "`temperature` must be a positive number"),
        (lambda: ThresholdInclusion(3, temperature=-1.0), ValueError, "`temperature` must be a positive number"),
        (lambda: ThresholdInclusion(3, eps=1.0), ValueError, r"`eps` must be in \(0, 1\)"),
        (lambda: ThresholdInclusion(3, smoothing=-1.0), ValueError, "`smoothing` must be 0"),
        (lambda: ThresholdInclusion(3, regularisation=float("inf")), ValueError, "`regularisation` must be 0"),
        (lambda: ThresholdInclusion(3, full_gradient=True), ValueError, "`full_gradient` needs `smoothing` and"),
    ],
)
def test_impossible_settings(make, error, message) -> None:
    with pytest.raises(error, match=message):
        make()


def test_bad_input() -> None:
    scores, relevance = lists(0)
    scores.requires_grad_()
    loss = NDCGLoss(gamma=1.0, top_k=2, inclusion=ThresholdInclusion(3))
    with pytest.raises(ValueError, match="`query_index` is needed"):
        loss(scores, relevance)
    with pytest.raises(ValueError, match=r"`query_index` must have one entry a query, shape \[3\]. Found \(2,\)"):
        loss(scores, relevance, query_index=torch.arange(2))
    with pytest.raises(IndexError, match=r"`index` must lie in \[0, 3\).*Found 3"):
        loss(scores, relevance, query_index=torch.arange(3) + 1)
