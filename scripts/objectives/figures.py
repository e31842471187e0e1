"""The figures, from the JSON files in the documentation's folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from scripts.ranking.output import COLOURS, MARKERS, draw_curves, panels

from . import films, groups, omniglot, spectral


def draw_films(folder: Path) -> None:
    """The shape of Figure 6.6."""
    methods = _read(folder, "films")["valid"]
    with panels(folder / "objectives_films.svg", 1, 1, (7.6, 4.6)) as axes:
        draw_curves(axes[0, 0], {name: _curve(methods[name], "values") for name in films.SHOWN}, groups.TITLES)
        highest = max(max(values[-1] for values in methods[name]["curve"]["values"]) for name in films.SHOWN)
        axes[0, 0].set(
            xlabel="step",
            ylabel="training objective, (6.17) over alpha",
            title="IMDB, films as groups",
            ylim=(None, 1.4 * highest),
        )
        axes[0, 0].legend(fontsize=9)


def draw_omniglot(folder: Path) -> None:
    """The shape of Figure 6.7."""
    methods = _read(folder, "omniglot")["loss"]
    with panels(folder / "objectives_omniglot.svg", 1, 2, (10.4, 4.2)) as axes:
        for place, key, label in (
            (axes[0, 0], "values", "full cross-entropy, training part"),
            (axes[0, 1], "accuracy", "accuracy, validation part"),
        ):
            draw_curves(place, {name: _curve(methods[name], key) for name in omniglot.TITLES}, omniglot.TITLES)
            place.set(xlabel="epoch", ylabel=label, title="Omniglot, 1,623 classes")
        axes[0, 0].set(yscale="log")
        axes[0, 0].set_yticks([0.5, 1, 2, 4, 7], ["0.5", "1", "2", "4", "7"])
        axes[0, 0].set_yticks([], minor=True)
        axes[0, 1].legend(fontsize=9)


def draw_spectral(folder: Path) -> None:
    """Suboptimality against passes: a row a set, a column a spectrum."""
    studies = _read(folder, "spectral")["studies"]
    size = (4.0 * len(spectral.SPECTRA), 3.0 * len(spectral.SETS))
    with panels(folder / "objectives_spectral.svg", len(spectral.SETS), len(spectral.SPECTRA), size) as axes:
        for row, name in enumerate(spectral.SETS):
            for column, spectrum in enumerate(spectral.SPECTRA):
                place = axes[row, column]
                for number, (method, entry) in enumerate(studies[f"{name}-{spectrum}"]["valid"].items()):
                    _log_curve(place, entry["curve"], number, spectral.TITLES[method])
                place.set(title=f"{name}, {spectrum}", yscale="log")
            axes[row, 0].set(ylabel="suboptimality")
        for place in axes[-1]:
            place.set(xlabel="passes")
        axes[0, 0].legend(fontsize=8)


def _log_curve(axes: Any, curve: dict[str, Any], number: int, label: str) -> None:
    """The geometric mean over the seeds, and a band between the smallest and the largest."""
    grid = torch.tensor(curve["values"], dtype=torch.float64)
    steps, colour = curve["steps"][0], COLOURS[number]
    mean = grid.log().mean(0).exp()
    axes.plot(steps, mean, color=colour, marker=MARKERS[number], markersize=4, markevery=5, linewidth=2, label=label)
    axes.fill_between(steps, grid.min(0).values, grid.max(0).values, color=colour, alpha=0.15, linewidth=0)


def _curve(entry: dict[str, Any], key: str) -> dict[str, Any]:
    return {"steps": entry["curve"]["steps"][0], "values": entry["curve"][key]}


def _read(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / f"objectives_{name}.json").read_text(encoding="utf-8"))


DRAWN = {"films": draw_films, "omniglot": draw_omniglot, "spectral": draw_spectral}
