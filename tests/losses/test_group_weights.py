"""GroupWeights: mirror ascent in the capped simplex, and the projection onto it."""

from __future__ import annotations

import pytest
import torch
from grouped import bisected

from guidestar.losses.group_weights import GroupWeights, project_capped


@pytest.mark.parametrize("cap", [0.125, 0.126, 0.2, 1 / 3, 0.5, 0.75, 1.0, 4.0])
def test_the_projection(cap) -> None:
    for seed in range(5):
        rng = torch.Generator().manual_seed(seed)
        logs = 2.0 * torch.randn(8, generator=rng, dtype=torch.float64)
        found = project_capped(logs, cap).exp()
        torch.testing.assert_close(found.tolist(), bisected(logs.exp().tolist(), cap), rtol=1e-8, atol=1e-10)
        assert float(found.sum()) == pytest.approx(1.0, abs=1e-10)
        assert float(found.max()) <= cap + 1e-12


def test_no_other_point_of_the_capped_simplex_is_nearer() -> None:
    rng = torch.Generator().manual_seed(3)
    w = torch.randn(6, generator=rng, dtype=torch.float64).exp()
    q = project_capped(w.log(), 0.3).exp()
    least = float((q * (q / w).log()).sum())
    for _ in range(2000):
        other = torch.distributions.Dirichlet(torch.full((6,), 5.0, dtype=torch.float64)).sample()
        if float(other.max()) <= 0.3:
            assert float((other * (other / w).log()).sum()) >= least - 1e-12


def test_equal_and_extreme_weights() -> None:
    torch.testing.assert_close(project_capped(torch.zeros(4), 0.25).exp(), torch.full((4,), 0.25))
    found = project_capped(torch.tensor([1e5, 0.0, -1e5, -2e5], dtype=torch.float64), 0.5)
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found.exp(), torch.tensor([0.5, 0.5, 0.0, 0.0], dtype=torch.float64))


def test_what_is_not_present_gains_nothing_and_nothing_present_changes_nothing() -> None:
    weights = GroupWeights(3)
    found = weights.move(torch.tensor([5.0, 2.0, -1.0]), torch.tensor([False, True, False]))
    torch.testing.assert_close(found, torch.softmax(torch.tensor([0.0, 2.0, 0.0]), 0))
    before = weights.memory.values.clone()
    weights.move(torch.tensor([5.0, 2.0, -1.0]), torch.tensor([False, False, False]))
    assert torch.equal(weights.memory.values, before)


def test_a_nan_is_not_hidden() -> None:
    assert GroupWeights(3, cap=0.5).move(torch.tensor([float("nan"), 0.0, 1.0]), torch.ones(3).bool()).isnan().any()
