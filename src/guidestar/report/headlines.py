"""What a run is read for: accuracy of classifiers; zero-shot accuracy and retrieval of image-text models."""

import math
from collections.abc import Mapping, Sequence

from guidestar.errors import UserError
from guidestar.report.formatting import METRICS, Metric
from guidestar.report.statistics import Results, summarise

# The two ways whose mean is the headline of retrieval.
WAYS = ("image_to_text_r10", "text_to_image_r10")


def with_retrieval(results: Results) -> dict[str, dict[str, Sequence[float | None]]]:
    """The results with the column `retrieval`: the mean of recall at 10 both ways, seed by seed.

    Args:
        results: strategy -> metric -> one value a seed.

    Returns:
        A copy with the column wherever both ways are there.

    Example:
        >>> with_retrieval({"erm": {"image_to_text_r10": [0.5], "text_to_image_r10": [0.25]}})["erm"]["retrieval"]
        [0.375]
    """
    filled = {}
    for strategy, columns in results.items():
        filled[strategy] = dict(columns)
        if all(way in columns for way in WAYS):
            pairs = zip(*(columns[way] for way in WAYS), strict=False)
            filled[strategy]["retrieval"] = [
                math.nan if first is None or second is None else (first + second) / 2 for first, second in pairs
            ]
    return filled


def headlines(results: Results, metric: str | None = None, pairs: bool = False) -> list[Metric]:
    """The metrics that the answer goes by, the most important first.

    Args:
        results: strategy -> metric -> one value a seed, with the column `retrieval`.
        metric: what to go by instead; None for the defaults.
        pairs: whether the run is known to be one on image-text pairs, also when nothing has finished.

    Returns:
        At least one metric.

    Raises:
        UserError: the metric is not known.

    Example:
        >>> [metric.key for metric in headlines({"erm": {"zero_shot_top1": [0.5], "retrieval": [0.4]}})]
        ['zero_shot_top1', 'retrieval']
        >>> [metric.key for metric in headlines({})]
        ['accuracy']
    """
    if metric is not None:
        if metric not in METRICS:
            raise UserError(f"`metric` must be one of {', '.join(METRICS)}, found {metric!r}.")
        return [METRICS[metric]]
    candidates = [METRICS[key] for key in ("accuracy", "zero_shot_top1", "retrieval")]
    found = [metric for metric in candidates if has(results, metric)]
    if found:
        return found
    return candidates[1:] if pairs else candidates[:1]


def has(results: Results, metric: Metric) -> bool:
    """Whether any strategy has a value.

    Args:
        results: strategy -> metric -> one value a seed.
        metric: which one.

    Returns:
        Whether there is a finite one.

    Example:
        >>> has({"erm": {"accuracy": [float("nan")]}}, METRICS["accuracy"])
        False
    """
    return any(summarise(columns.get(metric.key, [])) is not None for columns in results.values())


def value_of(record: Mapping[str, object], key: str) -> object:
    """A metric out of a single record, with `retrieval` made from its two ways.

    Args:
        record: metric -> value, as read from JSON.
        key: a metric.

    Returns:
        The value, or None.

    Example:
        >>> value_of({"image_to_text_r10": 0.5, "text_to_image_r10": 0.25}, "retrieval")
        0.375
    """
    if key != "retrieval":
        return record.get(key)
    ways = [record.get(way) for way in WAYS]
    numbers = [way for way in ways if isinstance(way, int | float)]
    return sum(numbers) / len(WAYS) if len(numbers) == len(WAYS) else None
