"""Two classes of which one is rare: cross-entropy against losses for AUC, average precision and partial AUC.

The ten classes of Fashion-MNIST make two: 0 to 4 are negative, 5 to 9 positive, and only so many positives are kept that
they are 2 % of the training and of the test images. Where the file is not there, the digits of scikit-learn take its place:
0 to 4 against 5 to 9, with 5 % positive. A small network is trained with each loss, on the same images, with as many steps of
the same size; all but plain cross-entropy see batches of which a quarter is positive.

Run from the root of the repository (under a minute on one core; needs scikit-learn):

    python examples/auc_imbalanced.py --data ../shared/data/fashion_mnist/fashion_mnist.npz

The file holds `x_train`, `y_train`, `x_test`, `y_test`: uint8 `[n, 28, 28]` and labels. The script prints a table.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import guidestar as gs
from guidestar.evaluation import auc, average_precision, partial_auc
from guidestar.samplers import DualSampler, Indexed

DATA = Path("../shared/data/fashion_mnist/fashion_mnist.npz")


@dataclass(frozen=True)
class Setting:
    """What is run: `images` training images before positives are dropped, and batches of `batch_size` for `steps` steps."""

    images: int = 12_000
    rate: float = 0.02
    sampling_rate: float = 0.25
    batch_size: int = 64
    steps: int = 400
    lr: float = 1e-3
    max_fpr: float = 0.1
    seeds: int = 3


class CrossEntropy(nn.Module):
    """The logistic loss, with the signature of the others."""

    def forward(self, scores: Tensor, labels: Tensor, index: Tensor | None = None) -> Tensor:
        """The mean over the batch."""
        return nn.functional.binary_cross_entropy_with_logits(scores, labels.to(scores))


#: Method -> (makes its loss for n samples, whether its batches have a fixed number of positives).
METHODS: dict[str, tuple[Callable[[int], nn.Module], bool]] = {
    "cross-entropy, shuffled": (lambda n: CrossEntropy(), False),
    "cross-entropy": (lambda n: CrossEntropy(), True),
    "PairwiseAUCLoss": (lambda n: gs.losses.PairwiseAUCLoss(), True),
    "AUCMarginLoss": (lambda n: gs.losses.AUCMarginLoss(), True),
    "AveragePrecisionLoss": (lambda n: gs.losses.AveragePrecisionLoss(n), True),
    "SOPALoss": (lambda n: gs.losses.SOPALoss(n, beta=0.1), True),
}


def keep(x: Tensor, y: Tensor, rate: float, generator: torch.Generator) -> TensorDataset:
    """All negatives, and as many positives, drawn at random, that their share is `rate`."""
    negative, positive = (y == 0).nonzero().flatten(), (y == 1).nonzero().flatten()
    count = round(len(negative) * rate / (1 - rate))
    drawn = positive[torch.randperm(len(positive), generator=generator)[:count]]
    rows = torch.cat([negative, drawn])
    return TensorDataset(x[rows], y[rows])


def load(path: Path, setting: Setting, seed: int) -> tuple[TensorDataset, TensorDataset]:
    """Training and test set of a seed: Fashion-MNIST from the file, or the digits if there is none."""
    generator = torch.Generator().manual_seed(seed)
    if path.is_file():
        with np.load(path) as archive:
            arrays = [archive[name] for name in ("x_train", "y_train", "x_test", "y_test")]
        x, y, x_test, y_test = (torch.from_numpy(array) for array in arrays)
        x, x_test, rate = x.flatten(1).float() / 255, x_test.flatten(1).float() / 255, setting.rate
    else:
        from sklearn.datasets import load_digits

        digits, classes = load_digits(return_X_y=True)
        x, y = torch.as_tensor(digits).float() / 16, torch.as_tensor(classes)
        x, x_test, y, y_test, rate = x[:1200], x[1200:], y[:1200], y[1200:], 0.05
    chosen = torch.randperm(len(x), generator=generator)[: setting.images]
    train = keep(x[chosen], (y[chosen] >= 5).long(), rate, generator)
    return train, keep(x_test, (y_test >= 5).long(), rate, generator)


def train(data: TensorDataset, method: str, setting: Setting, seed: int) -> nn.Module:
    """A network trained with one of the methods."""
    torch.manual_seed(seed)
    make, controlled = METHODS[method]
    model = nn.Sequential(nn.Linear(data.tensors[0].shape[1], 64), nn.ReLU(), nn.Linear(64, 1), nn.Flatten(0))
    loss = make(len(data))
    optimizer = torch.optim.Adam([*model.parameters(), *loss.parameters()], lr=setting.lr)
    if controlled:
        sampler = DualSampler(data.tensors[1], setting.batch_size, setting.sampling_rate, seed=seed)
        loader = DataLoader(Indexed(data), batch_sampler=sampler)
    else:
        loader = DataLoader(Indexed(data), setting.batch_size, shuffle=True, drop_last=True)
    step = epoch = 0
    while step < setting.steps:
        gs.set_epoch(loss, epoch)
        for inputs, labels, index in loader:
            optimizer.zero_grad()
            loss(model(inputs), labels, index).backward()
            optimizer.step()
            step += 1
            if step == setting.steps:
                break
        epoch += 1
    return model


def measure(model: nn.Module, data: TensorDataset, setting: Setting) -> list[float]:
    """AUC, average precision and standardised partial AUC on a data set."""
    inputs, labels = data.tensors
    with torch.no_grad():
        scores = model(inputs)
    return [auc(scores, labels), average_precision(scores, labels), partial_auc(scores, labels, setting.max_fpr)]


def run(path: Path, setting: Setting) -> dict[str, np.ndarray]:
    """Method -> the three measures of each seed, `[seeds, 3]`."""
    found: dict[str, list[list[float]]] = {method: [] for method in METHODS}
    for seed in range(setting.seeds):
        data, test = load(path, setting, seed)
        for method in METHODS:
            found[method].append(measure(train(data, method, setting, seed), test, setting))
    return {method: np.array(values) for method, values in found.items()}


def table(found: dict[str, np.ndarray], title: str, setting: Setting) -> Table:
    """Mean and standard deviation over the seeds, in percent."""
    shown = Table(title=title)
    for column in ("loss", "AUC", "AP", f"partial AUC, FPR to {setting.max_fpr:g}"):
        shown.add_column(column, justify="left" if column == "loss" else "right")
    for method, values in found.items():
        cells = [f"{100 * mean:.1f}" for mean in values.mean(axis=0)]
        if len(values) > 1:
            spread = 100 * values.std(axis=0, ddof=1)
            cells = [f"{cell} ± {deviation:.1f}" for cell, deviation in zip(cells, spread, strict=True)]
        shown.add_row(method, *cells)
    return shown


def main() -> None:
    """Run all methods and print the table."""
    parser = argparse.ArgumentParser(description="Losses for AUC, AP and partial AUC where one class is rare.")
    parser.add_argument("--data", type=Path, default=DATA, help="Fashion-MNIST as an npz file")
    parser.add_argument("--seeds", type=int, default=Setting.seeds)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    setting = Setting(seeds=chosen.seeds)
    name = "Fashion-MNIST" if chosen.data.is_file() else "digits"
    Console().print(table(run(chosen.data, setting), f"{name}, test set, percent, seeds: {setting.seeds}", setting))


if __name__ == "__main__":
    main()
