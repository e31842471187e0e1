"""The shape of Figure 6.12: SOPA, SOPA-s and a mini-batch loss for the area up to a false positive rate, on HIV.

3.5 % of the molecules are active. MB takes the hardest negatives of each mini-batch (`PartialAUCLoss(TopK(beta))`);
SOPA and SOPA-s remember a threshold, or an average, for each positive. The learning rates are chosen by the validation
part's partial area on seed 0.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import torch

import guidestar as gs
from guidestar.evaluation.ranking import partial_auc

from .batches import half_positive
from .curves import tuned_curves
from .data_molecules import load_molecules
from .harness import Trained
from .methods import trained
from .output import after_start, draw_curves, panels, save_json
from .task import BinaryTask, Part

BETAS = (0.3, 0.5)
#: Half of a batch is positive; the smaller it is, the worse its hardest negatives stand for those of the data.
BATCHES = (128, 16)
EVERY = 80
TITLES = {"mb": "MB (top of the mini-batch)", "sopa": "SOPA", "sopa_s": "SOPA-s"}


def methods(beta: float) -> tuple[Trained, ...]:
    """The three methods for one rate; SOPA-s has no rate, only its temperature."""
    return (
        trained("mb", lambda task: gs.losses.PartialAUCLoss(gs.TopK(beta)), half_positive),
        trained("sopa", lambda task: gs.losses.SOPALoss(task.rows, beta), half_positive),
        trained("sopa_s", lambda task: gs.losses.SOPAsLoss(task.rows), half_positive),
    )


def measure(scorer: Any, part: Part, beta: float) -> float:
    """The partial area, divided by the rate."""
    return partial_auc(torch.from_numpy(scorer(part)), part.y, beta, standardised=False)


def run(folder: Path, data: Path, cache: Path) -> None:
    """Both batch sizes and both rates; writes the JSON and the figure."""

    def make(batch: int, seed: int) -> BinaryTask:
        return dataclasses.replace(load_molecules("hiv", seed, data, cache), batch_size=batch)

    found = {
        str(batch): {
            f"{beta:g}": tuned_curves(partial(make, batch), methods(beta), EVERY, partial(measure, beta=beta))
            for beta in BETAS
        }
        for batch in BATCHES
    }
    save_json(folder / "objectives_partial.json", {"curves": found})
    draw(found, folder / "objectives_partial.svg")


def draw(found: dict[str, dict[str, Any]], path: Path) -> None:
    """A row a batch size, a column a rate."""
    with panels(path, len(found), len(BETAS), (10.0, 3.8 * len(found))) as axes:
        for row, (batch, by_rate) in enumerate(found.items()):
            for column, (beta, curves) in enumerate(by_rate.items()):
                draw_curves(axes[row, column], after_start(curves), TITLES)
                title = f"HIV, batches of {batch}, FPR ≤ {beta}"
                axes[row, column].set(xlabel="step", ylabel="pAUC, test part", title=title)
        axes[0, 0].legend()
