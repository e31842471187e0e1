"""The figure of scaling laws: two panels in log-log, the reference's cost left out and counted."""

import re
from importlib import resources
from typing import TYPE_CHECKING

import numpy as np

from guidestar.report.figures import Drawing
from guidestar.report.scaling import Law, Panel, Scaling
from guidestar.report.strategies import describe
from guidestar.report.svg import SETTINGS, colour_of, to_inline_svg
from guidestar.report.verdict import name_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Inches at 72 points: side by side for screens, one above the other for phones.
WIDE, NARROW = (10.55, 4.4), (4.86, 7.6)


def draw_scaling(scaling: Scaling, identity: str = "scaling") -> Drawing:
    """Points and laws of every strategy.

    Args:
        scaling: the laws.
        identity: prefix of the ids in the drawing.

    Returns:
        The drawing.

    Example:
        >>> from guidestar.report.scaling import Record, fit_scaling
        >>> runs = [Record("erm", "a", n, 0, float(n), 0.0, 0.9 * n**-0.2) for n in (1, 10, 100)]
        >>> "var(--s-erm)" in draw_scaling(fit_scaling(runs, draws=10)).wide
        True
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    names = ", ".join(law.strategy for law in scaling.panels[0].laws)
    label = f"Test error against compute in log-log, with laws fitted to {names}; the reference left out and counted"
    drawn = []
    with mpl.rc_context({**SETTINGS, "axes.grid.axis": "both"}):  # pyright: ignore[reportArgumentType]
        for form, size, shape in (("wide", WIDE, (1, 2)), ("narrow", NARROW, (2, 1))):
            figure = Figure(figsize=size, layout="constrained", dpi=72)
            axes = figure.subplots(*shape, sharey=True).ravel()
            for place, (panel, where) in enumerate(zip(scaling.panels, axes, strict=True)):
                _plot(where, panel, scaling.unit)
                if form == "narrow" or place == 0:
                    where.set_ylabel("test error, %")
            drawn.append(to_inline_svg(figure, f"{identity}-{form}", label))
    return Drawing(*drawn)


def standalone(drawing: Drawing) -> str:
    """The wide form as an SVG file of its own, with the page's colours for light and dark.

    Args:
        drawing: the figure.

    Returns:
        The file's text.

    Example:
        >>> from markupsafe import Markup
        >>> standalone(Drawing(Markup('<svg viewBox="0 0 1 1"></svg>'), Markup("")))[:17]
        '<svg viewBox="0 0'
    """
    sheet = (resources.files("guidestar.report") / "page.css").read_text(encoding="utf-8")
    # The variables come first in the sheet, for light and then for dark.
    variables = sheet[: sheet.index("* { box-sizing")]
    style = f"<style>{variables}svg {{ font-family: system-ui, sans-serif; background: var(--paper); }}</style>"
    return re.sub(r"(<svg[^>]*>)", lambda head: head[1] + style, str(drawing.wide), count=1) + "\n"


def _plot(axes: "Axes", panel: Panel, unit: str) -> None:
    compute = np.array([point[0] for law in panel.laws for point in law.points])
    error = np.array([point[1] for law in panel.laws for point in law.points])
    span = compute.min() / 1.15, compute.max() * 1.15
    limits = 100 * error.min() / 1.08, 100 * error.max() * 1.08
    for law in panel.laws:
        own = [point[0] for point in law.points]
        _plot_law(axes, law, np.geomspace(min(own) / 1.08, max(own) * 1.08, 60))
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(*span)
    axes.set_ylim(*limits)
    for axis, ticks in ((axes.xaxis, _ticks(*span)), (axes.yaxis, _ticks(*limits))):
        axis.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.set_ticks([], minor=True)
    axes.set_xlabel(f"{unit} of training{' and reference' if panel.counting == 'counted' else ''}")
    axes.set_title(f"the reference's cost {panel.counting}", fontsize=12, color=colour_of("ink"), loc="left")
    axes.legend(loc="lower left", frameon=False, handlelength=1.6, labelcolor=colour_of("ink"), fontsize=11)


def _plot_law(axes: "Axes", law: Law, grid: np.ndarray) -> None:
    strategy, fit = describe(law.strategy), law.line.law
    colour = colour_of(f"s-{strategy.colour}")
    marker = "o" if law.strategy.startswith("steer") else "s"
    values = np.array(law.points)
    axes.plot(values[:, 0], 100 * values[:, 1], linestyle="none", marker=marker, markersize=5, color=colour, alpha=0.55)
    exponent = f"{fit.b:.3f}".replace("-", "\u2212")
    text = f"{name_of(law.strategy)}: {100 * fit.a:.3g} C^{exponent}"
    axes.plot(grid, 100 * fit.error(grid), color=colour, linewidth=2.2, label=text)
    if law.offset is not None and law.offset.law.c > 0:
        axes.plot(grid, 100 * law.offset.law.error(grid), color=colour, linewidth=1.3, linestyle=(0, (4, 2.5)))


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers within the span, the coarsest kind that has at least three."""
    powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    kinds = ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8), tuple(np.arange(1, 10, 0.5)))
    inside: list[float] = []
    for steps in kinds:
        # Rounded, so that 3 x 0.1 is written as 0.3.
        inside = [
            tick for power in powers for step in steps if low <= (tick := float(f"{step * 10.0**power:.6g}")) <= high
        ]
        if len(inside) >= 3:
            break
    return inside
