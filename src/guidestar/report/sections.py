"""Costs, weights, problems and curve legends as plain values that the template only lays out."""

import math
import re
from dataclasses import dataclass

import numpy as np

from guidestar.report.formatting import (
    Metric,
    count_text,
    seconds_text,
    value_text,
)
from guidestar.report.rundir import Run
from guidestar.report.statistics import summarise
from guidestar.report.strategies import Strategy, describe
from guidestar.report.tables import Cell, Row
from guidestar.report.weights import SHOWN_FIRST, Weights, read_weights


def cost_section(run: Run) -> list[Row]:
    """What each strategy cost, mean over seeds: seconds, and the same against plain training; samples; passes.

    Args:
        run: the run.

    Returns:
        One row a strategy that has costs.

    Example:
        >>> from pathlib import Path
        >>> cost_section(Run(Path("runs/none"), "none", [0], {}))
        []
    """
    rows = []
    erm = _mean(run, "erm", "seconds")
    for key in run.results:
        seconds = _mean(run, key, "seconds")
        counts = [_mean(run, key, name) for name in ("samples_trained", "forward_samples", "reference_forward_samples")]
        if seconds is None and all(count is None for count in counts):
            continue
        ratio = f"{seconds / erm:.2f}\u00d7" if seconds is not None and erm and key != "as_is" else "-"
        cells = [Cell(seconds_text(seconds)), Cell(ratio), *(Cell(count_text(count)) for count in counts)]
        seeds = summarise(run.results[key].get("seconds", []))
        rows.append(Row(describe(key), cells, seeds.seeds if seeds else 0))
    return rows


@dataclass(frozen=True)
class WeightShares:
    """What a strategy's weights come to.

    Args:
        strategy: whose weights they are.
        clean: mean weight of samples with a true label (of all samples if the true labels are not known).
        corrupted: mean weight of samples with a changed label; empty if not known.
        corrupted_weight: their share of the total weight.
        corrupted_samples: their share of the samples.
        ignored: share of the samples with a weight below 0.1.
    """

    strategy: Strategy
    clean: str
    corrupted: str
    corrupted_weight: str
    corrupted_samples: str
    ignored: str


def weights_section(run: Run) -> tuple[Weights | None, list[WeightShares], list[str]]:
    """The weights to draw, the shares of every strategy that has weights, and what could not be read.

    Args:
        run: the run.

    Returns:
        The weights of the first of `SHOWN_FIRST` that has any; shares; warnings.

    Example:
        >>> from pathlib import Path
        >>> weights_section(Run(Path("runs/none"), "none", [0], {}))
        (None, [], [])
    """
    found = [weights for key in SHOWN_FIRST if (weights := read_weights(run, key)) is not None]
    usable = [weights for weights in found if weights.seeds and _size(weights)]
    warnings = [warning for weights in found for warning in weights.warnings]
    return (usable[0] if usable else None), [_shares(weights) for weights in usable], warnings


def problem_lines(run: Run) -> list[tuple[str, str]]:
    """What has no result, one line a strategy and reason, with the seeds that it concerns.

    Args:
        run: the run.

    Returns:
        Pairs of strategy and text.

    Example:
        >>> from pathlib import Path
        >>> from guidestar.report.rundir import Problem
        >>> problem = Problem("steer", 0, "failed: NaN")
        >>> problem_lines(Run(Path("runs/none"), "none", [0], {}, [problem]))
        [('steer', 'failed: NaN (seed 0)')]
    """
    seeds: dict[tuple[str, str], list[int]] = {}
    for problem in run.problems:
        seeds.setdefault((problem.strategy, problem.reason), []).append(problem.seed)
    lines = []
    for (strategy, reason), listed in seeds.items():
        numbers = [str(seed) for seed in listed if seed >= 0]
        where = f" (seed{'s' if len(numbers) > 1 else ''} {', '.join(numbers)})" if numbers else ""
        lines.append((strategy, reason + where))
    return lines


def no_break(text: str) -> str:
    """Text whose numbers keep together with their unit and spread at a line's end.

    Args:
        text: any text.

    Returns:
        The text with some spaces made non-breaking.

    Example:
        >>> no_break("94.7 % (± 0.6) test") == "94.7\\u00a0% (±\\u00a00.6) test"
        True
    """
    return re.sub(r"(?<=\d) (?=%|points\b|seeds?\b|±)|(?<=±) ", "\u00a0", text)


def _mean(run: Run, strategy: str, name: str) -> float | None:
    summary = summarise(run.results.get(strategy, {}).get(name, []))
    return summary.mean if summary else None


def _size(weights: Weights) -> int:
    return len(weights.clean) + (0 if weights.corrupted is None else len(weights.corrupted))


def _shares(weights: Weights) -> WeightShares:
    corrupted = weights.corrupted if weights.corrupted is not None and len(weights.corrupted) else None
    pooled = weights.clean if corrupted is None else np.concatenate([weights.clean, corrupted])
    total = pooled.sum()
    return WeightShares(
        describe(weights.strategy),
        clean=f"{weights.clean.mean():.2f}" if len(weights.clean) else "-",
        corrupted="" if corrupted is None else f"{corrupted.mean():.2f}",
        corrupted_weight="" if corrupted is None or total == 0 else _percent(corrupted.sum() / total),
        corrupted_samples="" if corrupted is None else _percent(len(corrupted) / len(pooled)),
        ignored=_percent((pooled < 0.1).mean()),
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def weight_text(value: float) -> str:
    """A weight of a sample.

    Args:
        value: the weight; NaN where it is not known.

    Returns:
        Two decimals, or two significant digits where that would be too few.

    Example:
        >>> weight_text(3.14159), weight_text(0.00012), weight_text(float("nan"))
        ('3.14', '0.00012', '-')
    """
    if math.isnan(value):
        return "-"
    return f"{value:.2f}" if value >= 0.1 or value == 0 else f"{value:#.2g}"


def curve_order(finals: dict[str, float], metric: Metric) -> list[tuple[Strategy, str]]:
    """The legend of the learning curves: best final value first.

    Args:
        finals: strategy -> last mean.
        metric: what they are.

    Returns:
        Pairs of strategy and its final value.

    Example:
        >>> from guidestar.report.formatting import METRICS
        >>> [text for _, text in curve_order({"erm": 0.8, "steer": 0.9}, METRICS["accuracy"])]
        ['90.0 %', '80.0 %']
    """
    keys = sorted(finals, key=lambda key: finals[key], reverse=metric.higher_is_better)
    return [(describe(key), value_text(metric, finals[key])) for key in keys]
