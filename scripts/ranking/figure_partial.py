"""The shape of Figure 6.12: SOPA, SOPA-s and a mini-batch loss for the area up to a false positive rate, on HIV.

3.5 % of the molecules are active. MB takes the hardest negatives of each mini-batch (`PartialAUCLoss(TopK(beta))`);
SOPA and SOPA-s remember a threshold, or an average, for each positive. The learning rates are chosen by the validation
part's partial area on seed 0.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import guidestar as gs

from .batches import half_positive
from .curves import tuned_curves
from .data_molecules import load_molecules
from .harness import Trained
from .methods import trained
from .output import draw_curves, panels, save_json

BETAS = (0.3, 0.5)
EVERY = 80
TITLES = {"mb": "MB (top of the mini-batch)", "sopa": "SOPA", "sopa_s": "SOPA-s"}


def methods(beta: float) -> tuple[Trained, ...]:
    """The three methods for one rate; SOPA-s has no rate, only its temperature."""
    return (
        trained("mb", lambda task: gs.losses.PartialAUCLoss(gs.TopK(beta)), half_positive),
        trained("sopa", lambda task: gs.losses.SOPALoss(task.rows, beta), half_positive),
        trained("sopa_s", lambda task: gs.losses.SOPAsLoss(task.rows), half_positive),
    )


def measure(scorer: Any, part: Any, beta: float) -> float:
    """The partial area, divided by the rate."""
    import torch

    from guidestar.evaluation.ranking import partial_auc

    return partial_auc(torch.from_numpy(scorer(part)), part.y, beta, standardised=False)


def run(folder: Path, data: Path, cache: Path) -> None:
    """Both rates; writes the JSON and the figure."""
    found = {
        f"{beta:g}": tuned_curves(
            lambda seed: load_molecules("hiv", seed, data, cache), methods(beta), EVERY, partial(measure, beta=beta)
        )
        for beta in BETAS
    }
    save_json(folder / "objectives_partial.json", {"curves": found})
    with panels(folder / "objectives_partial.svg", 1, 2, (10.0, 4.2)) as axes:
        for column, (beta, curves) in enumerate(found.items()):
            draw_curves(axes[0, column], curves, TITLES)
            axes[0, column].set(xlabel="step", ylabel=f"pAUC (FPR ≤ {beta}), test part", title=f"HIV, β = {beta}")
            axes[0, column].set_ylim(bottom=0.35)
        axes[0, 0].legend()
