"""Turning a matplotlib figure into inline SVG that takes its colours and its font from the page.

One drawing then serves light and dark. While drawing, colours are stand-ins from `INK`; afterwards each stand-in
becomes the style sheet's variable of the same name.
"""

import io
import re
from typing import TYPE_CHECKING

from markupsafe import Markup, escape

from guidestar.report.strategies import STRATEGIES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NAMES = [
    *("ink", "muted", "grid", "paper", "clean", "corrupted", "s-other"),
    *(f"s-{strategy.colour}" for strategy in STRATEGIES.values()),
]
# Stand-ins that no drawing would use by chance.
INK = {name: f"#fe{number:02x}fd" for number, name in enumerate(_NAMES)}

SETTINGS = {
    "svg.fonttype": "none",
    "svg.hashsalt": "guidestar",
    "text.parse_math": False,
    "font.size": 12,
    "text.color": INK["muted"],
    "axes.labelcolor": INK["muted"],
    "axes.edgecolor": INK["grid"],
    "axes.linewidth": 1.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": INK["grid"],
    "grid.linewidth": 1.0,
    "xtick.color": INK["grid"],
    "ytick.color": INK["grid"],
    "xtick.labelcolor": INK["muted"],
    "ytick.labelcolor": INK["muted"],
    "ytick.major.size": 0,
    "lines.solid_capstyle": "round",
}


def colour_of(name: str) -> str:
    """The stand-in for a colour variable of the page.

    Args:
        name: the variable without its two dashes.

    Returns:
        A colour to draw with.

    Example:
        >>> colour_of("ink")
        '#fe00fd'
    """
    return INK[name]


def to_inline_svg(figure: "Figure", identity: str, label: str) -> Markup:
    """A figure as SVG to put into a page: scales to its container, deterministic, with nothing that points outside.

    Args:
        figure: a figure that was made and is rendered under `SETTINGS`.
        identity: prefix that makes its ids unique in the page; letters, digits and dashes.
        label: what the figure shows, for readers who do not see it.

    Returns:
        The markup of one `<svg>` element.

    Example:
        >>> from matplotlib.figure import Figure
        >>> str(to_inline_svg(Figure(), "empty", "Nothing"))[:30]
        '<svg role="img" aria-labelledb'
    """
    buffer = io.StringIO()
    figure.savefig(
        buffer,
        format="svg",
        transparent=True,
        metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
    )
    text = buffer.getvalue()
    view_box = re.search(r'viewBox="([^"]*)"', text)
    body = text[text.index("<svg") :]
    body = body[body.index(">") + 1 : body.rindex("</svg>")]
    # The style element's rule is for everything, so it would reach the page; the page's own sheet says it for figures.
    body = re.sub(r"<style.*?</style>", "", body, flags=re.DOTALL)
    body = re.sub(r"<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r'\bid="([^"]+)"', rf'id="{identity}-\1"', body)
    body = re.sub(r'xlink:href="#([^"]+)"', rf'href="#{identity}-\1"', body)
    body = re.sub(r"url\(#([^)]+)\)", rf"url(#{identity}-\1)", body)
    body = re.sub(r"font-family:[^;\"]*", "font-family: inherit", body)
    body = re.sub(r"\bfont: ([0-9.]+px) [^;\"]*", r"font-size: \1", body)
    for name, stand_in in INK.items():
        body = body.replace(stand_in, f"var(--{name})")
    body = re.sub(r"\n\s*", "\n", body).strip()
    title = f'<title id="{identity}-title">{escape(label)}</title>'
    box = view_box.group(1) if view_box else "0 0 1 1"
    head = f'<svg role="img" aria-labelledby="{identity}-title" viewBox="{box}" xmlns="http://www.w3.org/2000/svg">'
    return Markup(f"{head}{title}{body}</svg>")
