"""Trains what is missing, gathers the results, draws the figures and writes the page.

python -m scripts.ranking train              # about 35 minutes of one core; continues where it stopped
python -m scripts.ranking train --tasks bbbp,adult
python -m scripts.ranking gather             # runs/ranking -> docs/figures/objectives.json
python -m scripts.ranking figures            # about 6 minutes of one core
python -m scripts.ranking page               # docs/results-objectives.md from the JSON files in docs/figures
python -m scripts.ranking                    # all of it
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from .binary import TASKS, methods_of, task_maker
from .harness import run

ROOT = Path(__file__).resolve().parents[2]
RUNS = ROOT / "runs" / "ranking"
FIGURES = ROOT / "docs" / "figures"
STEPS = ("train", "gather", "figures", "page")


def main() -> None:
    """Do the steps that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("steps", nargs="*", help=f"of {STEPS}; all of them if none is given")
    parser.add_argument("--tasks", default=",".join(TASKS), help="names of tasks, with commas")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="the folder of data sets")
    options = parser.parse_args()
    torch.set_num_threads(1)
    steps = options.steps or STEPS
    if unknown := set(steps) - set(STEPS):
        parser.error(f"unknown steps {sorted(unknown)}; there are {STEPS}")
    if "train" in steps:
        for name in options.tasks.split(","):
            run(task_maker(name, options.data, RUNS / "cache"), name, methods_of(name), RUNS)


if __name__ == "__main__":
    main()
