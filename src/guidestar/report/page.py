"""Building the report: one HTML file that needs nothing else."""

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import jinja2
from markupsafe import Markup

from guidestar.errors import UserError
from guidestar.files import write_text
from guidestar.report.conclusion import Conclusion, conclude
from guidestar.report.curves import read_curves
from guidestar.report.facts import facts_section
from guidestar.report.figures import Drawing, draw_curves, draw_weights
from guidestar.report.formatting import Metric, seeds_text
from guidestar.report.gallery import Gallery, read_galleries
from guidestar.report.headlines import has, headlines
from guidestar.report.rundir import Run, read_run
from guidestar.report.sections import (
    WeightShares,
    cost_section,
    curve_order,
    no_break,
    problem_lines,
    weight_text,
    weights_section,
)
from guidestar.report.statistics import summarise
from guidestar.report.strategies import Strategy, describe, in_order
from guidestar.report.tables import Cell, ResultsTable, Row, bold_line, results_sections, seeds_line, summary_cell
from guidestar.report.terminal import best_mean
from guidestar.report.weights import Sample, Weights, read_samples


@dataclass(frozen=True)
class Curves:
    """Learning curves by a metric.

    Args:
        metric: what they show.
        drawing: the figure.
        legend: the strategies with their final values.
    """

    metric: Metric
    drawing: Drawing
    legend: list[tuple[Strategy, str]]


@dataclass(frozen=True)
class Comparison:
    """Runs by strategies.

    Args:
        metric: what is compared.
        columns: the strategies.
        rows: runs that have a value, with a cell for each strategy.
    """

    metric: Metric
    columns: list[Strategy]
    rows: list[tuple["Section", list[Cell]]]


@dataclass(frozen=True)
class Section:
    """Everything the template shows of a run.

    Args:
        identity: prefix of the section's ids.
        run: the run.
        conclusion: the answer.
        facts: what was compared.
        problems: strategies without a result, and why.
        tables: strategies by metrics, a table for each group of metrics.
        strategies: the strategies that have results.
        curves: the learning curves by each headline that has any.
        galleries: what the models of image-text pairs find; empty for classifiers.
        gallery_open: the strategy whose gallery is open at first.
        weights_apply: whether the run weighs samples at all, so that missing weights are worth a word.
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
    conclusion: Conclusion
    facts: list[tuple[str, str]]
    problems: list[tuple[str, str]]
    tables: list[ResultsTable]
    strategies: list[Strategy]
    curves: list[Curves]
    galleries: list[Gallery]
    gallery_open: str
    weights_apply: bool
    weights: Weights | None
    weights_drawing: Drawing | None
    shares: list[WeightShares]
    samples: tuple[int, list[Sample], list[Sample]] | None
    sample_strategy: str
    costs: list[Row]
    warnings: list[str]


def build_report(run_dirs: list[Path], out: Path | None = None, metric: str | None = None) -> Path:
    """Write the report of one or several runs, from what their directories hold.

    Args:
        run_dirs: run directories, as `guidestar compare` writes them.
        out: the file to write; by default `report.html` in the run, or beside the first of several runs.
        metric: what the verdict goes by, a key of `guidestar.report.formatting.METRICS`; None: the accuracy of
            classifiers, zero-shot accuracy and retrieval of image-text models.

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
    runs = [read_run(Path(path)) for path in run_dirs]
    sections = [_section(run, metric, f"run{place}") for place, run in enumerate(runs)]
    folder = runs[0].path if len(runs) == 1 else runs[0].path.parent
    target = Path(out) if out is not None else folder / "report.html"
    write_text(target, _render(sections, metric))
    return target


def _section(run: Run, metric: str | None, identity: str) -> Section:
    primaries = headlines(run.results, metric, run.pairs)
    conclusion = conclude(run.results, metric, run.pairs)
    tables = results_sections(run, primaries)
    weights, shares, weight_warnings = weights_section(run)
    sample_strategy = weights.strategy if weights else "steer"
    samples = read_samples(run, sample_strategy)
    galleries, gallery_warnings = read_galleries(run)
    shown = [gallery.strategy.key for gallery in galleries]
    winner = conclusion.verdicts[0].winner
    return Section(
        identity=identity,
        run=run,
        conclusion=conclusion,
        facts=facts_section(run),
        problems=problem_lines(run),
        tables=tables,
        strategies=[describe(key, run.pairs) for key in in_order(set(run.results))],
        curves=[curves for primary in primaries if (curves := _curves(run, primary, identity)) is not None],
        galleries=galleries,
        gallery_open=winner if winner in shown else next(iter(shown), ""),
        weights_apply=not run.pairs or weights is not None or samples is not None,
        weights=weights,
        weights_drawing=draw_weights(weights, f"{identity}-weights") if weights else None,
        shares=shares,
        samples=samples,
        sample_strategy=sample_strategy,
        costs=cost_section(run),
        warnings=[*run.warnings, *weight_warnings, *gallery_warnings],
    )


def _curves(run: Run, metric: Metric, identity: str) -> Curves | None:
    curves = read_curves(run, metric.key)
    if not curves:
        return None
    reference = summarise(run.results.get("as_is", {}).get(metric.key, []))
    finals = {curve.strategy: float(curve.mean[-1]) for curve in curves}
    if reference:
        finals["as_is"] = reference.mean
    level = reference.mean if reference else None
    drawing = draw_curves(curves, metric, level, f"{identity}-curves-{metric.key.replace('_', '-')}")
    return Curves(metric, drawing, curve_order(finals, metric))


def _comparisons(sections: list[Section], metric: str | None) -> list[Comparison]:
    """Runs by strategies in each headline; the best of each run is marked."""
    comparisons = []
    wanted = {
        each.key: each for section in sections for each in headlines(section.run.results, metric, section.run.pairs)
    }
    for primary in wanted.values():
        having = [section for section in sections if has(section.run.results, primary)]
        keys = in_order({key for section in having for key in section.run.results})
        rows = []
        for section in having:
            results = section.run.results
            summaries = [summarise(results.get(key, {}).get(primary.key, [])) for key in keys]
            best = best_mean(primary, summaries)
            rows.append((section, [summary_cell(primary, summary, best) for summary in summaries]))
        comparisons.append(Comparison(primary, [describe(key) for key in keys], rows))
    return comparisons


def _render(sections: list[Section], metric: str | None) -> str:
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.FunctionLoader(_template),
    )
    environment.filters.update(
        bold_line=bold_line,
        first_upper=lambda text: text[0].upper() + text[1:],
        no_break=no_break,
        seeds=seeds_text,
        seeds_line=seeds_line,
        weight=weight_text,
    )
    return environment.get_template("page.html.j2").render(
        style=Markup(_template("page.css")),
        title=sections[0].run.name if len(sections) == 1 else f"{len(sections)} runs",
        sections=sections,
        comparisons=_comparisons(sections, metric) if len(sections) > 1 else [],
    )


def _template(name: str) -> str:
    return (resources.files("guidestar.report") / name).read_text(encoding="utf-8")
