"""Sentences and cells from numbers: nothing about who wins is written by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from guidestar.report.statistics import Difference, paired_difference, summarise

Values = Sequence[float | None]


def cell(values: Values | None, bold: bool = False) -> str:
    """Mean ± standard deviation in percent.

    Example:
        >>> cell([0.5, 0.52]).replace("\N{NO-BREAK SPACE}", " "), cell(None)
        ('51.0 ± 1.4', '')
    """
    summary = None if values is None else summarise(values)
    if summary is None:
        return ""
    text = f"{100 * summary.mean:.1f} ± {100 * (summary.std or 0.0):.1f}".replace(" ", "\N{NO-BREAK SPACE}")
    return f"**{text}**" if bold else text


def mean(values: Values) -> float:
    """The mean of the finite values, minus infinity if one is missing: such a method can't be the best."""
    summary = summarise(values)
    return summary.mean if summary is not None and summary.seeds == len(values) else float("-inf")


def best(values: Mapping[str, Values]) -> str:
    """The name with the highest mean.

    Example:
        >>> best({"a": [0.1, 0.2], "b": [0.3, None], "c": [0.2, 0.2]})
        'c'
    """
    return max(values, key=lambda name: mean(values[name]))


@dataclass(frozen=True)
class Comparison:
    """The best of ours against the best of the others on one metric of one task."""

    ours: str
    other: str
    difference: Difference | None

    @property
    def higher(self) -> bool:
        """Whether ours has the higher mean."""
        return self.difference is not None and self.difference.mean > 0

    @property
    def words(self) -> str:
        """The difference in points, its interval, and what follows from it."""
        if self.difference is None or self.difference.low is None or self.difference.high is None:
            return "not comparable"
        low, high = (f"{100 * end:+.1f}" for end in (self.difference.low, self.difference.high))
        verdict = "not measurable"
        if self.difference.separated:
            verdict = "better" if self.higher else "**worse**"
        return f"{100 * self.difference.mean:+.1f} ({low} to {high}): {verdict}".replace("-", "\N{MINUS SIGN}")


def compare(methods: dict[str, Any], metric: str, ours: Sequence[str], others: Sequence[str]) -> Comparison:
    """The best of `ours` and the best of `others` among the methods that were run."""
    groups = [{name: methods[name]["test"][metric] for name in names if name in methods} for names in (ours, others)]
    if not all(groups):
        return Comparison("", "", None)
    first, second = (best(group) for group in groups)
    return Comparison(first, second, paired_difference(groups[0][first], groups[1][second]))


def tally(comparisons: Sequence[Comparison], others: str) -> str:
    """How often ours had the higher mean, and how often a difference is measurable."""
    comparisons = [found for found in comparisons if found.difference is not None]
    higher = sum(comparison.higher for comparison in comparisons)
    separated = [found for found in comparisons if found.difference is not None and found.difference.separated]
    better = sum(found.higher for found in separated)
    return (
        f"Against {others}, the best row of guidestar has the higher mean in {higher} of {len(comparisons)} comparisons, "
        f"measurably in {better}, and the lower one in {len(comparisons) - higher}, measurably in {len(separated) - better}.\n"
    )
