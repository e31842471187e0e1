"""Power laws: exact points, another optimiser, coverage of the intervals, and ratios of compute."""

import math

import numpy as np
import pytest

from guidestar.errors import UserError
from guidestar.evaluation.power_law import PowerLaw, compute_ratio, fit_power_law

COMPUTE = np.array([1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0])


def noisy(law: PowerLaw, generator: np.random.Generator, compute: np.ndarray = COMPUTE) -> np.ndarray:
    return law.error(compute) * np.exp(0.03 * generator.standard_normal(len(compute)))


@pytest.mark.parametrize("law", [PowerLaw(0.8, -0.3), PowerLaw(5.0, -1.2), PowerLaw(0.2, 0.1)])
@pytest.mark.parametrize("unit", [1.0, 1e12])
def test_exact_points_give_the_exact_law(law: PowerLaw, unit: float) -> None:
    scaled = PowerLaw(law.a * unit**-law.b, law.b)
    for offset in (False, True):
        fit = fit_power_law(unit * COMPUTE, scaled.error(unit * COMPUTE), offset=offset, draws=10)
        assert (fit.law.a, fit.law.b) == pytest.approx((scaled.a, scaled.b), rel=1e-9)
        assert fit.law.c == 0
        assert fit.deviation == pytest.approx(0, abs=1e-12)
        assert (fit.b.low, fit.b.high) == pytest.approx((law.b, law.b), abs=1e-9)


@pytest.mark.parametrize("law", [PowerLaw(0.8, -0.3, 0.1), PowerLaw(3.0, -0.8, 0.4), PowerLaw(0.5, -0.15, 0.02)])
def test_exact_points_give_the_exact_offset(law: PowerLaw) -> None:
    fit = fit_power_law(COMPUTE, law.error(COMPUTE), offset=True, draws=10)
    assert (fit.law.a, fit.law.b, fit.law.c) == pytest.approx((law.a, law.b, law.c), rel=1e-6)


def test_the_line_is_the_closed_expression_with_cells_weighted_by_their_points() -> None:
    compute, error = np.array([1.0, 1.0, 1.0, 2.0, 8.0]), np.array([5.0, 4.0, 6.0, 3.0, 2.5])
    slope, intercept = np.polyfit(np.log(compute), np.log(error), 1)
    fit = fit_power_law(compute, error)
    assert (fit.law.a, fit.law.b) == pytest.approx((math.exp(intercept), slope), rel=1e-12)


def test_the_offset_fit_equals_another_optimiser() -> None:
    optimize = pytest.importorskip("scipy.optimize")
    generator = np.random.default_rng(1)
    for truth in (PowerLaw(0.8, -0.3, 0.1), PowerLaw(0.8, -0.3, 0.0), PowerLaw(2.0, -0.9, 0.3)):
        error = noisy(truth, generator)

        def residual(p: np.ndarray, error: np.ndarray = error) -> np.ndarray:
            return np.log(error) - np.log(p[0] * COMPUTE ** p[1] + p[2])

        bounds = ([1e-9, -5, 0], [np.inf, 5, error.min()])
        starts = [[error[0], -0.5, share * error.min()] for share in (0.05, 0.3, 0.6, 0.9)]
        tight = {"ftol": 1e-15, "xtol": 1e-15, "gtol": 1e-15, "x_scale": "jac", "max_nfev": 5000}
        best = min(float(2 * optimize.least_squares(residual, x, bounds=bounds, **tight).cost) for x in starts)
        law = fit_power_law(COMPUTE, error, offset=True, draws=1).law
        assert float((residual(np.array([law.a, law.b, law.c])) ** 2).sum()) <= best * (1 + 1e-6)


@pytest.mark.parametrize(("offset", "truth"), [(False, PowerLaw(0.8, -0.3)), (True, PowerLaw(0.8, -0.3, 0.1))])
def test_intervals_cover_at_about_their_nominal_rate(offset: bool, truth: PowerLaw) -> None:
    generator = np.random.default_rng(2)
    covered = np.zeros(2)
    runs = 100 if not offset else 40
    for seed in range(runs):
        fit = fit_power_law(COMPUTE, noisy(truth, generator), offset=offset, draws=300, seed=seed)
        ahead = fit.predict(5000)
        covered += [fit.b.low <= truth.b <= fit.b.high, ahead.low <= truth.error(5000) <= ahead.high]
    assert (covered >= 0.86 * runs).all()
    # Intervals that always cover would be too wide to say anything.
    assert fit.b.high - fit.b.low < (0.3 if offset else 0.05)


def test_few_cells_give_wider_intervals_than_many() -> None:
    generator = np.random.default_rng(3)
    truth, many = PowerLaw(0.8, -0.3), np.geomspace(1, 1000, 40)
    wide = fit_power_law(COMPUTE[::3], noisy(truth, generator, COMPUTE[::3])).b
    narrow = fit_power_law(many, noisy(truth, generator, many)).b
    assert wide.high - wide.low > 3 * (narrow.high - narrow.low)


def test_two_cells_take_the_spread_of_their_seeds_and_single_points_give_no_interval() -> None:
    seeds = fit_power_law([1, 1, 10, 10], [0.8, 0.84, 0.4, 0.42])
    assert seeds.b.low < seeds.law.b < seeds.b.high
    assert math.isnan(seeds.deviation)
    bare = fit_power_law([1, 10], [0.8, 0.4])
    assert bare.law.b == pytest.approx(math.log10(0.5))
    assert math.isnan(bare.b.low)
    assert math.isnan(bare.predict(100).high)
    assert math.isnan(compute_ratio(bare, bare, 0.5).low)
    assert compute_ratio(bare, bare, 0.5).value == pytest.approx(1)


def test_the_seed_decides() -> None:
    error = noisy(PowerLaw(0.8, -0.3), np.random.default_rng(4))
    first, again, other = (fit_power_law(COMPUTE, error, seed=seed) for seed in (0, 0, 1))
    assert first.b == again.b
    assert first.b != other.b
    assert first.law == other.law


def test_ratio_of_compute_at_equal_error() -> None:
    generator = np.random.default_rng(5)
    steered, plain = PowerLaw(0.8, -0.3), PowerLaw(0.8 * 2**0.3, -0.3)
    first, second = (fit_power_law(COMPUTE, noisy(law, generator)) for law in (plain, steered))
    ratio = compute_ratio(first, second, 0.3)
    assert ratio.low < 2 < ratio.high
    assert ratio.low > 1
    assert ratio.high < 4
    same = compute_ratio(first, first, 0.3)
    assert same.value == 1
    assert same.low < 1 < same.high


def test_ratio_where_one_law_never_gets_there() -> None:
    reaches = fit_power_law(COMPUTE, PowerLaw(0.8, -0.3).error(COMPUTE))
    stalls = fit_power_law(COMPUTE, PowerLaw(0.8, -0.3, 0.2).error(COMPUTE), offset=True)
    assert compute_ratio(stalls, reaches, 0.1).value == math.inf
    assert compute_ratio(reaches, stalls, 0.1).value == 0
    assert math.isnan(compute_ratio(stalls, stalls, 0.1).value)
    rises = fit_power_law(COMPUTE, PowerLaw(0.2, 0.1).error(COMPUTE))
    undecided = compute_ratio(rises, reaches, 0.3)
    assert math.isnan(undecided.value)
    assert (undecided.low, undecided.high) == (0, math.inf)


@pytest.mark.parametrize(
    ("compute", "error", "options", "message"),
    [
        ([1, 2], [1.0], {}, r"`compute` and `error` must be lists of one length, found \[2\] and \[1\]"),
        ([1, 0], [1.0, 0.5], {}, "`compute` must hold finite numbers above 0, found 0.0"),
        ([1, 2], [1.0, math.nan], {}, "`error` must hold finite numbers above 0, found nan"),
        ([1, 1], [1.0, 0.5], {}, "`compute` must hold at least 2 different values for 2 parameters, found 1"),
        ([1, 2], [1.0, 0.5], {"offset": True}, "at least 3 different values for 3 parameters, found 2"),
        ([1, 2], [1.0, 0.5], {"draws": 0}, "`draws` must be at least 1, found 0"),
    ],
)
def test_bad_input(compute: list[float], error: list[float], options: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        fit_power_law(compute, error, **options)  # pyright: ignore[reportArgumentType]


def test_bad_error_for_a_ratio() -> None:
    fit = fit_power_law([1, 4, 16], [8.0, 4.0, 2.0])
    with pytest.raises(UserError, match="`error` must be above 0, found 0"):
        compute_ratio(fit, fit, 0)
