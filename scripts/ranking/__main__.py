"""Trains what is missing, gathers the results, draws the figures and writes the page.

python -m scripts.ranking train              # about half an hour of one core; continues where it stopped
python -m scripts.ranking train --tasks bbbp,adult
python -m scripts.ranking gather             # runs/ranking -> docs/figures/objectives.json
python -m scripts.ranking figures            # about 4 minutes of one core
python -m scripts.ranking page               # docs/results-objectives.md from the JSON files in docs/figures
python -m scripts.ranking                    # all of it
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from . import figure_absgd, figure_margin, figure_partial, figure_primal_dual, figure_sampler, page, page_figures
from .binary import TASKS, methods_of, task_maker
from .gather import gather
from .harness import run
from .output import save_json
from .task import BinaryTask

ROOT = Path(__file__).resolve().parents[2]
RUNS = ROOT / "runs" / "ranking"
FIGURES = ROOT / "docs" / "figures"
PAGE = ROOT / "docs" / "results-objectives.md"
STEPS = ("train", "gather", "figures", "page")


def main() -> None:
    """Do the steps that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("steps", nargs="*", help=f"of {STEPS}; all of them if none is given")
    parser.add_argument("--tasks", default=",".join(TASKS), help="names of tasks, with commas")
    parser.add_argument("--figures", default=",".join(page_figures.SECTIONS), help="names of figures, with commas")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="the folder of data sets")
    options = parser.parse_args()
    torch.set_num_threads(1)
    steps = options.steps or STEPS
    if unknown := set(steps) - set(STEPS):
        parser.error(f"unknown steps {sorted(unknown)}; there are {STEPS}")

    def maker(name: str) -> Callable[[int], BinaryTask]:
        return task_maker(name, options.data, RUNS / "cache")

    if "train" in steps:
        for name in options.tasks.split(","):
            run(maker(name), name, methods_of(name), RUNS)
    if "gather" in steps:
        found = gather(RUNS, TASKS, maker)
        for name, task in found["tasks"].items():
            task["kind"] = TASKS[name]
        save_json(FIGURES / "objectives.json", found)
    if "figures" in steps:
        draw(options.data, options.figures.split(","))
    if "page" in steps:
        PAGE.write_text(page.write(FIGURES), encoding="utf-8")
        print(f"written {PAGE.relative_to(ROOT)}")


def draw(data: Path, names: Sequence[str]) -> None:
    """The figures, each with its JSON file."""
    made: dict[str, Callable[[], None]] = {
        "absgd": lambda: figure_absgd.run(FIGURES),
        "margin": lambda: figure_margin.run(FIGURES),
        "primal_dual": lambda: figure_primal_dual.run(FIGURES, data, RUNS / "cache"),
        "partial": lambda: figure_partial.run(FIGURES, data, RUNS / "cache"),
        "sampler": lambda: figure_sampler.run(FIGURES, data, RUNS / "cache"),
    }
    for name in names:
        print(f"figure {name}", flush=True)
        made[name]()


if __name__ == "__main__":
    main()
