from __future__ import annotations

from itertools import combinations

import pytest
import torch

from guidestar.losses import NDCGLoss, ThresholdInclusion
from guidestar.ranking.queries import QueryBatch, ideal_dcg, query_batch
from guidestar.ranking.strata import Strata, item_weights, strata, stratified_means
from guidestar.surrogates import squared_hinge

SCORES = torch.tensor([0.3, 1.2, -0.5, 0.1, 0.9, -1.0, 0.4], dtype=torch.float64)
RELEVANCE = torch.tensor([2, 1, 3, 0, 0, 0, 0])  # three relevant items and four others


def sample(relevant: tuple[int, ...], others: tuple[int, ...]) -> tuple[QueryBatch, Strata]:
    items = torch.tensor([*relevant, *others])
    batch = query_batch(SCORES[items].unsqueeze(0), RELEVANCE[items].unsqueeze(0))
    return batch, strata(batch, torch.tensor([3.0]), torch.tensor([7.0]))


@pytest.mark.parametrize(("relevant", "others"), [(2, 2), (3, 1), (2, 4), (3, 4)])
def test_the_mean_over_all_samples_is_the_mean_over_the_list(relevant, others) -> None:
    found: dict[int, list[float]] = {0: [], 1: [], 2: []}
    for chosen in combinations(range(3), relevant):
        for rest in combinations(range(3, 7), others):
            batch, parts = sample(chosen, rest)
            anchors = batch.anchors(None, over_ranks=False)
            means = stratified_means(anchors, batch, squared_hinge, parts)[0]
            for item, value in zip(chosen, means.tolist(), strict=True):
                found[item].append(value)
            assert float(item_weights(batch, parts).sum()) == pytest.approx(7.0)
    for item, values in found.items():
        expected = squared_hinge(SCORES - SCORES[item]).mean()
        assert sum(values) / len(values) == pytest.approx(float(expected), abs=1e-12)


def test_a_kind_that_is_missing_is_stood_for_by_the_other() -> None:
    alone, parts = sample((1,), (3, 4))
    anchors = alone.anchors(None, over_ranks=False)
    expected = (1 + 3 * squared_hinge(SCORES[3:5] - SCORES[1]).sum()) / 7  # six items are not item 1; two are seen
    assert float(stratified_means(anchors, alone, squared_hinge, parts)) == pytest.approx(float(expected))
    assert item_weights(alone, parts).tolist() == [[3.0, 2.0, 2.0]]
    relevant, parts = sample((0, 2), ())
    anchors = relevant.anchors(None, over_ranks=False)
    expected = (1 + 6 * squared_hinge(SCORES[2] - SCORES[0])) / 7
    assert float(stratified_means(anchors, relevant, squared_hinge, parts)[0, 0]) == pytest.approx(float(expected))
    assert item_weights(relevant, parts).tolist() == [[3.5, 3.5]]


def test_whole_lists_are_weighed_alike() -> None:
    ideal = ideal_dcg(RELEVANCE.double()).unsqueeze(0)
    sizes = {"query_sizes": torch.tensor([7]), "relevant_sizes": torch.tensor([3]), "ideal_dcg": ideal}
    for settings in ({}, {"top_k": 2, "inclusion": ThresholdInclusion(1).eval()}):
        plain, stratified = (NDCGLoss(gamma=1.0, stratified=flag, **settings) for flag in (False, True))
        arguments = (SCORES.unsqueeze(0), RELEVANCE.unsqueeze(0))
        torch.testing.assert_close(stratified(*arguments, **sizes), plain(*arguments, **sizes))


def test_what_is_masked_stands_for_nothing() -> None:
    scores, relevance = SCORES.repeat(2, 1), RELEVANCE.repeat(2, 1)
    scores[0, 5:] = torch.nan
    mask = torch.ones(2, 7, dtype=torch.bool)
    mask[0, 5:] = False
    mask[1] = False
    batch = query_batch(scores, relevance, mask)
    parts = strata(batch, torch.tensor([3, 3]), torch.tensor([7, 7]))
    assert item_weights(batch, parts).tolist() == [[1.0, 1.0, 1.0, 2.0, 2.0, 0.0, 0.0], [1.0] * 7]
    means = stratified_means(batch.anchors(None, over_ranks=False), batch, squared_hinge, parts)
    assert torch.isfinite(means).all()


def test_bad_input() -> None:
    scores, relevance = SCORES.unsqueeze(0), RELEVANCE.unsqueeze(0)
    loss = NDCGLoss(gamma=1.0, stratified=True)
    with pytest.raises(ValueError, match="`query_sizes` and `relevant_sizes` are needed with stratified=True"):
        loss(scores, relevance, ideal_dcg=torch.ones(1), query_sizes=torch.tensor([9]))
    sizes = {"ideal_dcg": torch.ones(1), "relevant_sizes": torch.tensor([5])}
    with pytest.raises(ValueError, match=r"`query_sizes` must not be smaller than the batch's list. Found 8 .* has 9"):
        loss(scores, relevance, query_sizes=torch.tensor([8]), **sizes)


def test_thresholds_are_those_of_the_whole_list() -> None:
    # The relevant item stands for three, so that its score is the fifth of the list: outside the top 4.
    items = torch.tensor([[0, 3, 4, 5, 6]])
    sizes = {"query_sizes": torch.tensor([7]), "relevant_sizes": torch.tensor([3]), "ideal_dcg": torch.ones(1)}
    values = []
    for stratified in (False, True):
        inclusion = ThresholdInclusion(1, psi=lambda above: (above > 0).double())
        loss = NDCGLoss(gamma=1.0, top_k=4, inclusion=inclusion, stratified=stratified).eval()
        values.append(float(loss(SCORES[items], RELEVANCE[items], **sizes)))
    assert values[0] < 0
    assert values[1] == 0
