"""The report's figures, each in a wide and a narrow form so that the text stays legible on a phone."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from guidestar.report.curves import Curve
from guidestar.report.formatting import Metric
from guidestar.report.strategies import describe
from guidestar.report.svg import SETTINGS, colour_of, to_inline_svg
from guidestar.report.weights import Weights

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Inches at 72 points: the wide form is 760 x 340 points, the narrow one 350 x 290.
WIDE, NARROW = (10.55, 4.7), (4.86, 4.0)
# Dashes tell lines apart where colours cannot.
DASHES: dict[str, tuple[int, tuple[float, ...]]] = {
    "siglip": (0, (2, 1, 1, 1)),
    "dro": (0, (1, 1.6)),
    "fastclip": (0, (3, 1, 1, 1)),
    "finetune": (0, (6, 1.5, 1, 1.5)),
    "distill": (0, (5, 2)),
    "select": (0, (3, 1.5)),
    "jest": (0, (2, 1.2)),
    "steer+distill": (0, (7, 1.5)),
    "steer_init": (0, (7, 1.5, 1, 1.5)),
}
BINS = 40
# Weights are drawn within this span; what lies beyond is counted in the outermost bins.
SMALLEST, LARGEST = 1e-4, 1e4


@dataclass(frozen=True)
class Drawing:
    """A figure for the page.

    Args:
        wide: for screens.
        narrow: for phones.
    """

    wide: Markup
    narrow: Markup


def draw_curves(curves: list[Curve], metric: Metric, reference: float | None, identity: str) -> Drawing:
    """Learning curves: mean lines with a band of one standard deviation; the reference as a dashed level.

    Args:
        curves: at least one.
        metric: what they show.
        reference: the value of the reference itself, or None.
        identity: prefix of the ids in the drawing.

    Returns:
        The drawing.

    Example:
        >>> curve = Curve("erm", np.array([0.0, 100.0]), np.array([0.1, 0.8]), np.zeros(2), 1)
        >>> from guidestar.report.formatting import METRICS
        >>> drawing = draw_curves([curve], METRICS["accuracy"], None, "a")
        >>> "var(--s-erm)" in drawing.wide
        True
    """
    scale = 100 if metric.percent else 1

    def plot(axes: "Axes", narrow: bool) -> None:
        for curve in curves:
            colour = colour_of(f"s-{describe(curve.strategy).colour}")
            mean, std = scale * curve.mean, scale * curve.std
            if curve.seeds > 1:
                axes.fill_between(curve.samples, mean - std, mean + std, color=colour, alpha=0.14, linewidth=0)
            steered = curve.strategy.startswith("steer")
            style = DASHES.get(curve.strategy, "-")
            axes.plot(curve.samples, mean, color=colour, linewidth=2.6 if steered else 1.9, linestyle=style)
        if reference is not None:
            axes.axhline(scale * reference, color=colour_of("s-as-is"), linewidth=1.4, linestyle=(0, (2, 3)))
        axes.set_ylim(*_limits(curves, reference, scale))
        axes.margins(x=0.01)
        axes.set_xlabel("samples trained on")
        title = metric.title if metric.title.isupper() else metric.title[0].lower() + metric.title[1:]
        axes.set_ylabel(f"{title}{', %' if metric.percent else ''}")
        axes.locator_params(axis="x", nbins=4 if narrow else 9)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}".replace(",", "\u202f"))

    names = ", ".join(curve.strategy for curve in curves if describe(curve.strategy).colour != "other")
    return _draw(plot, identity, f"{metric.title} on the test data against samples trained on: {names}")


def draw_weights(weights: Weights, identity: str) -> Drawing:
    """The histogram of weights on a logarithmic axis; 1 is the weight that plain training gives to every sample.

    Zero has no place on the axis and gets a bar of its own at the left.

    Args:
        weights: with at least one weight.
        identity: prefix of the ids in the drawing.

    Returns:
        The drawing.

    Example:
        >>> drawing = draw_weights(Weights("steer", np.array([0.5, 1.0, 2.0]), None, 1, ()), "b")
        >>> "var(--clean)" in drawing.narrow
        True
    """
    series = [("clean", weights.clean)]
    if weights.corrupted is not None and len(weights.corrupted):
        series.append(("corrupted", weights.corrupted))
    pooled = np.concatenate([values for _, values in series])
    edges = _edges(pooled[pooled > 0])
    has_zero = bool((pooled == 0).any())

    def plot(axes: "Axes", narrow: bool) -> None:
        width = np.diff(np.log10(edges))[0]
        zero_place = np.log10(edges[0]) - 3 * width
        for name, values in series:
            if not len(values):
                continue
            counts, _ = np.histogram(np.clip(values[values > 0], edges[0], edges[-1]), bins=edges)
            share = 100 * counts / len(values)
            colour = colour_of(name)
            axes.stairs(share, np.log10(edges), color=colour, alpha=0.32, fill=True, linewidth=0)
            axes.stairs(share, np.log10(edges), color=colour, linewidth=1.8)
            if has_zero:
                zero = 100 * float((values == 0).mean())
                box = [zero_place - width, zero_place + width]
                axes.stairs([zero], box, color=colour, alpha=0.32, fill=True, linewidth=0)
                axes.stairs([zero], box, color=colour, linewidth=1.8)
        axes.axvline(0, color=colour_of("ink"), linewidth=1.2, linestyle=(0, (2, 3)))
        ticks = _ticks(edges[0], edges[-1], 5 if narrow else 10)
        places, names = list(np.log10(ticks)), [f"{tick:g}" for tick in ticks]
        axes.set_xticks(([zero_place] if has_zero else []) + places, (["0"] if has_zero else []) + names)
        axes.set_xlabel("weight (logarithmic; 1 = as in plain training)")
        axes.set_ylabel("share of the samples, %")
        axes.set_ylim(bottom=0)

    return _draw(plot, identity, f"Distribution of the weights that {describe(weights.strategy).key} gave to samples")


def _draw(plot: Callable[["Axes", bool], None], identity: str, label: str) -> Drawing:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    drawn = []
    with mpl.rc_context(SETTINGS):  # pyright: ignore[reportArgumentType]
        for form, size in (("wide", WIDE), ("narrow", NARROW)):
            figure = Figure(figsize=size, layout="constrained", dpi=72)
            plot(figure.subplots(), form == "narrow")
            drawn.append(to_inline_svg(figure, f"{identity}-{form}", label))
    return Drawing(*drawn)


def _limits(curves: list[Curve], reference: float | None, scale: float) -> tuple[float, float]:
    """The span of the later part of training, so that a bad start does not flatten what there is to see."""
    late = [curve.mean[len(curve.mean) // 5 :] for curve in curves]
    levels = np.concatenate([*late, [] if reference is None else [reference]])
    spread = max(float(curve.std[-1]) for curve in curves)
    low, high = float(levels.min()) - spread, float(levels.max()) + spread
    margin = 0.06 * (high - low) or 0.01
    return scale * (low - margin), scale * (high + margin)


def _edges(positive: np.ndarray) -> np.ndarray:
    """Bins of equal width on a logarithmic axis that always contain 1, with an edge there."""
    low = max(float(positive.min()) if len(positive) else 0.5, SMALLEST)
    high = min(float(positive.max()) if len(positive) else 2.0, LARGEST)
    low, high = min(low, 0.5), max(high, 2.0)
    width = (np.log10(high) - np.log10(low)) / BINS
    first, last = np.floor(np.log10(low) / width), np.ceil(np.log10(high) / width)
    return 10 ** (width * np.arange(first, last + 1))


def _ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers within the span: 1-2-5 steps while these are few enough, else powers of ten."""
    powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    fine = [step * 10.0**power for power in powers for step in (1, 2, 5)]
    coarse = [10.0**power for power in powers]
    inside = [[tick for tick in ticks if low <= tick <= high] for ticks in (fine, coarse)]
    return inside[0] if len(inside[0]) <= most else inside[1]
