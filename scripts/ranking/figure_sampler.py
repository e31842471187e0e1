"""The shape of Figure 6.15: average precision for different numbers of positives in batches of 64, with SOAP.

Fashion-MNIST with 2 % positives; `DualSampler` fills each batch with so many positives. The learning rate of each number
is chosen by the validation part's AP on seed 0.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch

import guidestar as gs
from guidestar.evaluation.ranking import average_precision

from .batches import with_rate
from .curves import tuned_curves
from .data_images import RATES, load_images
from .harness import Trained
from .methods import RATES as LEARNING_RATES
from .methods import adam
from .output import after_start, draw_curves, panels, save_json
from .task import network_scorer

BATCH = 64
POSITIVES = (1, 8, 16, 32, 48)
EVERY = 25


def methods() -> tuple[Trained, ...]:
    """SOAP with each number of positives."""
    return tuple(
        Trained(
            str(count), lambda task: gs.losses.AveragePrecisionLoss(task.rows), adam,
            partial(with_rate, rate=count / BATCH), LEARNING_RATES, network_scorer,
        )
        for count in POSITIVES
    )  # fmt: skip


def measure(scorer: Any, part: Any) -> float:
    """Average precision."""
    return average_precision(torch.from_numpy(scorer(part)), part.y)


def run(folder: Path, data: Path, cache: Path) -> None:
    """All numbers of positives; writes the JSON and the figure."""
    found = tuned_curves(lambda seed: load_images("fashion", RATES["02"], seed, data, cache), methods(), EVERY, measure)
    save_json(folder / "objectives_sampler.json", {"batch": BATCH, "curves": found})
    draw(found, folder / "objectives_sampler.svg")


def draw(found: dict[str, dict[str, Any]], path: Path) -> None:
    """One panel."""
    with panels(path, 1, 1, (6.4, 4.4)) as axes:
        draw_curves(axes[0, 0], after_start(found), {name: f"{name} of {BATCH}" for name in found})
        axes[0, 0].set(xlabel="step", ylabel="AP, test part", title="Fashion-MNIST, 2 % positive: positives a batch")
        axes[0, 0].legend()
