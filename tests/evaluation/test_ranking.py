from __future__ import annotations

import math
import sys

import pytest
import torch
from torch import Tensor

from guidestar.evaluation.ranking import auc, average_precision, ndcg_at_k, partial_auc, two_way_partial_auc


def table(seed: int, positives: int = 10, negatives: int = 20, ties: bool = False) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    labels = torch.cat([torch.ones(positives), torch.zeros(negatives)]).long()
    scores = torch.randn(len(labels), generator=rng, dtype=torch.float64) + 0.5 * labels
    return (scores.round() if ties else scores), labels


def pairs_in_order(positive: Tensor, negative: Tensor) -> float:
    total = sum(float(p > n) + 0.5 * float(p == n) for p in positive for n in negative)
    return total / (len(positive) * len(negative))


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", [0, 1])
def test_auc_is_the_share_of_pairs_in_order(seed, ties) -> None:
    scores, labels = table(seed, ties=ties)
    expected = pytest.approx(pairs_in_order(scores[labels == 1], scores[labels == 0]), abs=1e-12)
    assert auc(scores, labels) == expected
    assert auc(scores, labels.bool()) == expected
    assert partial_auc(scores, labels, 1.0) == expected
    assert partial_auc(scores, labels, 1.0, standardised=False) == expected
    assert two_way_partial_auc(scores, labels, 0.0, 1.0) == expected


def test_average_precision_equals_its_sum() -> None:
    scores, labels = table(2)
    ordered = labels[scores.argsort(descending=True)].tolist()
    precisions = [sum(ordered[: place + 1]) / (place + 1) for place, label in enumerate(ordered) if label]
    assert average_precision(scores, labels) == pytest.approx(sum(precisions) / len(precisions), abs=1e-12)


@pytest.mark.parametrize(("min_tpr", "max_fpr"), [(0.0, 0.3), (0.5, 0.5), (0.7, 1.0), (0.9, 0.05), (0.2, 0.9)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_partial_areas_are_those_of_the_hardest_samples(seed, min_tpr, max_fpr) -> None:
    scores, labels = table(seed)
    lowest = scores[labels == 1].sort().values[: round(10 * (1 - min_tpr))]
    highest = scores[labels == 0].sort(descending=True).values[: round(20 * max_fpr)]
    expected = pytest.approx(pairs_in_order(lowest, highest), abs=1e-12)
    assert two_way_partial_auc(scores, labels, min_tpr, max_fpr) == expected
    if min_tpr == 0:
        plain = partial_auc(scores, labels, max_fpr, standardised=False)
        assert plain == expected
        chance = max_fpr / 2  # the standardised area is 0.5 there
        assert partial_auc(scores, labels, max_fpr) == pytest.approx(0.5 * (1 + (plain - chance) / (1 - chance)))


@pytest.mark.parametrize(("min_tpr", "max_fpr"), [(0.0, 0.33), (0.55, 0.47), (0.31, 0.99)])
def test_areas_between_the_steps_and_with_ties(min_tpr, max_fpr) -> None:
    from sklearn.metrics import roc_curve

    scores, labels = table(3, ties=True)
    fpr, tpr, _ = (torch.from_numpy(part) for part in roc_curve(labels, scores, drop_intermediate=False))
    count, total = 4000, 0.0
    for f in [(place + 0.5) / count * max_fpr for place in range(count)]:
        right = int(torch.searchsorted(fpr, torch.tensor(f, dtype=torch.float64), right=True))
        share = (f - fpr[right - 1]) / (fpr[right] - fpr[right - 1])
        total += max(float(tpr[right - 1] + share * (tpr[right] - tpr[right - 1])) - min_tpr, 0.0)
    expected = total / count / (1 - min_tpr)
    assert two_way_partial_auc(scores, labels, min_tpr, max_fpr) == pytest.approx(expected, abs=1e-4)


def ranked(scores: Tensor, grades: Tensor, k: int) -> float:
    found, best = (
        sum((2.0**grade - 1) / math.log2(place + 2) for place, grade in enumerate(some[:k]))
        for some in (grades[scores.argsort(descending=True)].tolist(), sorted(grades.tolist(), reverse=True))
    )
    return found / best if best else math.nan


@pytest.mark.parametrize("k", [1, 3, None, 50])
def test_ndcg_of_lists_of_different_lengths(k) -> None:
    rng = torch.Generator().manual_seed(0)
    query = torch.randint(3, 9, (60,), generator=rng)
    relevance = torch.randint(4, (60,), generator=rng)
    relevance[query == 5] = 0
    scores = torch.randn(60, generator=rng)
    found = ndcg_at_k(scores, relevance, query, k=k)
    expected = [ranked(scores[query == q], relevance[query == q], k or 60) for q in found.queries]
    torch.testing.assert_close(found.per_query, torch.tensor(expected, dtype=torch.float64), equal_nan=True)
    known = [value for value in expected if not math.isnan(value)]
    assert found.mean == pytest.approx(sum(known) / len(known))
    assert found.excluded == 1
    assert found.queries.tolist() == sorted(set(query.tolist()))


@pytest.mark.parametrize("k", [2, 4, None])
def test_ndcg_with_ties_equals_scikit_learn(k) -> None:
    from sklearn.metrics import ndcg_score

    rng = torch.Generator().manual_seed(1)
    scores = torch.randint(3, (5, 7), generator=rng).double()
    relevance = torch.randint(1, 4, (5, 7), generator=rng)
    found = ndcg_at_k(scores, relevance, k=k)
    assert found.mean == pytest.approx(ndcg_score(2**relevance - 1, scores, k=k), abs=1e-12)


def test_ndcg_without_what_is_masked() -> None:
    scores = torch.tensor([[1.0, 2.0, float("nan")], [1.0, 3.0, 2.0]])
    relevance = torch.tensor([[1, 0, 5], [0, 0, 1]])
    mask = torch.tensor([[True, True, False], [True, True, True]])
    found = ndcg_at_k(scores, relevance, mask=mask)
    torch.testing.assert_close(found.per_query, torch.full((2,), 1 / math.log2(3), dtype=torch.float64))


def test_no_query_with_a_relevant_item() -> None:
    found = ndcg_at_k(torch.zeros(2, 2), torch.zeros(2, 2))
    assert math.isnan(found.mean)
    assert found.excluded == 2


S, Y = torch.tensor([0.1, 0.2]), torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: auc(S, Y[:1]), r"must both have shape \[n\]"),
        (lambda: auc(S * torch.nan, Y), "`scores` must not be NaN. Found 2"),
        (lambda: auc(S, 2 * Y - 1), r"`labels` must be 0 or 1. Found -1; for labels of -1 and 1 pass \(labels > 0\)"),
        (lambda: auc(S, Y * 0), "`labels` must have both classes.*Found 0 positives of 2"),
        (lambda: average_precision(S, Y * 0 + 1), "Found 2 positives of 2"),
        (lambda: auc(S[:0], Y[:0]), "Found 0 positives of 0"),
        (lambda: partial_auc(S, Y, 0.0), r"`max_fpr` must be in \(0, 1\]. Found 0.0"),
        (lambda: two_way_partial_auc(S, Y, 1.0, 0.5), r"`min_tpr` must be in \[0, 1\). Found 1.0"),
        (lambda: two_way_partial_auc(S, Y, 0.5, 1.5), "`max_fpr`"),
        (lambda: ndcg_at_k(S, Y), r"must be \[Q, M\], or \[n\] together with `query` \[n\]"),
        (lambda: ndcg_at_k(S, Y[:1], Y), "Found"),
        (lambda: ndcg_at_k(S, Y, S), "`query` must be whole numbers. Found torch.float32"),
        (lambda: ndcg_at_k(S, Y, Y, k=0), "`k` must be at least 1"),
        (lambda: ndcg_at_k(S, Y, Y, mask=Y), "`mask` must be bool"),
        (lambda: ndcg_at_k(S, Y, Y, mask=Y > 1), "must hold at least one item"),
        (lambda: ndcg_at_k(S * torch.nan, Y, Y), "`scores` must not be NaN. Found 2 NaN of 2 items"),
        (lambda: ndcg_at_k(S, -Y, Y), "`relevance` must be 0 or more. Found -1.0"),
    ],
)
def test_bad_input(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_arrays_and_lists_are_as_good_as_tensors() -> None:
    scores, labels = table(0)
    expected = auc(scores, labels), partial_auc(scores, labels, 0.3), two_way_partial_auc(scores, labels, 0.2, 0.5)
    for s, y in ((scores.numpy(), labels.numpy()), (scores.tolist(), labels.tolist())):
        assert (auc(s, y), partial_auc(s, y, 0.3), two_way_partial_auc(s, y, 0.2, 0.5)) == expected
        assert average_precision(s, y) == average_precision(scores, labels)
        query = [0] * 15 + [1] * 15
        assert ndcg_at_k(s, y, query, k=5).mean == ndcg_at_k(scores, labels, torch.tensor(query), k=5).mean
    assert ndcg_at_k([[3.0, 1.0]], [[1, 0]], mask=[[True, True]]).mean == 1.0


def test_without_scikit_learn(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ImportError, match=r"need scikit-learn: pip install \"guidestar\[sklearn\]\""):
        auc(S, Y)
