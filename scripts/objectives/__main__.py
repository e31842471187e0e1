"""Trains what is missing, gathers the results and draws the figures.

python -m scripts.objectives train                    # about 15 minutes of one core; continues where it stopped
python -m scripts.objectives train --studies ltr,adult
python -m scripts.objectives gather                   # runs/results/objectives -> docs/figures/objectives_*.json
python -m scripts.objectives figures                  # docs/figures/objectives_*.svg from these files
python -m scripts.objectives                          # all of it
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from .figures import DRAWN
from .results import write, write_spectral
from .studies import SPECTRAL, STUDIES
from .study import train

ROOT = Path(__file__).resolve().parents[2]
RUNS = ROOT / "runs" / "results" / "objectives"
FIGURES = ROOT / "docs" / "figures"
STEPS = ("train", "gather", "figures")


def main() -> None:
    """Do the steps that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("steps", nargs="*", help=f"of {STEPS}; all of them if none is given")
    parser.add_argument("--studies", default=",".join(STUDIES), help="names of studies, with commas")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="the folder of data sets")
    options = parser.parse_args()
    torch.set_num_threads(1)
    steps = options.steps or STEPS
    if unknown := set(steps) - set(STEPS):
        parser.error(f"unknown steps {sorted(unknown)}; there are {STEPS}")
    if unknown := set(options.studies.split(",")) - set(STUDIES):
        parser.error(f"unknown studies {sorted(unknown)}; there are {list(STUDIES)}")
    if "train" in steps:
        for name in options.studies.split(","):
            train(STUDIES[name], RUNS, options.data)
    chosen = options.studies.split(",")
    if "gather" in steps:
        for name in chosen:
            if name not in SPECTRAL:
                write(STUDIES[name], RUNS, options.data, FIGURES)
        if set(chosen) >= SPECTRAL:
            write_spectral(RUNS, options.data, FIGURES)
    if "figures" in steps:
        for name, draw in DRAWN.items():
            if name in chosen or (name == "spectral" and set(chosen) >= SPECTRAL):
                draw(FIGURES)


if __name__ == "__main__":
    main()
