from __future__ import annotations

import math

import pytest
import torch

from guidestar.ranking.queries import check_top_k, gains, ideal_dcg, mean_over, query_batch


def test_ideal_dcg_equals_its_sum() -> None:
    relevance = torch.tensor([[0, 3, 1, 2], [1, 0, 0, 0], [0, 0, 0, 0]])
    expected = [7 + 3 / math.log2(3) + 1 / 2, 1.0, 0.0]
    torch.testing.assert_close(ideal_dcg(relevance.double()), torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(ideal_dcg(relevance, 2), torch.tensor([7 + 3 / math.log2(3), 1.0, 0.0]))
    torch.testing.assert_close(ideal_dcg(relevance, 9), ideal_dcg(relevance))
    assert ideal_dcg(relevance[0]).shape == ()
    assert ideal_dcg(torch.zeros(2, 0)).tolist() == [0.0, 0.0]


def test_ideal_dcg_without_what_is_masked() -> None:
    relevance = torch.tensor([[3.0, 1.0, float("nan")]])
    mask = torch.tensor([[False, True, False]])
    assert ideal_dcg(relevance, mask=mask).tolist() == [1.0]


def test_gains_of_whole_numbers_are_whole() -> None:
    assert gains(torch.arange(6.0)).tolist() == [0, 1, 3, 7, 15, 31]


def test_anchors_are_the_relevant_items_of_queries_that_have_something_to_learn_from() -> None:
    scores = torch.arange(15.0).reshape(5, 3).requires_grad_()
    relevance = torch.tensor([[0, 1, 0], [2, 0, 3], [0, 0, 0], [1, 1, 1], [1, 0, 0]])
    mask = torch.tensor([[True] * 3, [True] * 3, [True] * 3, [True, False, False], [False] * 3])
    index = torch.arange(15).reshape(5, 3)
    batch = query_batch(scores, relevance, mask)
    assert batch.learnable.tolist() == [True, True, False, False, False]
    assert batch.idle.tolist() == [False, False, True, True, True]
    assert batch.sizes().tolist() == [3, 3, 3, 1, 1]
    anchors = batch.anchors(index, over_ranks=False)
    assert anchors.active.tolist() == [[True, False], [True, True], *[[False, False]] * 3]
    assert anchors.scores[anchors.active].tolist() == [1, 3, 5]
    assert anchors.relevance[anchors.active].tolist() == [1, 2, 3]
    assert anchors.rows.tolist() == [[1, 0], [3, 5], [0, 0], [0, 0], [0, 0]]
    assert anchors.scores.requires_grad


def test_a_mask_of_queries_takes_them_out() -> None:
    batch = query_batch(torch.full((2, 3), torch.nan), torch.ones(2, 3), torch.tensor([False, False]))
    assert not batch.idle.any()
    assert not batch.learnable.any()
    assert batch.anchors(None, over_ranks=False).scores.shape == (2, 0)
    assert not batch.scores.any()


def test_means_over_the_items_that_count() -> None:
    mask = torch.tensor([[True, True, False], [False] * 3])
    batch = query_batch(torch.zeros(2, 3), torch.ones(2, 3), mask)
    assert batch.mean(torch.tensor([[1.0, 3.0, 9.0], [0.0, 0.0, 0.0]])).tolist() == [2.0, 0.0]
    assert float(mean_over(torch.tensor(0.0), torch.tensor(0), over_ranks=False)) == 0.0


@pytest.mark.parametrize("top_k", [0, -3, 2.0, True, "3"])
def test_an_impossible_top_k(top_k) -> None:
    with pytest.raises(ValueError, match="`top_k` must be a whole number, at least 1"):
        check_top_k(top_k)


def test_bad_input() -> None:
    with pytest.raises(TypeError, match=r"must be floating-point tensors. Found torch.int64"):
        query_batch(torch.zeros(2, 3).long(), torch.zeros(2, 3))
    with pytest.raises(TypeError, match="`mask` must be a bool tensor"):
        query_batch(torch.zeros(2, 3), torch.zeros(2, 3), torch.ones(2))
    with pytest.raises(ValueError, match=r"`relevance` must lie in \[0, 126\].*from -1.0 to 0.0"):
        ideal_dcg(torch.tensor([[-1.0, 0.0]]))
    with pytest.raises(TypeError, match="`mask` must be a bool tensor"):
        ideal_dcg(torch.ones(2, 2), mask=torch.ones(2, 2))
