"""The shape of Figure 6.9: the AUC square loss and the AUC margin loss on a toy in the plane, with noisy labels.

A network of two layers with ELU is trained with cross-entropy (left), and from there again with an AUC loss after easy
examples far from the boundary were added (middle), and after examples with wrong labels were added as well (right). Both
objectives are `AUCMarginLoss`, with the square and with the squared hinge; a and b start at the means of the classes. The
boundary is where the score is (a + b) / 2. The JSON has the AUROC and the accuracy on new points over many draws, also
for networks that start at random; the figure shows the first draw.
"""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import guidestar as gs
from guidestar import surrogates

from .metrics import ranking_metrics
from .output import COLOURS, panels, save_json

DRAWS = 20
BASE, EASY, NOISY, TEST = 60, 60, 20, 1000
FIRST_STEPS, STEPS, LR, WIDTH = 300, 100, 0.01, 16
SURROGATES = {"square": surrogates.squared, "margin": surrogates.squared_hinge}
TITLES = {"square": "AUC square loss", "margin": "AUC margin loss"}
STAGES = {"base": "cross-entropy", "easy": "easy examples added", "noisy": "and wrong labels"}


def clusters(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """`count` points of each class, beside a diagonal boundary."""
    along = 3 * torch.rand(2 * count, generator=generator) - 1.5
    across = 0.55 + 0.25 * torch.randn(2 * count, generator=generator)
    y = (torch.arange(2 * count) >= count).long()
    across = torch.where(y == 1, across, -across)
    return torch.stack([along - across, along + across], dim=1) / 2**0.5, y


def stages(seed: int) -> tuple[dict[str, tuple[Tensor, Tensor]], tuple[Tensor, Tensor]]:
    """The training data of the three stages, and the test data."""
    generator = torch.Generator().manual_seed(seed)
    x, y = clusters(BASE, generator)
    found = {"base": (x, y)}
    # Far on the right side of the boundary: a square loss wants the score back at the margin.
    easy_y = (torch.arange(2 * EASY) >= EASY).long()
    centre = torch.tensor([-1.0, 1.0]) * 3.0
    easy = torch.where(easy_y[:, None] == 1, centre, -centre) + 0.4 * torch.randn(2 * EASY, 2, generator=generator)
    x, y = torch.cat([x, easy]), torch.cat([y, easy_y])
    found["easy"] = (x, y)
    wrong_y = (torch.arange(NOISY) >= NOISY // 2).long()
    noisy = torch.where(wrong_y[:, None] == 0, centre, -centre) / 2 + 0.3 * torch.randn(NOISY, 2, generator=generator)
    found["noisy"] = (torch.cat([x, noisy]), torch.cat([y, wrong_y]))
    return found, clusters(TEST, generator)


def pretrained(x: Tensor, y: Tensor, seed: int, steps: int) -> nn.Module:
    """A network after so many steps of cross-entropy on all points."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(2, WIDTH), nn.ELU(), nn.Linear(WIDTH, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=LR)
    for _ in range(steps):
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(model(x).squeeze(1), y.float()).backward()
        optimizer.step()
    return model


def fit(x: Tensor, y: Tensor, name: str, start: nn.Module) -> tuple[nn.Module, float]:
    """Train on all points at once, from a copy of a network; the network and its threshold."""
    model = copy.deepcopy(start)
    loss = gs.losses.AUCMarginLoss(surrogate=SURROGATES[name])
    with torch.no_grad():
        positive, negative = class_means(model, x, y)
        loss.a.fill_(positive)
        loss.b.fill_(negative)
    optimizer = torch.optim.Adam([*model.parameters(), *loss.parameters()], lr=LR)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss(model(x).squeeze(1), y).backward()
        optimizer.step()
    return model, float((loss.a + loss.b).detach()) / 2


@torch.no_grad()
def class_means(model: nn.Module, x: Tensor, y: Tensor) -> tuple[float, float]:
    """The mean scores of the positives and of the negatives."""
    scores = model(x).squeeze(1)
    return float(scores[y == 1].mean()), float(scores[y == 0].mean())


@torch.no_grad()
def judge(model: nn.Module, threshold: float, test: tuple[Tensor, Tensor]) -> dict[str, float]:
    """AUROC and accuracy on the test points."""
    scores = model(test[0]).squeeze(1).double()
    area = ranking_metrics(scores.numpy(), test[1].numpy())["auroc"]
    return {"auroc": area, "accuracy": float(((scores > threshold) == test[1]).double().mean())}


def run(folder: Path) -> None:
    """All draws; writes the JSON and the figure."""
    found: dict[str, dict[str, dict[str, list[dict[str, float]]]]] = {
        start: {name: {stage: [] for stage in STAGES} for name in SURROGATES} for start in ("pretrained", "random")
    }
    drawn = []
    for seed in range(DRAWS):
        data, test = stages(seed)
        for start, steps in (("pretrained", FIRST_STEPS), ("random", 0)):
            first = pretrained(*data["base"], seed, steps)
            for name in SURROGATES:
                for stage, (x, y) in data.items():
                    if stage == "base":
                        model, threshold = first, sum(class_means(first, x, y)) / 2
                    else:
                        model, threshold = fit(x, y, name, first)
                    found[start][name][stage].append(judge(model, threshold, test))
                    if seed == 0 and start == "pretrained":
                        drawn.append((name, stage, x, y, _grid(model), threshold))
    setting = {
        "draws": DRAWS, "base": BASE, "easy": EASY, "noisy": NOISY, "first_steps": FIRST_STEPS, "steps": STEPS,
        "lr": LR, "width": WIDTH,
    }  # fmt: skip
    save_json(folder / "objectives_margin.json", {"setting": setting, "test": found})
    _draw(drawn, folder / "objectives_margin.svg")


def _grid(model: nn.Module) -> Tensor:
    side = torch.linspace(-4.5, 4.5, 121)
    with torch.no_grad():
        return model(torch.cartesian_prod(side, side)).reshape(121, 121).T


def _draw(drawn: list[tuple[str, str, Tensor, Tensor, Tensor, float]], path: Path) -> None:
    side = torch.linspace(-4.5, 4.5, 121)
    with panels(path, 2, 3, (10.5, 7.0)) as axes:
        for number, (name, stage, x, y, grid, threshold) in enumerate(drawn):
            one = axes[number // 3, number % 3]
            one.contour(side, side, grid, levels=[threshold], colors="#111111", linestyles="--", linewidths=2)
            for label, colour, marker in ((0, COLOURS[4], "o"), (1, COLOURS[2], "^")):
                one.scatter(x[y == label][:, 0], x[y == label][:, 1], color=colour, marker=marker, s=14)
            if stage == "noisy":
                wrong = x[-NOISY:]
                one.scatter(wrong[:, 0], wrong[:, 1], s=70, facecolors="none", edgecolors=COLOURS[0], linewidths=1.2)
            one.set(xlim=(-4.5, 4.5), ylim=(-4.5, 4.5), title=f"{TITLES[name]}: {STAGES[stage]}")
