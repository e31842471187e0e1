"""The results as tables: strategies by metrics, a table for each group of metrics."""

from dataclasses import dataclass

from guidestar.report.formatting import GROUPS, METRICS, Metric, listing, seeds_text, value_text
from guidestar.report.headlines import has
from guidestar.report.rundir import Run
from guidestar.report.statistics import Difference, Summary, paired_difference, summarise
from guidestar.report.strategies import Strategy, describe
from guidestar.report.terminal import best_mean

MINUS = "\u2212"


@dataclass(frozen=True)
class Cell:
    """A number of a table.

    Args:
        mean: the mean as text.
        spread: the spread as text; empty where there is none.
        best: whether it is the best of its column.
    """

    mean: str
    spread: str = ""
    best: bool = False


@dataclass(frozen=True)
class Row:
    """A strategy's row of a table.

    Args:
        strategy: whose row it is.
        cells: its numbers.
        seeds: how many seeds have results.
    """

    strategy: Strategy
    cells: list[Cell]
    seeds: int


@dataclass(frozen=True)
class ResultsTable:
    """Strategies by metrics of a group.

    Args:
        title: the group's name.
        primary: the metric of the differences.
        metrics: the columns.
        baseline: whether a last column holds the difference to plain training.
        rows: one a strategy that has results.
    """

    title: str
    primary: Metric
    metrics: list[Metric]
    baseline: bool
    rows: list[Row]


def results_sections(run: Run, primaries: list[Metric]) -> list[ResultsTable]:
    """A table for each group of metrics that has results.

    Args:
        run: the run.
        primaries: metrics whose differences to plain training are wanted; a group without one of these has those of
            its first metric.

    Returns:
        The tables in the order of `GROUPS`.

    Example:
        >>> from pathlib import Path
        >>> results_sections(Run(Path("runs/none"), "none", [0], {}), [])
        []
    """
    tables = []
    for group in GROUPS:
        found = [metric for metric in METRICS.values() if metric.group == group and has(run.results, metric)]
        if found:
            tables.append(results_section(run, next((each for each in primaries if each in found), found[0])))
    return tables


def results_section(run: Run, primary: Metric) -> ResultsTable:
    """The table of strategies by the metrics of a group, with the paired difference to plain training.

    Args:
        run: the run.
        primary: the metric of the differences; its group is shown.

    Returns:
        The table; without rows if there are no results.

    Example:
        >>> from pathlib import Path
        >>> results_section(Run(Path("runs/none"), "none", [0], {}), METRICS["accuracy"]).rows
        []
    """
    metrics = [metric for metric in METRICS.values() if metric.group == primary.group and has(run.results, metric)]
    shown = {metric.key for metric in metrics}
    summaries = {
        key: {name: summary for name in columns if name in shown and (summary := summarise(columns[name])) is not None}
        for key, columns in run.results.items()
    }
    best = {metric.key: best_mean(metric, [row.get(metric.key) for row in summaries.values()]) for metric in metrics}
    baseline = primary.key in summaries.get("erm", {}) and len(summaries) > 1
    rows = []
    for key, row in summaries.items():
        cells = [summary_cell(metric, row.get(metric.key), best[metric.key]) for metric in metrics]
        if baseline:
            erm = run.results["erm"][primary.key]
            cells.append(_difference_cell(primary, key, paired_difference(run.results[key].get(primary.key, []), erm)))
        seeds = max((summary.seeds for summary in row.values()), default=0)
        rows.append(Row(describe(key, run.pairs), cells, seeds))
    return ResultsTable(GROUPS[primary.group], primary, metrics, baseline, rows)


def bold_line(tables: list[ResultsTable]) -> str:
    """The note on bold numbers under the results.

    Args:
        tables: the tables.

    Returns:
        Which numbers are bold and where lower is better.

    Example:
        >>> bold_line([])
        'Best mean of each column in bold.'
    """
    titles = [metric.title for table in tables for metric in table.metrics if not metric.higher_is_better]
    names = {"NLL": "NLL (negative log-likelihood)", "Calibration error": "calibration error"}
    lower = [names.get(title, title) for title in dict.fromkeys(titles)]
    return f"Best mean of each column in bold{f'; lower is better for {listing(lower)}' if lower else ''}."


def summary_cell(metric: Metric, summary: Summary | None, best: float | None) -> Cell:
    """A mean with its spread for a table.

    Args:
        metric: which metric it is.
        summary: of its values over seeds; None where there are none.
        best: the best mean of the column.

    Returns:
        The cell.

    Example:
        >>> summary_cell(METRICS["accuracy"], Summary(0.947, 0.006, 5), 0.947)
        Cell(mean='94.7', spread='± 0.6', best=True)
    """
    if summary is None:
        return Cell("-")
    spread = "" if summary.std is None else f"± {value_text(metric, summary.std, unit=False)}"
    return Cell(value_text(metric, summary.mean, unit=False), spread, summary.mean == best)


def seeds_line(seeds: int) -> str:
    """The note under the results table.

    Args:
        seeds: how many seeds the run has.

    Returns:
        What the spread is and is not.

    Example:
        >>> seeds_line(1)
        'One seed: there is no spread to show.'
    """
    if seeds < 2:
        return "One seed: there is no spread to show."
    return (
        f"Mean ± standard deviation over {seeds_text(seeds)}. Differences are paired by seed, with a 95 % t interval; "
        "it covers the luck of the seed, not that of the test data, and is not adjusted for comparing many strategies."
    )


def _difference_cell(metric: Metric, key: str, difference: Difference | None) -> Cell:
    if key == "erm" or difference is None:
        return Cell("-")
    scale, digits = (100, 1) if metric.percent else (1, 3)
    mean = _signed(scale * difference.mean, digits)
    if difference.low is None or difference.high is None:
        return Cell(mean, "one seed")
    return Cell(mean, f"[{_signed(scale * difference.low, digits)}, {_signed(scale * difference.high, digits)}]")


def _signed(value: float, digits: int) -> str:
    return f"{value:+.{digits}f}".replace("-", MINUS)
