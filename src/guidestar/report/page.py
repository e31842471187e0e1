"""Building the report: one HTML file that needs nothing else."""

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import jinja2
from markupsafe import Markup

from guidestar.errors import UserError
from guidestar.files import write_text
from guidestar.report.curves import read_curves
from guidestar.report.facts import facts_section
from guidestar.report.figures import Drawing, draw_curves, draw_weights
from guidestar.report.formatting import METRICS, Metric, seeds_text
from guidestar.report.rundir import Run, read_run
from guidestar.report.sections import (
    Cell,
    ResultsTable,
    Row,
    WeightShares,
    cost_section,
    curve_order,
    no_break,
    problem_lines,
    results_section,
    seeds_line,
    summary_cell,
    weight_text,
    weights_section,
)
from guidestar.report.statistics import summarise
from guidestar.report.strategies import Strategy, describe, in_order
from guidestar.report.terminal import best_mean
from guidestar.report.verdict import Verdict, decide
from guidestar.report.weights import Sample, Weights, read_samples


@dataclass(frozen=True)
class Section:
    """Everything the template shows of a run.

    Args:
        identity: prefix of the section's ids.
        run: the run.
        verdict: the answer.
        facts: what was compared.
        problems: strategies without a result, and why.
        table: strategies by metrics.
        curves: the learning curves, or None if there are none.
        legend: the strategies of the curves with their final values.
        weights: the weights that are drawn, or None.
        weights_drawing: their histogram, or None.
        shares: mean weights of every strategy that has weights.
        samples: seed, samples weighted most and least, or None.
        sample_strategy: the strategy that weighted them.
        costs: the cost table.
        warnings: what could not be read.
    """

    identity: str
    run: Run
    verdict: Verdict
    facts: list[tuple[str, str]]
    problems: list[tuple[str, str]]
    table: ResultsTable
    curves: Drawing | None
    legend: list[tuple[Strategy, str]]
    weights: Weights | None
    weights_drawing: Drawing | None
    shares: list[WeightShares]
    samples: tuple[int, list[Sample], list[Sample]] | None
    sample_strategy: str
    costs: list[Row]
    warnings: list[str]


def build_report(run_dirs: list[Path], out: Path | None = None, metric: str = "accuracy") -> Path:
    """Write the report of one or several runs, from what their directories hold.

    Args:
        run_dirs: run directories, as `guidestar compare` writes them.
        out: the file to write; by default `report.html` in the run, or beside the first of several runs.
        metric: what the verdict goes by: accuracy, balanced_accuracy, nll or ece.

    Returns:
        The file that was written. It is written aside and renamed, so an older report survives a failure.

    Raises:
        UserError: there are no runs, one of them is no run directory, or the metric is not known.
        OSError: the file cannot be written.

    Example:
        >>> build_report([])
        Traceback (most recent call last):
        ...
        guidestar.errors.UserError: `run_dirs` must name at least one run directory, found none.
    """
    if not run_dirs:
        raise UserError("`run_dirs` must name at least one run directory, found none.")
    if metric not in METRICS:
        raise UserError(f"`metric` must be one of {', '.join(METRICS)}, found {metric!r}.")
    primary = METRICS[metric]
    runs = [read_run(Path(path)) for path in run_dirs]
    sections = [_section(run, primary, f"run{place}") for place, run in enumerate(runs)]
    folder = runs[0].path if len(runs) == 1 else runs[0].path.parent
    target = Path(out) if out is not None else folder / "report.html"
    write_text(target, _render(sections, primary))
    return target


def _section(run: Run, primary: Metric, identity: str) -> Section:
    curves = read_curves(run, primary.key)
    reference = summarise(run.results.get("as_is", {}).get(primary.key, []))
    drawing = (
        draw_curves(curves, primary, reference.mean if reference else None, f"{identity}-curves") if curves else None
    )
    finals = {curve.strategy: float(curve.mean[-1]) for curve in curves}
    if reference and curves:
        finals["as_is"] = reference.mean
    weights, shares, weight_warnings = weights_section(run)
    sample_strategy = weights.strategy if weights else "steer"
    samples = read_samples(run, sample_strategy)
    return Section(
        identity=identity,
        run=run,
        verdict=decide(run.results, primary.key),
        facts=facts_section(run),
        problems=problem_lines(run),
        table=results_section(run, primary),
        curves=drawing,
        legend=curve_order(finals, primary),
        weights=weights,
        weights_drawing=draw_weights(weights, f"{identity}-weights") if weights else None,
        shares=shares,
        samples=samples,
        sample_strategy=sample_strategy,
        costs=cost_section(run),
        warnings=[*run.warnings, *weight_warnings],
    )


def _comparison(sections: list[Section], primary: Metric) -> tuple[list[Strategy], list[tuple[Section, list[Cell]]]]:
    """Runs by strategies in the primary metric; the best of each run is marked."""
    keys = in_order({key for section in sections for key in section.run.results})
    rows = []
    for section in sections:
        results = section.run.results
        summaries = [summarise(results.get(key, {}).get(primary.key, [])) for key in keys]
        best = best_mean(primary, summaries)
        rows.append((section, [summary_cell(primary, summary, best) for summary in summaries]))
    return [describe(key) for key in keys], rows


def _render(sections: list[Section], primary: Metric) -> str:
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.FunctionLoader(_template),
    )
    environment.filters.update(no_break=no_break, seeds=seeds_text, seeds_line=seeds_line, weight=weight_text)
    columns, comparison = _comparison(sections, primary) if len(sections) > 1 else ([], [])
    return environment.get_template("page.html.j2").render(
        style=Markup(_template("page.css")),
        title=sections[0].run.name if len(sections) == 1 else f"{len(sections)} runs",
        sections=sections,
        columns=columns,
        comparison=comparison,
        primary=primary,
    )


def _template(name: str) -> str:
    return (resources.files("guidestar.report") / name).read_text(encoding="utf-8")
