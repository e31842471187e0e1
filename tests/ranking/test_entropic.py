"""The log-means of exponentials of hinges, tile by tile, against the matrix."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from guidestar.ranking import entropic
from guidestar.ranking.closed import Polynomial
from guidestar.ranking.entropic import log_mean_exp

FORMS = [Polynomial(1, 1.0, cut=True), Polynomial(2, 1.0, cut=True), Polynomial(2, -0.25, cut=True)]
forms = pytest.mark.parametrize("form", FORMS, ids=str)


def scores(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Scores of anchors and others of three labels, and weights of the others, some of them 0."""
    rng = torch.Generator().manual_seed(0)
    anchors, others = (torch.randn(3, size, generator=rng, dtype=torch.float64).to(dtype) for size in (5, 7))
    weights = (torch.rand(3, 7, generator=rng) - 0.3).clamp(min=0).to(dtype)
    return anchors.requires_grad_(), others.requires_grad_(), weights


def written_out(anchors: Tensor, others: Tensor, form: Polynomial, tau: float, weights: Tensor | None) -> Tensor:
    pairs = torch.relu(form.margin + others.unsqueeze(1) - anchors.unsqueeze(2)) ** form.power / tau
    share = torch.ones_like(others) if weights is None else weights
    share = share / share.sum(-1, keepdim=True)
    return torch.logsumexp(pairs + share.log().unsqueeze(1), -1)


@forms
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("tile", [1, 10, 40, 1 << 17])
def test_values_and_gradients_are_those_of_the_matrix(form, weighted, tile, monkeypatch) -> None:
    monkeypatch.setattr(entropic, "TILE", (tile, tile))
    anchors, others, weights = scores()
    weights = weights if weighted else None
    found = log_mean_exp(anchors, others, form, 0.3, weights)
    expected = written_out(anchors, others, form, 0.3, weights)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    upstream = torch.randn(3, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for left, right in zip(
        torch.autograd.grad(found, [anchors, others], upstream),
        torch.autograd.grad(expected, [anchors, others], upstream),
        strict=True,
    ):
        torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-12)


@forms
def test_a_row_without_weight_is_zero_without_gradient(form) -> None:
    anchors, others, weights = scores()
    weights[1] = 0.0
    found = log_mean_exp(anchors, others, form, 0.3, weights)
    gradients = torch.autograd.grad(found.sum(), [anchors, others])
    for tensor in (found, *gradients):
        assert torch.isfinite(tensor).all()
        assert not tensor[1].any()
        assert tensor[0].any()


@forms
def test_an_other_without_weight_does_not_overflow(form) -> None:
    anchors, others, weights = scores(torch.float32)
    weights[:, 3] = 0.0
    expected = log_mean_exp(anchors, others, form, 0.3, weights)
    far = torch.where(torch.arange(7) == 3, 1e6, others.detach()).requires_grad_()
    found = log_mean_exp(anchors, far, form, 0.3, weights)
    assert torch.equal(found, expected)
    assert not torch.autograd.grad(found.sum(), far)[0][:, 3].any()


@forms
@pytest.mark.parametrize("size", [1e3, 1e6, 1e9])
def test_differences_without_bound(form, size) -> None:
    # The exponents are of the order of size^2 and rounded by more than exp can take: what is left must be a mean.
    anchors, others, _ = scores(torch.float32)
    found = log_mean_exp(size * anchors, size * others, form, 0.3, None)
    gradients = torch.autograd.grad(found.sum(), [anchors, others])
    assert torch.isfinite(found).all()
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    scale = float(gradients[0].abs().sum())
    assert float(gradients[0].sum() + gradients[1].sum()) == pytest.approx(0.0, abs=1e-4 * scale)


@forms
def test_a_nan_is_not_hidden(form) -> None:
    anchors, others, weights = scores()
    poison = torch.where(torch.arange(7) == 2, float("nan"), others.detach())
    weights[:, 2] = 1.0
    for given in (None, weights):
        assert log_mean_exp(anchors, poison, form, 0.3, given).isnan().all()


@forms
def test_autocast_changes_nothing(form) -> None:
    anchors, others, weights = scores(torch.float32)
    found = log_mean_exp(anchors, others, form, 0.3, weights)
    expected = torch.autograd.grad(found.sum(), [anchors, others])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = log_mean_exp(anchors, others, form, 0.3, weights)
        gradients = torch.autograd.grad(inside.sum(), [anchors, others])
    assert torch.equal(inside, found)
    assert all(torch.equal(left, right) for left, right in zip(gradients, expected, strict=True))


@forms
@pytest.mark.parametrize("far", [1.0, 30.0])
@pytest.mark.parametrize("kept", [True, False])
def test_a_mask_is_weights_of_0_and_1(form, far, kept, monkeypatch) -> None:
    monkeypatch.setattr(entropic, "KEEP", (1 << 20, 1 << 20) if kept else (0, 0))
    monkeypatch.setattr(entropic, "TILE", (10, 10))
    anchors, others, weights = scores()
    mask = weights > 0.2
    mask[2] = False
    made = [log_mean_exp(anchors, far * others, form, 0.3, given) for given in (mask, mask.double())]
    torch.testing.assert_close(*made, rtol=1e-11, atol=1e-12)
    gradients = [torch.autograd.grad(value.sin().sum(), [anchors, others]) for value in made]
    for left, right in zip(*gradients, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("size", [64, 10_000])
@pytest.mark.parametrize("share", [0.0, 0.4, 0.6])
def test_padding_costs_no_digits(size, share) -> None:
    rng = torch.Generator().manual_seed(0)
    anchors = torch.randn(1, 20, generator=rng, dtype=torch.float64)
    others = torch.randn(1, size, generator=rng, dtype=torch.float64)
    counted = (torch.rand(1, size, generator=rng) < share).index_fill(1, torch.tensor([0]), True)
    form = Polynomial(2, 1.0, cut=True)
    expected = log_mean_exp(anchors, others[counted].unsqueeze(0), form, 1.0, None)
    torch.testing.assert_close(log_mean_exp(anchors, others, form, 1.0, counted), expected, rtol=1e-12, atol=1e-12)
    found = log_mean_exp(anchors.float(), others.float(), form, 1.0, counted)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=5e-6)
