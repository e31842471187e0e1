"""The shape of Figure 6.8: PDMA and PDAdam against SGDA for the AUC margin loss (6.21) on BBBP.

The same loss and the same dual step; the primal variables are updated by plain SGD (SGDA), by momentum (PDMA) or by
Adam (PDAdam). The curves are the objective (6.20) over the whole training part, with a, b and alpha at their optimum for
the current network, and the test AUROC.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import guidestar as gs

from .batches import half_positive
from .curves import curve
from .data_molecules import load_molecules
from .harness import SEEDS, Trained
from .methods import WEIGHT_DECAY, adam
from .metrics import ranking_metrics
from .output import draw_curves, panels, save_json
from .task import BinaryTask, network_scorer

EVERY = 15
MARGIN = 1.0
TITLES = {"sgda": "SGDA", "pdma": "PDMA", "pdadam": "PDAdam"}


def sgd(model: nn.Module, loss: nn.Module, lr: float, momentum: float) -> torch.optim.Optimizer:
    """SGD over the network and a, b."""
    primal = [*model.parameters(), *loss.parameters()]
    return torch.optim.SGD(primal, lr=lr, momentum=momentum, weight_decay=WEIGHT_DECAY)


def methods() -> tuple[Trained, ...]:
    """The three; each has three learning rates to choose from."""
    made = (
        ("sgda", partial(sgd, momentum=0.0), (0.03, 0.1, 0.3)),
        ("pdma", partial(sgd, momentum=0.9), (0.01, 0.03, 0.1)),
        ("pdadam", adam, (2e-3, 8e-3, 3e-2)),
    )
    return tuple(
        Trained(name, lambda task: gs.losses.AUCMarginLoss(MARGIN), optimizer, half_positive, rates, network_scorer)
        for name, optimizer, rates in made
    )


@torch.no_grad()
def objective(model: nn.Module, task: BinaryTask) -> float:
    """Eq. 6.20 over the training part with the squared hinge, minimised over a and b."""
    model.eval()
    scores = model(task.train.x).squeeze(1).double()
    positive, negative = scores[task.train.y == 1], scores[task.train.y == 0]
    gap = negative.mean() - positive.mean()
    return float(variance(positive) + variance(negative) + torch.relu(MARGIN + gap).square())  # Eq. 6.20


def variance(scores: Tensor) -> Tensor:
    """The mean square around the mean, which is the best a (or b)."""
    return (scores - scores.mean()).square().mean()


def run(folder: Path, data: Path, cache: Path) -> None:
    """Tune on seed 0 by the last objective, run all seeds, write the JSON and the figure."""
    found: dict[str, dict[str, Any]] = {}
    for seed in SEEDS:
        task = load_molecules("bbbp", seed, data, cache)
        for method in methods():
            if seed == SEEDS[0]:
                found[method.name] = {"lr": _best_rate(task, method), "steps": [], "values": [], "auroc": []}
            entry = found[method.name]
            look = partial(_look, task)
            made = curve(task, method, entry["lr"], seed, EVERY, look)
            entry["steps"] = made["steps"]
            entry["values"].append([value for value, _ in made["values"]])
            entry["auroc"].append([area for _, area in made["values"]])
    save_json(folder / "objectives_primal_dual.json", {"seeds": len(SEEDS), "curves": found})
    with panels(folder / "objectives_primal_dual.svg", 1, 2, (10.0, 4.2)) as axes:
        draw_curves(axes[0, 0], found, TITLES)
        axes[0, 0].set(yscale="log", xlabel="step", ylabel="objective (6.20), training part", title="BBBP: training")
        areas = {name: {"steps": entry["steps"], "values": entry["auroc"]} for name, entry in found.items()}
        draw_curves(axes[0, 1], areas, TITLES)
        axes[0, 1].set(xlabel="step", ylabel="AUROC, test part", title="BBBP: test")
        axes[0, 1].legend()


def _best_rate(task: BinaryTask, method: Trained) -> float:
    last = {}
    for lr in method.settings:
        made = curve(task, method, lr, SEEDS[0], task.steps, lambda model, loss: objective(model, task))
        value = made["values"][-1]
        last[lr] = value if value == value else float("inf")
    return min(last, key=lambda lr: last[lr])


def _look(task: BinaryTask, model: nn.Module, loss: nn.Module) -> tuple[float, float]:
    scores = network_scorer(model)(task.test)
    return objective(model, task), ranking_metrics(scores, task.test.labels)["auroc"]
