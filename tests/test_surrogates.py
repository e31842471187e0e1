"""Surrogates: their formulas, by autograd and by the definition of the envelope."""

from __future__ import annotations

import math

import pytest
import torch

from guidestar import surrogates

T = torch.linspace(-3, 3, 61, dtype=torch.float64)

FORMULAS = {
    "hinge": lambda t, c: max(c + t, 0.0),
    "squared_hinge": lambda t, c: max(c + t, 0.0) ** 2,
    "squared": lambda t, c: (c + t) ** 2,
    "barrier_hinge": lambda t, c: max(c + t, -2 * (c + t), 2 * (t - c) + c),
    "logistic": lambda t, c: math.log(1 + math.exp(c * t)) / c,
    "sigmoid": lambda t, c: 1 / (1 + math.exp(-c * t)),
    "exponential": lambda t, c: math.exp(c * t),
}


@pytest.mark.parametrize("c", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("name", FORMULAS)
def test_formula(name, c) -> None:
    expected = torch.tensor([FORMULAS[name](float(t), c) for t in T], dtype=torch.float64)
    torch.testing.assert_close(getattr(surrogates, name)(T, c), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["hinge", "squared_hinge", "logistic", "sigmoid", "exponential"])
def test_a_worse_pair_costs_at_least_as_much(name) -> None:
    assert (getattr(surrogates, name)(T).diff() >= 0).all()


@pytest.mark.parametrize("name", ["hinge", "squared_hinge", "squared", "barrier_hinge", "logistic", "exponential"])
def test_convex(name) -> None:
    assert (getattr(surrogates, name)(T).diff().diff() >= -1e-12).all()


@pytest.mark.parametrize("slope", [1.0, 2.0, 50.0])
def test_the_barrier_hinge_is_symmetric_within_its_margin(slope) -> None:
    t = torch.linspace(-2, 2, 41, dtype=torch.float64)
    both = surrogates.barrier_hinge(t, 2.0, slope) + surrogates.barrier_hinge(-t, 2.0, slope)
    torch.testing.assert_close(both, torch.full_like(t, 4.0), rtol=1e-12, atol=1e-12)
    assert surrogates.barrier_hinge(torch.tensor(-3.0), 2.0, slope) == slope


def test_logistic_does_not_overflow() -> None:
    t = torch.tensor([1e4, -1e4], requires_grad=True)
    value = surrogates.logistic(t)
    value.sum().backward()
    assert value.tolist() == [1e4, 0.0]
    assert t.grad.tolist() == [1.0, 0.0]


@pytest.mark.parametrize("smoothing", [0.1, 1.0, 2.5])
def test_the_smoothed_hinge_is_the_maximum_it_is_defined_by(smoothing) -> None:
    y = torch.linspace(0, 1, 10001, dtype=torch.float64)
    brute_force = (y * T.unsqueeze(1) - smoothing / 2 * y.square()).amax(1)
    torch.testing.assert_close(surrogates.smoothed_hinge(T, smoothing), brute_force, atol=1e-7, rtol=0)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_its_slope_is_its_derivative(smoothing) -> None:
    t = (T + 0.013).requires_grad_()  # away from the hinge's kink
    (slope,) = torch.autograd.grad(surrogates.smoothed_hinge(t, smoothing).sum(), t)
    torch.testing.assert_close(surrogates.smoothed_hinge_slope(t.detach(), smoothing), slope, atol=1e-12, rtol=0)


def test_no_smoothing_is_the_hinge() -> None:
    assert torch.equal(surrogates.smoothed_hinge(T, 0.0), torch.relu(T))
    torch.testing.assert_close(surrogates.smoothed_hinge(T, 1e-9), torch.relu(T), atol=1e-9, rtol=0)
