"""Means, spreads and paired intervals against closed expressions."""

import math

import pytest

from guidestar.report.statistics import T_QUANTILES, Difference, Summary, paired_difference, summarise

NAN = float("nan")


def test_mean_and_sample_deviation() -> None:
    summary = summarise([1.0, 2.0, 4.0])
    assert summary is not None
    assert summary.mean == pytest.approx(7 / 3)
    assert summary.std == pytest.approx(math.sqrt((16 + 1 + 25) / 9 / 2))
    assert summary.seeds == 3


def test_one_value_has_no_spread_and_no_value_no_summary() -> None:
    summary = summarise([NAN, 2.0, None])
    assert summary is not None
    assert (summary.mean, summary.std, summary.seeds) == (2.0, None, 1)
    assert summarise([NAN, None, math.inf]) is None
    assert summarise([]) is None


def test_paired_interval() -> None:
    # Differences 1, 2, 3: mean 2, deviation 1, half width 4.303 / sqrt(3).
    difference = paired_difference([1.0, 3.0, 6.0], [0.0, 1.0, 3.0])
    assert difference is not None
    half = 4.303 / math.sqrt(3)
    assert (difference.mean, difference.seeds) == (2.0, 3)
    assert difference.low == pytest.approx(2 - half)
    assert difference.high == pytest.approx(2 + half)
    assert not difference.separated


def test_pairing_uses_common_seeds_only() -> None:
    difference = paired_difference([1.0, NAN, 5.0, 9.0], [0.5, 7.0, None])
    assert difference == Difference(0.5, None, None, 1)
    assert paired_difference([NAN, 1.0], [1.0, NAN]) is None


def test_pairing_removes_what_seeds_have_in_common() -> None:
    seeds = [0.70, 0.80, 0.90]
    difference = paired_difference([value + 0.01 for value in seeds], seeds)
    assert difference is not None
    assert difference.separated
    assert difference.low == pytest.approx(0.01)


def test_equal_values_are_not_separated() -> None:
    difference = paired_difference([0.5, 0.6], [0.5, 0.6])
    assert difference is not None
    assert not difference.separated


def test_table_of_quantiles() -> None:
    stats = pytest.importorskip("scipy.stats")
    for degrees, quantile in enumerate(T_QUANTILES, start=1):
        assert quantile == pytest.approx(float(stats.t.ppf(0.975, degrees)), abs=6e-4)


def test_many_seeds_take_the_normal_quantile() -> None:
    values = [float(i % 2) for i in range(32)]
    difference = paired_difference(values, [0.0] * 32)
    assert difference is not None
    deviation = math.sqrt(32 * 0.25 / 31)
    assert difference.high == pytest.approx(0.5 + 1.96 * deviation / math.sqrt(32))


def test_equal_values_have_no_spread_at_all() -> None:
    assert summarise([0.91] * 5) == Summary(0.91, 0.0, 5)
