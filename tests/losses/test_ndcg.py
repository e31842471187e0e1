from __future__ import annotations

import functools
import math

import pytest
import torch
from torch import Tensor

from guidestar.losses import NDCGLoss
from guidestar.ranking.queries import ideal_dcg
from guidestar.surrogates import hinge, logistic, squared_hinge

LENGTHS = (6, 4, 5, 2)


def step(t: Tensor) -> Tensor:
    return (t >= 0).to(t.dtype)


def batch(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, grades and mask of four lists of different lengths; what is masked is NaN and has a grade."""
    rng = torch.Generator().manual_seed(seed)
    scores = torch.randn(4, 6, generator=rng, dtype=torch.float64)
    relevance = torch.randint(4, (4, 6), generator=rng)
    relevance[:, 1] = torch.tensor([1, 3, 2, 1])
    mask = torch.arange(6) < torch.tensor(LENGTHS).unsqueeze(1)
    return torch.where(mask, scores, torch.nan), relevance, mask


def written_out(scores: Tensor, relevance: Tensor, surrogate, over_pairs: bool = False) -> Tensor:
    """6.34 or 6.35 of whole lists, as loops."""
    total, pairs = torch.zeros((), dtype=torch.float64), 0
    for query, length in enumerate(LENGTHS):
        grades = relevance[query, :length].tolist()
        best = sorted(grades, reverse=True)
        ideal = sum((2**grade - 1) / math.log2(place + 2) for place, grade in enumerate(best))
        for item, grade in enumerate(grades):
            if grade > 0:
                rank = sum(surrogate(scores[query, other] - scores[query, item]) for other in range(length))
                total = total + (1 - 2**grade) / (ideal * torch.log2(rank + 1))
                pairs += 1
    return total / (pairs if over_pairs else len(LENGTHS))


def ndcg_by_sorting(scores: Tensor, relevance: Tensor, top_k: int = 100) -> float:
    """The metric, by sorting (no ties)."""
    values = []
    for query, length in enumerate(LENGTHS):
        grades = relevance[query, :length]
        ordered = grades[scores[query, :length].argsort(descending=True)].tolist()
        found, best = (
            sum((2**grade - 1) / math.log2(place + 2) for place, grade in enumerate(some[:top_k]))
            for some in (ordered, sorted(grades.tolist(), reverse=True))
        )
        values.append(found / best)
    return sum(values) / len(values)


def gradient_of(value: Tensor, scores: Tensor) -> Tensor:
    return torch.autograd.grad(value, scores)[0]


@pytest.mark.parametrize("over_pairs", [False, True])
@pytest.mark.parametrize("surrogate", [squared_hinge, logistic, functools.partial(hinge, margin=0.5)])
def test_whole_lists_equal_the_written_out_objective(surrogate, over_pairs) -> None:
    scores, relevance, mask = batch(0)
    left, right = scores.clone().requires_grad_(), scores.clone().requires_grad_()
    loss = NDCGLoss(gamma=1.0, surrogate=surrogate, over_pairs=over_pairs)
    value = loss(left, relevance, mask=mask)
    expected = written_out(right, relevance, surrogate, over_pairs)
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(gradient_of(value, left), gradient_of(expected, right), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("seed", range(3))
def test_with_the_step_function_it_is_minus_the_ndcg(seed) -> None:
    scores, relevance, mask = batch(seed)
    value = NDCGLoss(gamma=1.0, surrogate=step)(scores, relevance, mask=mask)
    assert float(value) == pytest.approx(-ndcg_by_sorting(scores, relevance), abs=1e-12)


def test_perfect_scores_have_minus_one() -> None:
    relevance = torch.tensor([[3, 1, 0, 0]])
    assert float(NDCGLoss(gamma=1.0, surrogate=step)(relevance.double(), relevance)) == pytest.approx(-1.0, abs=1e-12)


def test_the_steps_of_algorithm_33() -> None:
    # Sampled lists of 4 queries with 20 items each; sizes and ideal DCGs are the data's. u is kept as a dictionary.
    rng = torch.Generator().manual_seed(3)
    whole = torch.randint(1, 4, (4, 20), generator=rng)
    ideal, gamma, memory = ideal_dcg(whole.double()), 0.7, {}
    loss = NDCGLoss(80, gamma=gamma, over_pairs=True).double()
    for _ in range(5):
        queries = torch.randperm(4, generator=rng)[:3]
        items = torch.stack([torch.randperm(20, generator=rng)[:6] for _ in range(3)])
        relevance = whole[queries.unsqueeze(1), items]
        relevance[:, 3:] = 0
        scores = torch.randn(3, 6, generator=rng, dtype=torch.float64).requires_grad_()
        index = queries.unsqueeze(1) * 20 + items
        sizes = torch.full((3,), 20)
        value = loss(scores, relevance, index, query_sizes=sizes, relevant_sizes=sizes // 2, ideal_dcg=ideal[queries])
        objective, estimator = 0.0, torch.zeros_like(scores)
        for q, i in [(q, i) for q in range(3) for i in range(3)]:
            inner = sum(squared_hinge(scores[q, j] - scores[q, i]) for j in range(6)) / 6
            row = int(index[q, i])
            u = float(inner.detach())
            u = (1 - gamma) * memory[row] + gamma * u if row in memory else u
            memory[row] = u
            gain, z = 2 ** int(relevance[q, i]) - 1, float(ideal[queries[q]])
            p = gain * 20 / (z * (20 * u + 1) * math.log2(20 * u + 1) ** 2 * math.log(2))  # as printed
            estimator += p * gradient_of(inner, scores) / 9
            objective -= gain / (z * math.log2(20 * u + 1)) / 9
        torch.testing.assert_close(gradient_of(value, scores), estimator, rtol=1e-10, atol=1e-10)
        assert float(value.detach()) == pytest.approx(objective, abs=1e-10)
    kept, seen = loss.tracker.remembered()
    assert {row: pytest.approx(float(kept[row]), abs=1e-10) for row in seen.nonzero().flatten().tolist()} == memory


def test_the_first_visit_has_the_estimate_of_its_batch() -> None:
    scores, relevance, mask = batch(0)
    index = torch.arange(24).reshape(4, 6)
    first = NDCGLoss(24, gamma=0.1)(scores, relevance, index, mask=mask)
    assert float(first) == pytest.approx(float(NDCGLoss(gamma=1.0)(scores, relevance, mask=mask)), abs=1e-6)


def test_sampled_relevant_items_are_scaled_up_to_all() -> None:
    # The mean over all samples of two of the three relevant items is the sum over all three.
    scores = torch.tensor([[0.3, 1.0, -0.5, 0.1]], dtype=torch.float64)
    relevance = torch.tensor([[2, 1, 3, 0]])
    ideal = ideal_dcg(relevance.double())
    whole = NDCGLoss(gamma=1.0)(scores, relevance)
    sampled = []
    for left_out in range(3):
        kept = relevance.clone()
        kept[0, left_out] = 0  # still in the list, but no anchor
        sampled.append(
            NDCGLoss(gamma=1.0)(
                scores, kept, query_sizes=torch.tensor([4]), relevant_sizes=torch.tensor([3]), ideal_dcg=ideal
            )
        )
    torch.testing.assert_close(torch.stack(sampled).mean(), whole, rtol=1e-10, atol=1e-10)


def test_only_relevant_items_need_a_row() -> None:
    scores, relevance, mask = batch(0)
    index = torch.full((4, 6), -7)
    active = (relevance > 0) & mask
    index[active] = torch.arange(int(active.sum()))
    loss = NDCGLoss(int(active.sum()), gamma=0.5)
    loss(scores.clone().requires_grad_(), relevance, index, mask=mask)
    assert loss.tracker.remembered()[1].all()


def test_queries_with_nothing_to_learn_from_are_counted_and_count_in_no_mean() -> None:
    scores, relevance, _ = batch(0)
    scores = scores.nan_to_num(0.25)
    nothing = torch.zeros(3, 6, dtype=torch.float64)
    all_scores = torch.cat([scores, nothing]).requires_grad_()
    all_relevance = torch.cat([relevance, torch.tensor([[0] * 6, [2] * 6, [2] * 6])])
    mask = torch.ones(7, 6, dtype=torch.bool)
    mask[5, 1:] = False  # a list of one item
    mask[6] = False  # a list of none
    index = torch.arange(42).reshape(7, 6)
    alone, loss = NDCGLoss(42, gamma=0.5), NDCGLoss(42, gamma=0.5)
    left = scores.clone().requires_grad_()
    expected = alone(left, relevance, index[:4])
    value = loss(all_scores, all_relevance, index, mask=mask)
    torch.testing.assert_close(value, expected)
    gradient = gradient_of(value, all_scores)
    torch.testing.assert_close(gradient[:4], gradient_of(expected, left))
    assert not gradient[4:].any()
    assert loss.metrics() == {"empty": 3.0}
    assert torch.equal(loss.tracker.memory.values, alone.tracker.memory.values)


def test_a_nan_in_a_list_without_a_relevant_item_stays_visible() -> None:
    scores = torch.tensor([[1.0, 0.0], [float("nan"), 0.0]])
    assert NDCGLoss(gamma=1.0)(scores, torch.tensor([[1, 0], [0, 0]])).isnan()


def test_lists_of_nothing() -> None:
    loss = NDCGLoss(8, gamma=0.5)
    scores = torch.zeros(2, 0, requires_grad=True)
    value = loss(scores, torch.zeros(2, 0), torch.zeros(2, 0, dtype=torch.int64))
    value.backward()
    assert float(value.detach()) == 0.0
    assert loss.metrics() == {"empty": 2.0}


def test_evaluation_needs_no_rows() -> None:
    scores, relevance, mask = batch(1)
    loss = NDCGLoss(24, gamma=0.5).eval()
    expected = NDCGLoss(gamma=1.0)(scores, relevance, mask=mask)
    torch.testing.assert_close(loss(scores, relevance, mask=mask), expected)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"num_rows": 0}, ValueError, "`num_rows` must be at least 1"),
        ({"gamma": 0.0}, ValueError, "gamma"),
        ({"surrogate": functools.partial(hinge, margin=0.0)}, ValueError, "`surrogate` must be positive at 0"),
        ({"surrogate": "hinge"}, TypeError, "`surrogate` must be a function of a tensor. Found str"),
    ],
)
def test_impossible_settings(settings, error, message) -> None:
    with pytest.raises(error, match=message):
        NDCGLoss(**settings)


TWO = torch.zeros(2, 3)
GRADES = torch.tensor([[1, 0, 0], [2, 1, 0]])
ROWS = torch.arange(6).reshape(2, 3)


@pytest.mark.parametrize(
    ("arguments", "given", "error", "message"),
    [
        ((TWO, GRADES[:1], ROWS), {}, ValueError, r"`scores` and `relevance` must both have shape \[Q, M\].*\(1, 3\)"),
        ((TWO[0], GRADES[0], ROWS[0]), {}, ValueError, r"must both have shape \[Q, M\].*Found \(3,\)"),
        ((TWO, [[1]], ROWS), {}, ValueError, "Found .* and list"),
        ((TWO, -GRADES, ROWS), {}, ValueError, r"`relevance` must lie in \[0, 126\].*values from -2.0"),
        ((TWO, GRADES * torch.nan, ROWS), {}, ValueError, "mask what is unknown"),
        ((TWO, GRADES * 500, ROWS), {}, ValueError, "to 1000.0. Pass grades such as 0 to 4"),
        ((TWO, GRADES), {}, ValueError, "`index` is needed with gamma < 1"),
        ((TWO, GRADES, ROWS[:, :2]), {}, ValueError, r"`index` must have the shape of `scores`.*Found \(2, 2\)"),
        ((TWO, GRADES, ROWS.float()), {}, TypeError, "`index` must be an int64 tensor of row numbers"),
        ((TWO, GRADES, ROWS + 4), {}, IndexError, r"`index` must lie in \[0, 6\).*Found 8"),
        ((TWO, GRADES, ROWS), {"mask": [True, False]}, TypeError, "`mask` must be a tensor or None. Found list"),
        ((TWO, GRADES, ROWS), {"mask": torch.ones(3).bool()}, ValueError, r"`mask` must be \[Q\].*Found \(3,\)"),
        ((TWO, GRADES, ROWS), {"mask": torch.ones(2, 4).bool()}, ValueError, "`mask` must broadcast"),
        ((TWO, GRADES, ROWS), {"query_sizes": torch.tensor([9, 9])}, ValueError, "`ideal_dcg` is needed with"),
        (
            (TWO, GRADES, ROWS),
            {"ideal_dcg": torch.ones(3)},
            ValueError,
            r"`ideal_dcg` must have one entry a query.*\[2\]",
        ),
        ((TWO, GRADES, ROWS), {"ideal_dcg": torch.zeros(2)}, ValueError, "`ideal_dcg` must be positive.*query 0"),
        (
            (TWO, GRADES, ROWS),
            {"ideal_dcg": torch.ones(2), "query_sizes": torch.tensor([3, 2])},
            ValueError,
            "`query_sizes` must not be smaller than the batch's list. Found 2 for query 1 of the batch, which has 3",
        ),
        (
            (TWO, GRADES, ROWS),
            {"ideal_dcg": torch.ones(2), "relevant_sizes": torch.tensor([1, 1])},
            ValueError,
            "`relevant_sizes` must not be smaller than the batch's list. Found 1 for query 1",
        ),
    ],
)
def test_bad_input(arguments, given, error, message) -> None:
    scores, *others = arguments
    with pytest.raises(error, match=message):
        NDCGLoss(6, gamma=0.5)(scores.clone().requires_grad_(), *others, **given)


def test_a_linear_scorer_learns_to_rank() -> None:
    rng = torch.Generator().manual_seed(0)
    features, truth = torch.randn(20, 15, 4, generator=rng), torch.tensor([1.0, -2.0, 0.5, 0.0])
    relevance = (features @ truth).clamp(0, 4).round()
    index = torch.arange(300).reshape(20, 15)
    weight = torch.zeros(4, requires_grad=True)
    loss, metric = NDCGLoss(300, gamma=0.5), NDCGLoss(gamma=1.0, surrogate=step)
    ideal, optimizer = ideal_dcg(relevance), torch.optim.Adam([weight], lr=0.05)
    for _ in range(60):
        items = torch.stack([torch.randperm(15, generator=rng)[:8] for _ in range(20)])
        sizes, relevant = torch.full((20,), 15), (relevance > 0).sum(1)
        optimizer.zero_grad()
        grades, scores = relevance.gather(1, items), (features @ weight).gather(1, items)
        loss(
            scores, grades, index.gather(1, items), query_sizes=sizes, relevant_sizes=relevant, ideal_dcg=ideal
        ).backward()
        optimizer.step()
    assert float(metric(features @ weight.detach(), relevance)) < -0.98
