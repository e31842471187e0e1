"""Learning curves: a metric on the test data against samples trained on, mean and spread over seeds."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from guidestar.report.headlines import value_of
from guidestar.report.rundir import Run, number, read_lines
from guidestar.report.strategies import in_order


@dataclass(frozen=True)
class Curve:
    """A learning curve over seeds.

    Args:
        strategy: whose curve it is.
        samples: samples trained on, ascending.
        mean: the mean over seeds at each.
        std: the standard deviation over seeds at each; 0 where there is one seed.
        seeds: how many seeds it is made of.
    """

    strategy: str
    samples: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    seeds: int


def read_curves(run: Run, metric: str = "accuracy") -> list[Curve]:
    """The learning curves of every strategy that was evaluated at least twice while it trained.

    Seeds that were evaluated at different points are interpolated linearly, within their own range only.

    Args:
        run: the run.
        metric: a key of the test metrics.

    Returns:
        One curve a strategy, in the order of reports.

    Example:
        >>> read_curves(Run(Path("runs/none"), "none", [0], {"steer": {}}))
        []
    """
    curves = []
    for strategy in in_order(set(run.folders)):
        series = [_points(folder / "metrics.jsonl", metric) for _, folder in run.folders[strategy]]
        series = [points for points in series if len(points) > 1]
        if series:
            curves.append(_average(strategy, series))
    return curves


def _points(path: Path, metric: str) -> dict[float, float]:
    """Samples trained on -> value; a point written twice (before a kill and after the resume) counts once, the last."""
    points = {}
    for record in read_lines(path):
        test = record.get("test")
        if isinstance(test, dict):
            samples, value = number(record.get("samples_trained")), number(value_of(test, metric))
            if np.isfinite(samples) and np.isfinite(value):
                points[samples] = value
    return dict(sorted(points.items()))


def _average(strategy: str, series: list[dict[float, float]]) -> Curve:
    samples = np.array(sorted(set().union(*series)))
    values = np.stack(
        [np.interp(samples, list(points), list(points.values()), left=np.nan, right=np.nan) for points in series]
    )
    # Every sample count comes from some seed, so no column is all NaN.
    count = np.isfinite(values).sum(axis=0)
    mean = np.nanmean(values, axis=0)
    squares = np.nansum((values - mean) ** 2, axis=0)
    std = np.sqrt(squares / np.maximum(count - 1, 1))
    return Curve(strategy, samples, mean, std, len(series))
