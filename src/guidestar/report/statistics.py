"""Mean and spread over seeds, and paired differences with their interval.

Values are one number a seed, in the same order of seeds for every strategy; a seed without one has NaN or None.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TypeGuard

# strategy -> metric -> one value a seed
Results = Mapping[str, Mapping[str, Sequence[float | None]]]

# The 97.5 % quantile of Student's t for 1 to 30 degrees of freedom (standard table); beyond, the normal's.
T_QUANTILES = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
NORMAL_QUANTILE = 1.960


@dataclass(frozen=True)
class Summary:
    """Mean and standard deviation over the seeds that have a value.

    Args:
        mean: the mean.
        std: the sample standard deviation (n - 1 in the denominator); None with one value.
        seeds: how many values there are.
    """

    mean: float
    std: float | None
    seeds: int


@dataclass(frozen=True)
class Difference:
    """The mean of a - b over the seeds that both have, with its 95 % interval.

    Args:
        mean: the mean difference.
        low: lower end of the interval; None with one seed, which gives none.
        high: upper end of the interval; None with one seed.
        seeds: how many seeds both have.
    """

    mean: float
    low: float | None
    high: float | None
    seeds: int

    @property
    def separated(self) -> bool:
        """Whether the interval exists and leaves out 0: the difference is measurable.

        Example:
            >>> Difference(1.0, 0.5, 1.5, 3).separated, Difference(1.0, None, None, 1).separated
            (True, False)
        """
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def summarise(values: Sequence[float | None]) -> Summary | None:
    """Mean and standard deviation of the finite values.

    Args:
        values: one a seed; NaN and None are left out.

    Returns:
        The summary, or None if no value is finite.

    Example:
        >>> summarise([1.0, 2.0, float("nan"), 3.0])
        Summary(mean=2.0, std=1.0, seeds=3)
    """
    finite = [value for value in values if _is_finite(value)]
    if not finite:
        return None
    mean = _mean(finite)
    return Summary(mean, _deviation(finite, mean), len(finite))


def paired_difference(first: Sequence[float | None], second: Sequence[float | None]) -> Difference | None:
    """Mean of first - second over common seeds, and its paired t interval at 95 %.

    mean +- t_{0.975, n-1} * std(first - second) / sqrt(n)

    Args:
        first: one value a seed.
        second: the same seeds in the same order.

    Returns:
        The difference, or None if no seed has both values.

    Example:
        >>> paired_difference([1.0, 3.0], [0.0, 0.0])
        Difference(mean=2.0, low=-10.706, high=14.706, seeds=2)
    """
    differences = [a - b for a, b in zip_longest(first, second) if _is_finite(a) and _is_finite(b)]
    if not differences:
        return None
    seeds = len(differences)
    mean = _mean(differences)
    deviation = _deviation(differences, mean)
    if deviation is None:
        return Difference(mean, None, None, seeds)
    half = _t_quantile(seeds - 1) * deviation / math.sqrt(seeds)
    return Difference(mean, mean - half, mean + half, seeds)


def _t_quantile(degrees: int) -> float:
    return T_QUANTILES[degrees - 1] if degrees <= len(T_QUANTILES) else NORMAL_QUANTILE


def _mean(values: list[float]) -> float:
    # Around the first value, so that equal values have exactly this mean and a deviation of exactly 0.
    return values[0] + math.fsum(value - values[0] for value in values) / len(values)


def _deviation(values: list[float], mean: float) -> float | None:
    if len(values) < 2:
        return None
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def _is_finite(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)
