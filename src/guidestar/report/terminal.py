"""The results in a terminal of 80 columns."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from guidestar.report.conclusion import conclude
from guidestar.report.formatting import METRICS, Metric, seconds_text, value_text
from guidestar.report.headlines import with_retrieval
from guidestar.report.statistics import Results, Summary, summarise
from guidestar.report.strategies import in_order

# Columns in the order of their importance: the first of them that have values are shown, as many as fit.
TITLES = {
    "accuracy": "accuracy %",
    "balanced_accuracy": "balanced %",
    "nll": "NLL",
    "ece": "calib. error %",
    "zero_shot_top1": "zero-shot %",
    "retrieval": "retrieval %",
    "linear_probe": "probe %",
    "knn": "neighbours %",
    "image_to_text_r10": "to text %",
    "text_to_image_r10": "to image %",
}
MOST_COLUMNS = 4


def results_table(results: Results) -> Table:
    """Strategies by metrics: mean ± standard deviation over seeds, the best of each column in bold.

    Args:
        results: strategy -> metric -> one value a seed.

    Returns:
        A table that fits 80 columns; empty, without a header, if there are no strategies.

    Example:
        >>> results_table({"erm": {"accuracy": [0.85, 0.86], "seconds": [2.0, 2.1]}}).row_count
        1
    """
    filled = with_retrieval(results)
    summaries = {
        key: {name: summarise(values) for name, values in filled[key].items()} for key in in_order(set(results))
    }
    shown = [METRICS[key] for key in TITLES if any(row.get(key) for row in summaries.values())][:MOST_COLUMNS]
    found = [summary for row in summaries.values() for name, summary in row.items() if summary and name in METRICS]
    caption = _caption(found, shown)
    table = Table(box=None, pad_edge=False, header_style="dim", caption=caption, caption_justify="left")
    table.show_header = bool(summaries)
    table.add_column("strategy", no_wrap=True)
    for metric in shown:
        table.add_column(TITLES[metric.key], justify="right", no_wrap=True)
    table.add_column("time", justify="right", no_wrap=True)
    best = {metric.key: best_mean(metric, [row.get(metric.key) for row in summaries.values()]) for metric in shown}
    for key, row in summaries.items():
        cells = [_cell(metric, row.get(metric.key), best[metric.key]) for metric in shown]
        seconds = row.get("seconds")
        table.add_row(Text(key), *cells, seconds_text(seconds.mean if seconds else None))
    return table


def print_verdict(results: Results, metric: str | None = None, console: Console | None = None) -> None:
    """Print the verdict and its notes; with several headlines a sentence over all, then each on its own.

    Args:
        results: strategy -> metric -> one value a seed.
        metric: what to compare by; None for the headlines of these results.
        console: where to print; the standard output by default.

    Raises:
        UserError: the metric is not known.

    Example:
        >>> print_verdict({"erm": {"accuracy": [0.5]}}, console=Console(width=120))
        Only ERM has results: 50.0 % test accuracy over 1 seed. There is nothing to compare it with.
    """
    conclusion = conclude(results, metric)
    console = console or Console()
    console.print(Text(conclusion.sentence, style="bold"))
    for verdict in conclusion.verdicts:
        if verdict.sentence not in conclusion.sentence:
            console.print(Text(f"\n{verdict.sentence}"))
        for note in verdict.notes:
            console.print(Text(note))


def best_mean(metric: Metric, summaries: list[Summary | None]) -> float | None:
    """The best mean of a column.

    Args:
        metric: says which end is good.
        summaries: one a strategy; None where there is none.

    Returns:
        The mean, or None if nothing has one.

    Example:
        >>> best_mean(METRICS["nll"], [Summary(0.4, None, 1), None, Summary(0.3, None, 1)])
        0.3
    """
    means = [summary.mean for summary in summaries if summary is not None]
    if not means:
        return None
    return max(means) if metric.higher_is_better else min(means)


def _cell(metric: Metric, summary: Summary | None, best: float | None) -> Text:
    if summary is None:
        return Text("-", style="dim")
    text = value_text(metric, summary.mean, unit=False)
    if summary.std is not None:
        text += f" ± {value_text(metric, summary.std, unit=False)}"
    return Text(text, style="bold" if summary.mean == best else "")


def _caption(summaries: list[Summary], shown: list[Metric]) -> str | None:
    seeds = max((summary.seeds for summary in summaries), default=0)
    if seeds == 0:
        return None
    caption = f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "one seed: no spread"
    if METRICS["retrieval"] not in shown:
        return caption
    return f"{caption}; retrieval: mean R@10"
