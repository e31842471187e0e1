"""Schedules: section 6.5.3, Algorithms 21 and 22."""

from __future__ import annotations

import math

import pytest
import torch

from guidestar.schedules import Constant, Cosine, Scent, as_schedule, is_mini_batch


def test_cosine_is_the_formula() -> None:
    schedule = Cosine(0.2, 6)
    for epoch in range(12):
        expected = 0.5 * (1 + math.cos(math.pi * epoch / 6)) * 0.8 + 0.2 if epoch <= 6 else 0.2
        rate = schedule.rate(torch.tensor(1.0), torch.tensor(epoch), log_space=False)
        assert float(rate) == pytest.approx(expected, abs=1e-15)
        log_new, log_old = schedule.log_rates(torch.tensor(1.0), torch.tensor(epoch))
        assert float(log_new) == pytest.approx(math.log(expected))
        assert float(log_old.exp()) == pytest.approx(1 - expected, abs=1e-15)


def test_cosine_needs_the_epoch() -> None:
    with pytest.raises(ValueError, match="`epoch` is needed by a Cosine schedule"):
        Cosine(0.2, 6).rate(torch.tensor(1.0), None, log_space=False)


@pytest.mark.parametrize("u", [1e-3, 1.0, 50.0])
def test_scent_is_the_formula(u) -> None:
    average = torch.tensor(u, dtype=torch.float64)
    expected = 0.3 * u / (1 + 0.3 * u)
    assert float(Scent(0.3).rate(average, None, log_space=False)) == pytest.approx(expected)
    assert float(Scent(0.3).rate(average.log(), None, log_space=True)) == pytest.approx(expected)
    log_new, log_old = Scent(0.3).log_rates(average.log(), None)
    assert float(log_new) == pytest.approx(math.log(expected))
    assert float(log_old) == pytest.approx(math.log1p(-expected))


def test_scent_keeps_both_rates_where_gamma_rounds_to_0_or_1() -> None:
    log_new, log_old = Scent(1.0).log_rates(torch.tensor([500.0, -500.0]), None)
    torch.testing.assert_close(log_new, torch.tensor([0.0, -500.0]))
    torch.testing.assert_close(log_old, torch.tensor([-500.0, 0.0]))


def test_as_schedule() -> None:
    assert as_schedule(1) == Constant(1.0)
    assert as_schedule(Scent(2.0)) == Scent(2.0)
    for bad in (True, "0.5", None):
        with pytest.raises(TypeError, match=r"`gamma` must be a number in .* or one of guidestar.schedules"):
            as_schedule(bad)  # type: ignore[arg-type]


def test_is_mini_batch() -> None:
    assert is_mini_batch(Constant(1.0))
    assert is_mini_batch(Cosine(1.0, 4))
    assert not any(map(is_mini_batch, (Constant(0.99), Cosine(0.9, 4), Scent(1.0))))


@pytest.mark.parametrize("gamma", [0.0, 1.1, -1.0, math.nan])
def test_rates_must_be_in_range(gamma) -> None:
    with pytest.raises(ValueError, match=r"`gamma` must be in \(0, 1\]"):
        Constant(gamma)
    with pytest.raises(ValueError, match=r"`gamma_min` must be in \(0, 1\]"):
        Cosine(gamma, 3)


def test_other_settings_must_be_in_range() -> None:
    with pytest.raises(ValueError, match=r"`epochs` must be a whole number, at least 1. Found 0"):
        Cosine(0.5, 0)
    for alpha in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="`alpha` must be positive"):
            Scent(alpha)
