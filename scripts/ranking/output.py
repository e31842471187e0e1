"""JSON files and figures: one style, one environment record, one place for both."""

from __future__ import annotations

import contextlib
import datetime
import json
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import guidestar as gs

COLOURS = ("#2060b0", "#b3401e", "#2b8a5c", "#d18f00", "#7a4fa3", "#111111")
MARKERS = ("o", "s", "^", "D", "v", "P")


def environment() -> dict[str, Any]:
    """What the numbers were made with."""
    return {
        "guidestar": gs.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "device": "cpu",
        "threads": torch.get_num_threads(),
        "date": datetime.date.today().isoformat(),
    }


def save_json(path: Path, result: dict[str, Any]) -> None:
    """Write a result with its environment; numbers are rounded to six significant digits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**_rounded(result), "environment": environment()}, indent=1)
    path.write_text(text + "\n", encoding="utf-8")


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return [_rounded(inner) for inner in value] if isinstance(value, list | tuple) else value


@contextlib.contextmanager
def panels(path: Path, rows: int, columns: int, size: tuple[float, float]) -> Iterator[Any]:
    """The axes `[rows, columns]` of a figure that is written to `path` as SVG, the same bytes for the same numbers."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot as plt

    style: dict[Any, Any] = {"svg.hashsalt": path.stem, "font.size": 11, "axes.grid": True, "axes.axisbelow": True}
    style |= {"grid.color": "#dddddd", "axes.titlesize": 11}
    with plt.rc_context(style):
        figure, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", facecolor="white", squeeze=False)
        yield axes
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None, "Creator": None})
        plt.close(figure)


def after_start(curves: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The curves without their first point: an untrained network would squeeze the rest together."""
    return {
        name: {"steps": curve["steps"][1:], "values": [values[1:] for values in curve["values"]]}
        for name, curve in curves.items()
    }


def draw_curves(axes: Any, curves: dict[str, dict[str, Any]], titles: dict[str, str]) -> None:
    """Mean over the seeds and a band of one standard deviation for each name; `steps` and `values` `[seeds][points]`."""
    for number, (name, curve) in enumerate(curves.items()):
        grid = torch.tensor(curve["values"], dtype=torch.float64)
        mean = grid.mean(0)
        spread = grid.std(0) if len(grid) > 1 else torch.zeros_like(mean)
        colour = COLOURS[number]
        axes.plot(
            curve["steps"], mean, color=colour, marker=MARKERS[number], markersize=5, linewidth=2, label=titles[name]
        )
        axes.fill_between(curve["steps"], mean - spread, mean + spread, color=colour, alpha=0.15, linewidth=0)
