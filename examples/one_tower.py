"""Self-supervised pre-training of one tower on Fashion-MNIST, with small batches and steered by a reference encoder.

A small convolutional encoder sees two augmented views of each of 2,000 images, without labels, in batches of 32: with
SimCLR's mini-batch loss (InfoNCE), with the global losses SogCLR and iSogCLR, which remember an average for each image,
with the robust global loss, and with the same loss relative to a reference encoder (DRRho). The reference had 1,000
other images, three times as many epochs and batches of 256. Frozen features are then judged by a linear probe and by
nearest neighbours, fitted on the labels of the training images.

Run from the root of the repository (a few minutes on one core; `--quick` is a small version):

    python examples/one_tower.py --data ../shared/data/fashion_mnist/fashion_mnist.npz

The file holds `x_train`, `y_train`, `x_test`, `y_test`: uint8 `[n, 28, 28]` and labels. The script prints a table and
writes `docs/figures/one_tower.json`.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

import guidestar as gs
from guidestar.evaluation.pairs import knn, linear_probe


@dataclass(frozen=True)
class Setting:
    """What is run; the epochs of the reference are `reference_passes` times those of the others."""

    images: int = 2000
    reference_images: int = 1000
    test_images: int = 2000
    seeds: int = 3
    epochs: int = 12
    batch_size: int = 32
    large_batch: int = 256
    reference_passes: int = 3
    lr: float = 1e-3
    tau: float = 0.2
    gamma: float = 0.9
    rho: float = 0.5


QUICK = Setting(images=256, reference_images=256, test_images=256, seeds=1, epochs=2, reference_passes=1)


@dataclass(frozen=True)
class Data:
    """Images in [0, 1] `[n, 1, H, W]`: for training, for the reference, for testing; and labels for the probes."""

    train: Tensor
    labels: Tensor
    reference: Tensor
    test: Tensor
    test_labels: Tensor


class Encoder(nn.Module):
    """Three convolutions to 64 features, and a head of two layers for the contrastive loss."""

    def __init__(self, width: int = 16, embedding: int = 64) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(2 * width, 4 * width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
        )
        self.head = nn.Sequential(nn.Linear(16 * width, embedding), nn.ReLU(), nn.Linear(embedding, embedding))

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings of unit norm, `[B, embedding]`."""
        return F.normalize(self.head(self.body(images)), dim=1)


def view(images: Tensor, generator: torch.Generator) -> Tensor:
    """A random crop (half the side to all of it), mirrored or not, with another brightness and some noise."""
    count = len(images)
    draws = torch.rand(5, count, generator=generator)
    scale = 0.5 + 0.5 * draws[0]
    sign = torch.where(draws[1] < 0.5, -1.0, 1.0)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = scale * sign, scale
    theta[:, :, 2] = (1 - scale)[:, None] * (2 * draws[2:4].T - 1)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    cut = F.grid_sample(images, grid, align_corners=False)
    noise = 0.05 * torch.randn(images.shape, generator=generator)
    return cut * (0.6 + 0.8 * draws[4])[:, None, None, None] + noise


def train(
    images: Tensor, loss: nn.Module, setting: Setting, seed: int, *, batch_size: int, epochs: int,
    reference: Encoder | None = None,
) -> Encoder:  # fmt: skip
    """Train a new encoder; with a reference, the loss is given its embeddings of the same views."""
    torch.manual_seed(seed)
    encoder = Encoder()
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=setting.lr, weight_decay=1e-4)
    steps = epochs * (len(images) // batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(seed)
    for epoch in range(epochs):
        gs.set_epoch(loss, epoch)
        order = torch.randperm(len(images), generator=generator)
        for rows in order[: len(order) // batch_size * batch_size].split(batch_size):
            first, second = view(images[rows], generator), view(images[rows], generator)
            asked = {}
            if reference is not None:
                with torch.no_grad():
                    asked = {"reference_first": reference(first), "reference_second": reference(second)}
            value = loss(encoder(first), encoder(second), rows, **asked)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            schedule.step()
    return encoder


@torch.no_grad()
def judge(encoder: Encoder, data: Data) -> dict[str, float]:
    """Accuracy of a linear probe and of nearest neighbours on the features before the head."""
    features, test = encoder.body(data.train), encoder.body(data.test)
    arguments = (features, data.labels, test, data.test_labels)
    return {"linear_probe": linear_probe(*arguments), "knn": knn(*arguments)}


def losses(setting: Setting) -> dict[str, Callable[[], nn.Module]]:
    """The objectives that train with small batches; `drrho` gets the reference, `robust` is the same without it."""
    n, tau, gamma = setting.images, setting.tau, setting.gamma
    return {
        "simclr": lambda: gs.losses.InfoNCELoss(tau),
        "sogclr": lambda: gs.losses.SogCLRLoss(n, tau, gamma),
        "isogclr": lambda: gs.losses.ISogCLRLoss(n, setting.rho, tau=tau, tau_min=0.05, gamma=gamma, lr=1e-2),
        "robust": lambda: gs.losses.DRRhoContrastiveLoss(gs.KL(tau, n, gamma)),
        "drrho": lambda: gs.losses.DRRhoContrastiveLoss(gs.KL(tau, n, gamma)),
    }


def run(setting: Setting, draw: Callable[[int], Data]) -> dict[str, Any]:
    """All trainings of all seeds; what the JSON file holds."""
    start = time.perf_counter()
    found: dict[str, dict[str, list[float]]] = {}
    for seed in range(setting.seeds):
        data = draw(seed)
        encoders = {}
        torch.manual_seed(seed)
        encoders["untrained"] = Encoder()
        large = gs.losses.InfoNCELoss(setting.tau)
        size = min(setting.large_batch, len(data.reference))
        longer = setting.reference_passes * setting.epochs
        reference = train(data.reference, large, setting, 1000 + seed, batch_size=size, epochs=longer).eval()
        encoders["reference"] = reference
        for name, build in losses(setting).items():
            encoders[name] = train(
                data.train, build(), setting, seed, batch_size=setting.batch_size, epochs=setting.epochs,
                reference=reference if name == "drrho" else None,
            )  # fmt: skip
        encoders["simclr_large"] = train(
            data.train, large, setting, seed, batch_size=setting.large_batch, epochs=setting.epochs
        )
        for name, encoder in encoders.items():
            for metric, value in judge(encoder, data).items():
                found.setdefault(name, {}).setdefault(metric, []).append(value)
    return {
        "setting": asdict(setting),
        "results": found,
        "environment": environment(),
        "seconds": round(time.perf_counter() - start, 1),
    }


def environment() -> dict[str, Any]:
    """What the numbers were made with."""
    return {
        "guidestar": gs.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "device": "cpu",
        "threads": torch.get_num_threads(),
        "date": datetime.date.today().isoformat(),
    }


def fashion_mnist(path: Path, setting: Setting) -> Callable[[int], Data]:
    """Draws of each seed: the target's and the reference's images from the training part, test images from the other."""
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in ("x_train", "y_train", "x_test", "y_test")}

    def images(part: str, rows: np.ndarray) -> Tensor:
        return torch.from_numpy(arrays[f"x_{part}"][rows]).float().div(255).unsqueeze(1)

    def draw(seed: int) -> Data:
        generator = np.random.default_rng(seed)
        order = generator.permutation(len(arrays["x_train"]))
        rows, others = order[: setting.images], order[setting.images :][: setting.reference_images]
        test = generator.permutation(len(arrays["x_test"]))[: setting.test_images]
        labels, goal = (
            torch.from_numpy(arrays[f"y_{part}"][at]).long() for part, at in (("train", rows), ("test", test))
        )
        return Data(images("train", rows), labels, images("train", others), images("test", test), goal)

    return draw


def names(setting: dict[str, Any]) -> dict[str, str]:
    """What stands in the table, in its order."""
    small, large = f"batch {setting['batch_size']}", f"batch {setting['large_batch']}"
    return {
        "untrained": "random weights",
        "reference": "the reference itself",
        "simclr_large": f"SimCLR, {large}",
        "simclr": f"SimCLR, {small}",
        "sogclr": f"SogCLR, {small}",
        "isogclr": f"iSogCLR, {small}",
        "robust": f"robust loss without a reference, {small}",
        "drrho": f"DRRho, {small}",
    }


def cell(values: list[float]) -> str:
    """Mean and standard deviation in percent.

    Example:
        >>> cell([0.5, 0.6])
        '55.0 ± 7.1'
    """
    mean = sum(values) / len(values)
    spread = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1)) if len(values) > 1 else 0.0
    return f"{100 * mean:.1f} ± {100 * spread:.1f}"


def table(result: dict[str, Any]) -> Table:
    """The results for the terminal."""
    out = Table(title=f"Accuracy in percent, mean ± deviation over {result['setting']['seeds']} seeds")
    out.add_column("trained with", no_wrap=True)
    for metric in ("linear probe", "nearest neighbours"):
        out.add_column(metric, justify="right", no_wrap=True)
    for name, text in names(result["setting"]).items():
        out.add_row(text, *(cell(result["results"][name][metric]) for metric in ("linear_probe", "knn")))
    return out


def main() -> None:
    """Run, write, print."""
    parser = argparse.ArgumentParser(description="Self-supervised pre-training of one tower on Fashion-MNIST.")
    parser.add_argument("--quick", action="store_true", help="a small version: few images, two epochs, one seed")
    parser.add_argument("--data", type=Path, default=Path("../shared/data/fashion_mnist/fashion_mnist.npz"))
    parser.add_argument("--out", type=Path, default=Path("docs/figures"), help="folder for the JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    setting = QUICK if arguments.quick else Setting()
    result = run(setting, fashion_mnist(arguments.data, setting))
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "one_tower.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    console = Console(width=100)
    console.print(table(result))
    console.print(f"{result['seconds']} seconds.")


if __name__ == "__main__":
    main()
