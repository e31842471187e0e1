"""Mean and what all risks share: shapes."""

from __future__ import annotations

import pytest
import torch

import guidestar as gs
from guidestar.risks.base import check_positive, check_share


def test_it_is_the_mean_over_the_last_dimension() -> None:
    losses = torch.randn(2, 3, 5, dtype=torch.float64)
    torch.testing.assert_close(gs.Mean()(losses), losses.mean(-1), rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(gs.Mean().weights(losses), torch.full_like(losses, 0.2))


def test_a_mask_removes_losses() -> None:
    losses = torch.tensor([[1.0, 2.0, float("nan")], [4.0, 5.0, 6.0]])
    mask = torch.tensor([[True, True, False], [True, False, True]])
    assert gs.Mean()(losses, mask=mask).tolist() == [1.5, 5.0]
    assert gs.Mean().weights(losses, mask=mask).tolist() == [[0.5, 0.5, 0.0], [0.5, 0.0, 0.5]]


def test_empty_rows_are_counted() -> None:
    risk = gs.Mean()
    risk(torch.ones(3, 2), mask=torch.tensor([[True, False], [False, False], [False, False]]))
    risk(torch.ones(0))
    assert int(risk.empty.count) == 3


def test_an_index_for_a_single_row_may_have_one_entry() -> None:
    risk = gs.KL(1.0, 4, gamma=0.5)
    risk(torch.ones(5), torch.tensor([2]))
    assert risk.tracker.memory.seen().tolist() == [False, False, True, False]


def test_checks() -> None:
    assert check_positive("x", 2) == 2.0
    assert check_share("x", 1) == 1.0
    with pytest.raises(ValueError, match=r"`x` must be a positive number. Found 0"):
        check_positive("x", 0)
    for bad in (0.0, 1.5, float("nan")):
        with pytest.raises(ValueError, match=r"`x` is a share and must be in \(0, 1\]"):
            check_share("x", bad)
