"""The shape of Figure 6.4: momentum for the average loss against AB-momentum on imbalanced data in the plane.

A random line divides points of the square; 100 of the one side and 12 of the other are kept. A linear model is trained
for 100 steps of momentum with the average logistic loss and with `ABSGDLoss` on the same batches. The JSON has the
balanced accuracy on new points over many draws; the figure shows the first draw.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import guidestar as gs

from .output import COLOURS, panels, save_json

MAJORITY, MINORITY, TEST = 100, 12, 5000
DRAWS = 50
STEPS, BATCH, LR, MOMENTUM = 100, 16, 0.3, 0.9
TAU, GAMMA = 0.5, 0.5
NAMES = {"erm": "momentum (average loss)", "absgd": "AB-momentum (KL-DRO)"}
#: Samples whose weights are shown: of the majority, of the minority far from the line, and of the minority close to it.
SHOWN = (6, 3, 3)


def points(count: int, side: int, direction: Tensor, generator: torch.Generator) -> Tensor:
    """Points of the square [-1, 1]^2 on one side of the line through 0.15 `direction`, with a gap of 0.02."""
    found = torch.empty(0, 2)
    sign = 1.0 if side else -1.0
    while len(found) < count:
        drawn = 2 * torch.rand(8 * count, 2, generator=generator) - 1
        found = torch.cat([found, drawn[sign * (drawn @ direction - 0.15) > 0.02]])
    return found[:count]


def draw(seed: int) -> dict[str, Tensor]:
    """Training and test points of one draw; label 1 is the minority."""
    generator = torch.Generator().manual_seed(seed)
    angle = 2 * math.pi * float(torch.rand(1, generator=generator))
    direction = torch.tensor([math.cos(angle), math.sin(angle)])
    x = torch.cat([points(MAJORITY, 0, direction, generator), points(MINORITY, 1, direction, generator)])
    y = (torch.arange(len(x)) >= MAJORITY).long()
    test = [points(TEST, side, direction, generator) for side in (0, 1)]
    return {"x": x, "y": y, "negative": test[0], "positive": test[1], "direction": direction}


class Average(nn.Module):
    """The mean logistic loss."""

    def forward(self, scores: Tensor, labels: Tensor) -> Tensor:
        """The mean over the batch."""
        return F.binary_cross_entropy_with_logits(scores, labels.float())


def fit(data: dict[str, Tensor], loss: nn.Module, seed: int) -> tuple[nn.Linear, Tensor]:
    """A linear model, and the mean weight of each sample in the batches it was in (1 is the average loss's)."""
    torch.manual_seed(seed)
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM)
    generator = torch.Generator().manual_seed(seed)
    weights, visits = torch.zeros(len(data["y"])), torch.zeros(len(data["y"]))
    for _ in range(STEPS):
        rows = torch.randperm(len(data["y"]), generator=generator)[:BATCH]
        scores, labels = model(data["x"][rows]).squeeze(1), data["y"][rows]
        scores.retain_grad()
        optimizer.zero_grad()
        loss(scores, labels).backward()
        slope = torch.sigmoid(scores.detach()) - labels
        if scores.grad is not None:
            weights[rows] += BATCH * scores.grad / slope  # what multiplies the sample's own gradient
        visits[rows] += 1
        optimizer.step()
    return model, weights / visits


@torch.no_grad()
def balanced_accuracy(model: nn.Linear, data: dict[str, Tensor]) -> float:
    """Mean of the shares of the two classes that are on the right side."""
    right = [(model(data["positive"]) > 0).double().mean(), (model(data["negative"]) < 0).double().mean()]
    return float(sum(right)) / 2


def run(folder: Path) -> None:
    """All draws; writes the JSON and the figure."""
    accuracy: dict[str, list[float]] = {name: [] for name in NAMES}
    kept: dict[str, tuple[nn.Linear, Tensor]] = {}
    for seed in range(DRAWS):
        data = draw(seed)
        for name in NAMES:
            loss = Average() if name == "erm" else gs.losses.ABSGDLoss(TAU, gamma=GAMMA)
            model, weights = fit(data, loss, seed)
            accuracy[name].append(balanced_accuracy(model, data))
            if seed == 0:
                kept[name] = (model, weights)
    data = draw(0)
    shown = _shown(data)
    result: dict[str, Any] = {
        "setting": {
            "majority": MAJORITY, "minority": MINORITY, "draws": DRAWS, "steps": STEPS, "batch": BATCH, "lr": LR,
            "momentum": MOMENTUM, "tau": TAU, "gamma": GAMMA,
        },
        "balanced_accuracy": accuracy,
        "weights": {name: weights[shown].tolist() for name, (_, weights) in kept.items()},
    }  # fmt: skip
    save_json(folder / "objectives_absgd.json", result)
    _draw(data, kept, shown, folder / "objectives_absgd.svg")


def _shown(data: dict[str, Tensor]) -> Tensor:
    """Rows of samples: some of the majority, and the minority's farthest from and closest to the line."""
    order = torch.argsort((data["x"][MAJORITY:] @ data["direction"]), descending=True) + MAJORITY
    return torch.cat([torch.arange(SHOWN[0]), order[: SHOWN[1]], order[-SHOWN[2] :]])


def _draw(data: dict[str, Tensor], kept: dict[str, tuple[nn.Linear, Tensor]], shown: Tensor, path: Path) -> None:
    with panels(path, 2, 2, (8.4, 7.6)) as axes:
        titles = {(0, 0): "the data and the true line", (1, 0): NAMES["erm"], (1, 1): NAMES["absgd"]}
        lines = {(0, 0): (data["direction"], -0.15)}
        for place, name in (((1, 0), "erm"), ((1, 1), "absgd")):
            model = kept[name][0]
            lines[place] = (model.weight.detach()[0], float(model.bias.detach()))
        for place, (normal, offset) in lines.items():
            one = axes[place]
            for label, colour, marker in ((0, COLOURS[4], "o"), (1, COLOURS[2], "^")):
                of_class = data["x"][data["y"] == label]
                one.scatter(of_class[:, 0], of_class[:, 1], color=colour, marker=marker, s=18)
            circled = data["x"][shown]
            one.scatter(circled[:, 0], circled[:, 1], s=90, facecolors="none", edgecolors="#111111", linewidths=1)
            closest, tangent = -offset * normal / normal.square().sum(), torch.tensor([-normal[1], normal[0]])
            ends = torch.stack([closest - 9 * tangent / tangent.norm(), closest + 9 * tangent / tangent.norm()])
            one.plot(ends[:, 0], ends[:, 1], color="#111111", linewidth=2)
            one.set(xlim=(-1.05, 1.05), ylim=(-1.05, 1.05), title=titles[place])
        places = torch.arange(len(shown)) + 1
        for shift, name, colour in ((-0.2, "erm", COLOURS[5]), (0.2, "absgd", COLOURS[1])):
            axes[0, 1].bar(
                (places + shift).tolist(), kept[name][1][shown].tolist(), width=0.4, color=colour, label=NAMES[name]
            )
        axes[0, 1].axvline(SHOWN[0] + 0.5, color="#888888", linestyle="--")
        axes[0, 1].set(title="mean weight of the circled samples", xlabel="majority | minority: far, then close")
        axes[0, 1].set_xticks(places.tolist())
        axes[0, 1].legend(fontsize=9)
