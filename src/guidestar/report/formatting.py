"""How numbers are written: percent with one decimal, a spread where there is one."""

import math
from dataclasses import dataclass

from guidestar.report.statistics import Difference, Summary


@dataclass(frozen=True)
class Metric:
    """A number that strategies are compared by.

    Args:
        key: its name in result files.
        title: its name in a table.
        noun: its name in a sentence.
        percent: whether it is a fraction that is shown in percent.
        higher_is_better: which end is good.
        group: the table that it stands in, a key of `GROUPS`.
    """

    key: str
    title: str
    noun: str
    percent: bool
    higher_is_better: bool
    group: str


# The tables of a report with their titles; the first metric of each is what it is read for.
GROUPS = {
    "classification": "Classification",
    "zero_shot": "Zero-shot classification",
    "retrieval": "Retrieval",
    "frozen": "Frozen features",
}


METRICS = {
    metric.key: metric
    for metric in (
        Metric("accuracy", "Accuracy", "test accuracy", True, True, "classification"),
        Metric("balanced_accuracy", "Balanced accuracy", "balanced test accuracy", True, True, "classification"),
        Metric("nll", "NLL", "negative log-likelihood on the test data", False, False, "classification"),
        Metric("ece", "Calibration error", "calibration error on the test data", True, False, "classification"),
        Metric("zero_shot_top1", "Zero-shot top-1", "zero-shot accuracy", True, True, "zero_shot"),
        Metric("zero_shot_mean_class", "Mean of classes", "zero-shot accuracy per class", True, True, "zero_shot"),
        Metric("zero_shot_top5", "Zero-shot top-5", "zero-shot top-5 accuracy", True, True, "zero_shot"),
        Metric("zero_shot_nll", "NLL", "zero-shot negative log-likelihood", False, False, "zero_shot"),
        Metric("zero_shot_ece", "Calibration error", "zero-shot calibration error", True, False, "zero_shot"),
        Metric("retrieval", "Mean R@10", "retrieval recall at 10", True, True, "retrieval"),
        *(
            Metric(f"{way}_r{k}", f"{arrow} R@{k}", f"{words} recall at {k}", True, True, "retrieval")
            for way, arrow, words in (
                ("image_to_text", "Image to text", "image-to-text"),
                ("text_to_image", "Text to image", "text-to-image"),
            )
            for k in (1, 5, 10)
        ),
        Metric("linear_probe", "Linear probe", "linear-probe accuracy", True, True, "frozen"),
        Metric("knn", "Nearest neighbours", "nearest-neighbour accuracy", True, True, "frozen"),
    )
}


def value_text(metric: Metric, value: float, unit: bool = True) -> str:
    """A value of a metric.

    Args:
        metric: which metric it is.
        value: a fraction for metrics in percent.
        unit: whether to write the percent sign.

    Returns:
        One decimal in percent, three otherwise.

    Example:
        >>> value_text(METRICS["accuracy"], 0.947), value_text(METRICS["nll"], 0.3)
        ('94.7 %', '0.300')
    """
    if not metric.percent:
        return f"{value:.3f}"
    return f"{100 * value:.1f}{' %' if unit else ''}"


def summary_text(metric: Metric, summary: Summary) -> str:
    """A mean with its spread in brackets, for a sentence.

    Args:
        metric: which metric it is.
        summary: of its values over seeds.

    Returns:
        The mean alone when there is one seed or when all seeds agree exactly, as for a reference that is given.

    Example:
        >>> summary_text(METRICS["accuracy"], Summary(0.947, 0.006, 5))
        '94.7 % (± 0.6)'
    """
    spread = f" (± {value_text(metric, summary.std, unit=False)})" if summary.std else ""
    return value_text(metric, summary.mean) + spread


def bracket_text(metric: Metric, summary: Summary) -> str:
    """A mean with its spread, for use within brackets.

    Args:
        metric: which metric it is.
        summary: of its values over seeds.

    Returns:
        As `summary_text`, without brackets of its own.

    Example:
        >>> bracket_text(METRICS["accuracy"], Summary(0.947, 0.006, 5))
        '94.7 ± 0.6 %'
    """
    if not summary.std:
        return value_text(metric, summary.mean)
    mean, spread = (value_text(metric, value, unit=False) for value in (summary.mean, summary.std))
    return f"{mean} ± {spread}{' %' if metric.percent else ''}"


def difference_text(metric: Metric, difference: Difference) -> str:
    """The size of a difference without its sign, with unit and interval.

    Args:
        metric: which metric it is.
        difference: between two strategies.

    Returns:
        The text; the interval is turned so that its sign fits the size.

    Example:
        >>> difference_text(METRICS["accuracy"], Difference(-0.011, -0.015, -0.007, 5))
        '1.1 points (95 % interval 0.7 to 1.5)'
    """
    ends = [difference.low, difference.high]
    if difference.mean < 0:
        ends = [None if end is None else -end for end in reversed(ends)]
    scale, digits = (100, 1) if metric.percent else (1, 3)
    size = f"{abs(difference.mean) * scale:.{digits}f}{' points' if metric.percent else ''}"
    if ends[0] is None or ends[1] is None:
        return size
    return f"{size} (95 % interval {ends[0] * scale:.{digits}f} to {ends[1] * scale:.{digits}f})"


def count_text(value: float | None) -> str:
    """A count with thousands apart by a narrow space.

    Args:
        value: a number of samples, or None.

    Returns:
        The text, a dash for None.

    Example:
        >>> count_text(20000.0).replace(chr(0x202F), "_"), count_text(None)
        ('20_000', '-')
    """
    return "-" if value is None or not math.isfinite(value) else f"{round(value):,}".replace(",", "\u202f")


def seconds_text(value: float | None) -> str:
    """A duration.

    Args:
        value: seconds, or None.

    Returns:
        Seconds below two minutes, then minutes, then hours; a dash for None.

    Example:
        >>> seconds_text(3.21), seconds_text(600.0), seconds_text(None)
        ('3.2 s', '10.0 min', '-')
    """
    if value is None or not math.isfinite(value):
        return "-"
    if value < 120:
        return f"{value:.1f} s"
    return f"{value / 60:.1f} min" if value < 7200 else f"{value / 3600:.1f} h"


def seeds_text(seeds: int) -> str:
    """A number of seeds.

    Args:
        seeds: how many.

    Returns:
        The text, singular for one.

    Example:
        >>> seeds_text(1), seeds_text(5)
        ('1 seed', '5 seeds')
    """
    return f"{seeds} seed" if seeds == 1 else f"{seeds} seeds"


def listing(parts: list[str]) -> str:
    """Words joined as in a sentence.

    Args:
        parts: at least one.

    Returns:
        Commas, and an "and" before the last.

    Example:
        >>> listing(["a", "b", "c"])
        'a, b and c'
    """
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
