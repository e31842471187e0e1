"""Writing what a grid of runs comes to: a page, a Markdown table and the figure, beside the records."""

from importlib import resources
from pathlib import Path

import jinja2
from markupsafe import Markup

from guidestar.files import write_text
from guidestar.report.formatting import METRICS, count_text, listing
from guidestar.report.scaling import Scaling, fit_scaling, law_rows, ratio_text, read_records
from guidestar.report.scaling_figure import draw_scaling, standalone
from guidestar.report.sections import no_break

HEAD = ["Reference's cost", "Strategy", "E =", "a", "b", "c", "Deviation"]


def build_scaling(folder: Path, name: str | None = None) -> Path:
    """Write `scaling.html`, `scaling.md` and `scaling.svg` from the `scaling.json` of a grid.

    Args:
        folder: where `scaling.json` lies and the files are written.
        name: what the grid is called; the folder's name by default.

    Returns:
        The page.

    Raises:
        UserError: the records break a rule or give no law.
        OSError: a file cannot be read or written.

    Example:
        >>> build_scaling(Path("no/such/grid"))
        Traceback (most recent call last):
        ...
        FileNotFoundError: [Errno 2] No such file or directory: 'no/such/grid/scaling.json'
    """
    scaling = fit_scaling(read_records(folder / "scaling.json"))
    title = name or folder.resolve().name
    drawing = draw_scaling(scaling)
    write_text(folder / "scaling.svg", standalone(drawing))
    write_text(folder / "scaling.md", scaling_markdown(scaling, title))
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.FunctionLoader(_template),
    )
    environment.filters.update(no_break=no_break, count=count_text)
    page = environment.get_template("scaling.html.j2").render(
        style=Markup(_template("page.css")),
        title=title,
        scaling=scaling,
        sentences=scaling.sentences(),
        drawing=drawing,
        head=HEAD,
        rows=law_rows(scaling),
        note=_note(scaling),
    )
    write_text(folder / "scaling.html", page)
    return folder / "scaling.html"


def scaling_markdown(scaling: Scaling, title: str) -> str:
    """The figure, what it comes to, and the laws as Markdown.

    Args:
        scaling: the laws.
        title: what the grid is called.

    Returns:
        The text; the figure is linked as `scaling.svg`.

    Example:
        >>> from guidestar.report.scaling import Record
        >>> runs = [Record("erm", "a", n, 0, float(n), 0.0, 0.9 * n**-0.2) for n in (1, 10, 100)]
        >>> scaling_markdown(fit_scaling(runs, draws=10), "Small").splitlines()[0]
        '## Scaling: Small'
    """
    lines = [f"## Scaling: {title}", "", "![Test error against compute](scaling.svg)", ""]
    lines += [f"- {sentence}" for sentence in scaling.sentences()]
    lines += ["", _table(HEAD, [[cell.replace("|", "\\|") for cell in row] for row in law_rows(scaling)]), ""]
    savings = [
        [
            panel.counting,
            saving.strategy,
            f"{100 * saving.error:.1f} %",
            *_ratio(saving.ratio.value, saving.ratio.low, saving.ratio.high),
        ]
        for panel in scaling.panels
        for saving in panel.savings
    ]
    if savings:
        lines += [_table(["Reference's cost", "Strategy", "Error", "Compute / ERM's", "95 % interval"], savings), ""]
    return "\n".join([*lines, _note(scaling), ""])


def _ratio(value: float, low: float, high: float) -> list[str]:
    if value != value:
        return ["-", "-"]
    return [ratio_text(value), "-" if low != low else f"{ratio_text(low)} to {ratio_text(high)}"]


def _note(scaling: Scaling) -> str:
    seeds = len({record.seed for record in scaling.records})
    keys = dict.fromkeys(record.metric for record in scaling.records)
    nouns = listing([METRICS[key].noun if key in METRICS else key for key in keys])
    return (
        f"E: test error as a fraction, 1 less {nouns}; C: compute in {scaling.unit}. {len(scaling.records)} runs, {seeds} "
        f"{'seed' if seeds == 1 else 'seeds'}. Least squares in log error over all sizes and numbers of samples, not only "
        "over the best at each compute. In brackets 95 % bootstrap intervals; deviation: root mean square of the log error "
        "about the law. Compute is compared by the laws without offset. Laws say nothing beyond the range of their points."
    )


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _template(name: str) -> str:
    return (resources.files("guidestar.report") / name).read_text(encoding="utf-8")
