"""Tables and sentences from numbers: nothing about who wins is written by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from guidestar.report.statistics import paired_difference, summarise

from .study import Metric

Methods = Mapping[str, Mapping[str, Any]]
MINUS = "\N{MINUS SIGN}"


def table(methods: Methods, titles: Mapping[str, str], metrics: Mapping[str, Metric], tuned: str) -> list[str]:
    """A row a method, mean ± standard deviation a cell; the best mean of a column is bold.

    A chosen setting at an end of its list gets a star.
    """
    heads = [metric.title + (", %" if metric.percent else "") for metric in metrics.values()]
    lines = ["| method | " + " | ".join([*heads, tuned]) + " |", "|---" + "|---:" * (len(heads) + 1) + "|"]
    tops = {key: best(methods, key, metric) for key, metric in metrics.items()}
    for name, title in titles.items():
        if name in methods:
            cells = [
                cell(methods[name]["test"][key], metric, name == tops[key], places(methods, key, metric))
                for key, metric in metrics.items()
            ]
            lines.append(f"| {title} | " + " | ".join([*cells, setting(methods[name])]) + " |")
    return lines


def cell(values: Sequence[float], metric: Metric, bold: bool, digits: int) -> str:
    """Mean ± standard deviation.

    Example:
        >>> cell([0.5, 0.52], Metric("accuracy"), True, 1).replace("\N{NO-BREAK SPACE}", " ")
        '**51.0 ± 1.4**'
    """
    summary = summarise(values)
    if summary is None:
        return "not finite"
    scale = 100.0 if metric.percent else 1.0
    text = f"{scale * summary.mean:.{digits}f} ± {scale * (summary.std or 0.0):.{digits}f}"
    text = text.replace(" ", "\N{NO-BREAK SPACE}")
    return f"**{text}**" if bold else text


def places(methods: Methods, key: str, metric: Metric) -> int:
    """Decimal places of a column: one for shares, two where the shares are small, three for losses."""
    if not metric.percent:
        return 3
    largest = max(max(entry["test"][key]) for entry in methods.values())
    return 1 if largest > 0.2 else 2


def best(methods: Methods, key: str, metric: Metric) -> str:
    """The method with the best mean."""
    sign = 1.0 if metric.higher else -1.0

    def mean(name: str) -> float:
        summary = summarise(methods[name]["test"][key])
        return float("-inf") if summary is None else sign * summary.mean

    return max(methods, key=mean)


def setting(entry: Mapping[str, Any]) -> str:
    """The chosen setting, with a star at an end of the list.

    Example:
        >>> setting({"setting": 0.1, "settings": [0.1, 0.2]}), setting({"setting": 0.0, "settings": [0.0]})
        ('0.1*', '')
    """
    values = entry["settings"]
    if len(values) == 1:
        return ""
    return f"{entry['setting']:g}" + ("*" if entry["setting"] in (min(values), max(values)) else "")


def against(
    methods: Methods, titles: Mapping[str, str], key: str, metric: Metric, pairs: Sequence[tuple[str, str]]
) -> list[str]:
    """A list entry a pair: the paired difference of the first and the second method, its interval and a verdict."""
    lines = [f"{metric.title[0].upper()}{metric.title[1:]}, the difference with its 95 % interval over the seeds:\n"]
    for first, second in pairs:
        difference = paired_difference(methods[first]["test"][key], methods[second]["test"][key])
        lines.append(f"- {titles[first]} against {titles[second]}: {verdict(difference, metric)}")
    return lines


def verdict(difference: Any, metric: Metric) -> str:
    """The words of one difference."""
    if difference is None or difference.low is None:
        return "not comparable"
    scale, form = (100.0, ".1f") if metric.percent else (1.0, ".3f")
    if metric.percent and max(abs(difference.low), abs(difference.high)) < 0.02:
        form = ".2f"
    mean, low, high = (
        f"{scale * x:+{form}}".replace("-", MINUS) for x in (difference.mean, difference.low, difference.high)
    )
    words = "not measurable"
    if difference.separated:
        words = "better" if (difference.mean > 0) == metric.higher else "**worse**"
    return f"{mean}{' points' if metric.percent else ''} ({low} to {high}): {words}"
