"""Tiles: the same as the whole, without the whole."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from guidestar import surrogates
from guidestar.ranking import rows, tiles


def sums(anchors, others, scale=None):
    pairs = surrogates.logistic(others.unsqueeze(-2) - anchors.unsqueeze(-1)).sum(-1)
    return pairs if scale is None else pairs * scale


@pytest.mark.parametrize("size", [1, 13, 30, 1 << 20])
@pytest.mark.parametrize("scaled", [False, True])
def test_tiles_of_any_size(size, scaled, monkeypatch) -> None:
    monkeypatch.setattr(tiles, "TILE", (size, size))
    leaves = [torch.randn(2, n, dtype=torch.float64, requires_grad=True) for n in (7, 6, 7)]
    given = leaves if scaled else leaves[:2]
    found, expected = tiles.tiled(sums, *given), sums(*given)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    gradients = [torch.autograd.grad(x.cos().sum(), given) for x in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(lambda *x: tiles.tiled(sums, *x), given)


def test_no_tile_is_larger_than_it_may_be(monkeypatch) -> None:
    monkeypatch.setattr(tiles, "TILE", (40, 40))
    seen = []

    def watched(anchors, others):
        seen.append(anchors.numel() * others.shape[-1])
        return sums(anchors, others)

    anchors, others = torch.randn(2, 9, requires_grad=True), torch.randn(2, 5)
    tiles.tiled(watched, anchors, others).sum().backward()
    assert max(seen) == 40
    assert sum(seen) == 2 * 90 + 2  # forward, backward, and one pair of each row to see whether it is learnt


def test_a_surrogate_that_is_learnt_gets_its_gradient(monkeypatch) -> None:
    surrogate = nn.Sequential(nn.Unflatten(-1, (-1, 1)), nn.Linear(1, 1), nn.Softplus(), nn.Flatten(-2)).double()
    anchors, others = torch.randn(4, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    gradients = []
    for limit in (1 << 60, 0):
        monkeypatch.setattr(rows, "TILES_FROM", (limit, limit))
        value = rows.row_means(anchors, others, surrogate).sum()
        gradients.append(torch.autograd.grad(value, list(surrogate.parameters())))
    torch.testing.assert_close(*gradients)


def test_without_gradients(monkeypatch) -> None:
    monkeypatch.setattr(rows, "TILES_FROM", (0, 0))
    with torch.no_grad():
        assert not rows.row_means(torch.zeros(2, requires_grad=True), torch.zeros(3), surrogates.logistic).requires_grad
