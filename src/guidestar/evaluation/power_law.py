"""Scaling laws: error as a power of compute, with intervals, predictions and the compute that one law saves.

Fits are least squares in log space, over the geometric mean of the errors at each amount of compute (a cell), weighted
by how many there are.
"""

from dataclasses import dataclass

import numpy as np

from guidestar.errors import UserError

# Tails that are cut off for an interval of 95 %.
LOW, HIGH = 0.025, 0.975
# Shares of the smallest error that the search for an offset starts from.
STARTS = (0.1, 0.5, 0.9, 0.99)
ITERATIONS = 200
# A step that takes less than this share of the squares away is the last one.
TOLERANCE = 1e-10


@dataclass(frozen=True)
class PowerLaw:
    """E = a C^b + c.

    Args:
        a: the error at one unit of compute, above the offset.
        b: the exponent; negative where more compute helps.
        c: the error that no compute removes, at least 0.
    """

    a: float
    b: float
    c: float = 0.0

    def error(self, compute: np.ndarray | float) -> np.ndarray:
        """The error at an amount of compute.

        Args:
            compute: above 0.

        Returns:
            a C^b + c, in the shape of `compute`.

        Example:
            >>> float(PowerLaw(8.0, -0.5).error(4.0))
            4.0
        """
        return self.a * np.asarray(compute, dtype=np.float64) ** self.b + self.c

    def compute(self, error: float) -> float:
        """The compute at which the law has an error.

        C = ((E - c) / a)^(1/b)

        Args:
            error: above 0.

        Returns:
            The compute; infinity where the error is not reached because of the offset, NaN where the law does not fall.

        Example:
            >>> PowerLaw(8.0, -0.5).compute(4.0), PowerLaw(8.0, -0.5, 5.0).compute(4.0)
            (4.0, inf)
        """
        return float(_compute(np.array([[self.a, self.b, self.c]]), error)[0])


@dataclass(frozen=True)
class Interval:
    """A number with its 95 % interval; the ends are NaN where the points do not give one.

    Args:
        value: the number.
        low: the lower end.
        high: the upper end.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class PowerLawFit:
    """A law with what else would fit about as well.

    Args:
        law: the best fit.
        draws: [draws, 3], the a, b and c of bootstrap fits; empty where the points leave no doubt to measure.
        a: of the law, with its interval.
        b: of the law, with its interval.
        c: of the law, with its interval; 0 without an offset.
        deviation: root mean square of log(error) - log(law) over cells, adjusted for the number of parameters; NaN
            where there are as many parameters as cells.
    """

    law: PowerLaw
    draws: np.ndarray
    a: Interval
    b: Interval
    c: Interval
    deviation: float

    def predict(self, compute: float) -> Interval:
        """The error at an amount of compute, with the interval of the law (not of a single run).

        Args:
            compute: above 0.

        Returns:
            The error and its interval.

        Example:
            >>> fit = fit_power_law([1, 4, 16], [8.0, 4.0, 2.0])
            >>> round(fit.predict(64).value, 6)
            1.0
        """
        a, b, c = self.draws.T
        with np.errstate(over="ignore"):
            return _interval(float(self.law.error(compute)), a * float(compute) ** b + c)


def fit_power_law(
    compute: np.ndarray | list[float],
    error: np.ndarray | list[float],
    *,
    offset: bool = False,
    draws: int = 1000,
    seed: int = 0,
) -> PowerLawFit:
    """Fit E = a C^b, or E = a C^b + c with c >= 0, to points.

    min over a, b, c of  sum over cells of n_k (log E_k - log(a C_k^b + c))^2

    The intervals come from a parametric bootstrap: normal deviations in log space are added to the law and it is fitted
    again. Their variance is what the cells leave over after the fit, itself drawn anew each time (degrees of freedom
    over a chi-square), so that for a line the interval is Student's t. With as many cells as parameters the spread
    within cells (seeds) is taken instead.

    Args:
        compute: above 0, one a point; equal values form a cell.
        error: above 0, one a point.
        offset: whether to fit c; needs three different amounts of compute instead of two.
        draws: bootstrap fits.
        seed: of the bootstrap.

    Returns:
        The fit.

    Raises:
        UserError: the lists differ in length, hold numbers that are not finite and above 0, or too few different
            amounts of compute; or `draws` is below 1.

    Example:
        >>> fit = fit_power_law([1, 4, 16], [8.0, 4.0, 2.0])
        >>> round(fit.law.a, 6), round(fit.law.b, 6)
        (8.0, -0.5)
    """
    x, y, counts, within, spare = _cells(compute, error, 3 if offset else 2)
    if draws < 1:
        raise UserError(f"`draws` must be at least 1, found {draws}.")
    fit = _fit_offset if offset else _fit_line
    best = fit(x, y[None], counts)[0]
    residual = y - _log_error(best[None], x)[0]
    freedom = len(x) - (3 if offset else 2)
    squares = float((counts * residual**2).sum())
    deviation = float(np.sqrt(squares / counts.mean() / freedom)) if freedom else float("nan")
    if not freedom:
        squares, freedom = within, spare
    sampled = np.empty((0, 3))
    if freedom:
        generator = np.random.default_rng(seed)
        variance = squares / generator.chisquare(freedom, size=(draws, 1))
        noise = generator.standard_normal((draws, len(x))) * np.sqrt(variance / counts)
        sampled = fit(x, _log_error(best[None], x) + noise, counts)
    a, b, c = (_interval(float(value), column) for value, column in zip(best, sampled.T, strict=True))
    return PowerLawFit(PowerLaw(a.value, b.value, c.value), sampled, a, b, c, deviation)


def compute_ratio(first: PowerLawFit, second: PowerLawFit, error: float) -> Interval:
    """How many times the compute of the second law the first one needs for the same error.

    Args:
        first: a fit.
        second: another fit.
        error: the error that both are to reach.

    Returns:
        C_1(E) / C_2(E) with its interval, the two fits taken as independent; above 1, the second law is cheaper.
        Infinity where only the second reaches the error, 0 where only the first does, NaN where neither does. Draws
        in which it is not determined count towards both ends.

    Raises:
        UserError: the error is not above 0.

    Example:
        >>> slow, fast = (fit_power_law([1, 4, 16], [factor * e for e in (8.0, 4.0, 2.0)]) for factor in (1, 0.5))
        >>> round(compute_ratio(slow, fast, 1.0).value, 6)
        4.0
    """
    if not error > 0:
        raise UserError(f"`error` must be above 0, found {error}.")
    # The same seed may have drawn both; turning one round keeps equal draws from meeting.
    pairs = min(len(first.draws), len(second.draws))
    turned = np.roll(second.draws, 1 + pairs // 2, axis=0)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        value = np.float64(first.law.compute(error)) / np.float64(second.law.compute(error))
        ratios = _compute(first.draws[:pairs], error) / _compute(turned[:pairs], error)
    return _interval(float(value), ratios, lowest=0.0)


def _cells(
    compute: np.ndarray | list[float], error: np.ndarray | list[float], parameters: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float, int]:
    """log C and mean log E of each cell, its size; the squares within cells and their degrees of freedom."""
    c, e = np.asarray(compute, dtype=np.float64), np.asarray(error, dtype=np.float64)
    if c.ndim != 1 or c.shape != e.shape:
        raise UserError(
            f"`compute` and `error` must be lists of one length, found {list(c.shape)} and {list(e.shape)}."
        )
    for name, values in (("compute", c), ("error", e)):
        wrong = values[~(np.isfinite(values) & (values > 0))]
        if len(wrong):
            raise UserError(f"`{name}` must hold finite numbers above 0, found {wrong[0]}: a power law has no others.")
    levels, cell = np.unique(c, return_inverse=True)
    if len(levels) < parameters:
        raise UserError(
            f"`compute` must hold at least {parameters} different values for {parameters} parameters, found "
            f"{len(levels)}: run more sizes or numbers of samples."
        )
    counts = np.bincount(cell).astype(np.float64)
    y = np.bincount(cell, weights=np.log(e)) / counts
    return np.log(levels), y, counts, float(((np.log(e) - y[cell]) ** 2).sum()), len(e) - len(levels)


def _log_error(parameters: np.ndarray, x: np.ndarray) -> np.ndarray:
    """log(a C^b + c) for parameters [D, 3] and log C [G]: [D, G]."""
    a, b, c = (column[:, None] for column in parameters.T)
    with np.errstate(divide="ignore"):
        return np.logaddexp(np.log(a) + b * x, np.log(c))


def _fit_line(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted least squares of a line to each row of y [D, G]: [D, 3] with c = 0."""
    centre = np.average(x, weights=weights)
    mean = np.average(y, weights=weights, axis=1)
    b = (weights * (x - centre) * (y - mean[:, None])).sum(axis=1) / (weights * (x - centre) ** 2).sum()
    return np.stack([np.exp(mean - b * centre), b, np.zeros(len(y))], axis=1)


def _fit_offset(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Least squares with an offset for each row of y [D, G]: [D, 3].

    Levenberg-Marquardt over (log a, b, log c) from several offsets, against the line, which is the limit c = 0.
    """
    best = _fit_line(x, y, weights)
    lowest = (weights * (y - _log_error(best, x)) ** 2).sum(axis=1)
    # An offset that improves on the line by rounding only is none, nor is there one where the line is met exactly.
    floor = 1e-20 * weights.sum()
    for share in STARTS:
        c = share * np.exp(y.min(axis=1))
        line = _fit_line(x, np.log(np.exp(y) - c[:, None]), weights)
        theta = np.stack([np.log(line[:, 0]), line[:, 1], np.log(c)], axis=1)
        theta, squares = _descend(theta, x, y, weights)
        better = (squares < (1 - 1e-9) * lowest) & (lowest > floor)
        best[better] = np.stack([np.exp(theta[:, 0]), theta[:, 1], np.exp(theta[:, 2])], axis=1)[better]
        lowest[better] = squares[better]
    return best


def _descend(theta: np.ndarray, x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Levenberg-Marquardt on all rows at once: parameters [D, 3] and the squares that are left [D]."""
    theta = theta.copy()
    squares, _, _ = _state(theta, x, y, weights)
    damping = np.full(len(theta), 1e-3)
    active = np.arange(len(theta))
    for _ in range(ITERATIONS):
        at, before, damp = theta[active], squares[active], damping[active]
        _, residual, share = _state(at, x, y[active], weights)
        slopes = np.stack([share, share * x, 1 - share], axis=2)
        weighted = slopes * weights[:, None]
        normal = weighted.transpose(0, 2, 1) @ slopes
        # Beside the diagonal a little of the identity: with c far below the errors the squares do not depend on it.
        scale = (np.einsum("dii->di", normal) + 1e-12)[:, :, None] * np.eye(3)
        gradient = (weighted * residual[:, :, None]).sum(axis=1)
        step = np.linalg.solve(normal + damp[:, None, None] * scale, gradient[..., None])[..., 0]
        trial = at + np.clip(step, -5, 5)
        after, _, _ = _state(trial, x, y[active], weights)
        better = after < before
        theta[active[better]], squares[active[better]] = trial[better], after[better]
        damping[active] = np.where(better, damp / 4, damp * 6)
        settled = (better & (before - after <= TOLERANCE * before)) | (damping[active] > 1e10)
        active = active[~settled]
        if not len(active):
            break
    return theta, squares


def _state(
    theta: np.ndarray, x: np.ndarray, y: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The squares [D], the residuals [D, G] and the power's share of the error [D, G] at (log a, b, log c)."""
    power = theta[:, :1] + theta[:, 1:2] * x
    fitted = np.logaddexp(power, theta[:, 2:])
    residual = y - fitted
    return (weights * residual**2).sum(axis=1), residual, np.exp(power - fitted)


def _compute(parameters: np.ndarray, error: float) -> np.ndarray:
    """The compute at which each law [D, 3] has the error: inf where it is never reached, NaN where it does not fall."""
    a, b, c = parameters.T
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        reached = np.where(error > c, (np.maximum(error - c, 0) / a) ** (1 / b), np.inf)
    return np.where(b < 0, reached, np.nan)


def _interval(value: float, draws: np.ndarray, lowest: float = -np.inf) -> Interval:
    """The middle 95 % of the draws; one that is not determined counts as far out at both ends."""
    if not len(draws):
        return Interval(value, float("nan"), float("nan"))
    unknown = np.isnan(draws)
    # Without interpolation, which makes NaN of infinities.
    low = np.quantile(np.where(unknown, lowest, draws), LOW, method="lower")
    high = np.quantile(np.where(unknown, np.inf, draws), HIGH, method="higher")
    return Interval(value, float(low), float(high))
