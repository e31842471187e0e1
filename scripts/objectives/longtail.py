"""Fashion-MNIST with a long tail: losses for imbalanced classes by their balanced accuracy.

The most frequent class has 2,000 training images and each next one fewer by the same factor, down to 20: an imbalance of
100. Which class has how many is shuffled by the seed. The validation part (100 images a class) and the test part are
balanced. A network with one hidden layer; each loss has its own parameter as published, and three learning rates to choose
from. `ABSGDLoss` has three temperatures instead, at the middle learning rate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import guidestar as gs

from .optimize import descend, shuffled
from .study import Metric, Study

CLASSES, MOST, IMBALANCE, VALIDATION = 10, 2000, 100, 100
HIDDEN, BATCH, EPOCHS = 128, 64, 12
RATES, RATE = (0.001, 0.003, 0.01), 0.003
TAUS, FIRST_TAU = (0.5, 2.0, 8.0), 100.0
TITLES = {
    "erm": "cross-entropy",
    "focal": "FocalLoss",
    "class_balanced": "ClassBalancedLoss",
    "logit_adjusted": "LogitAdjustedLoss",
    "ldr": "LDRLoss",
    "aldr": "ALDRLoss",
    "absgd_one": "ABSGDLoss, one stage",
    "absgd": "ABSGDLoss, two stages",
}
METRICS = {
    "balanced": Metric("balanced accuracy"),
    "rare": Metric("three rarest classes"),
    "frequent": Metric("three most frequent classes"),
}


@dataclass(frozen=True)
class Part:
    """Images `[n, 784]` and classes `[n]`."""

    x: Tensor
    y: Tensor


@dataclass(frozen=True)
class Task:
    """The three parts, and the classes from the most frequent to the rarest."""

    train: Part
    valid: Part
    test: Part
    order: Tensor

    @property
    def counts(self) -> Tensor:
        """Training images of each class."""
        return torch.bincount(self.train.y, minlength=CLASSES)

    def judge(self, model: nn.Module) -> dict[str, Any]:
        """What a training gives."""
        recall = _recall(model, self.test)[self.order]
        test = {"balanced": recall.mean(), "rare": recall[-3:].mean(), "frequent": recall[:3].mean()}
        return {
            "valid": float(_recall(model, self.valid).mean()),
            "test": {name: float(value) for name, value in test.items()},
        }


@torch.no_grad()
def _recall(model: nn.Module, part: Part) -> Tensor:
    right = (model(part.x).argmax(1) == part.y).double()
    return torch.stack([right[part.y == label].mean() for label in range(CLASSES)])


def load(data: Path, seed: int) -> Task:
    """The set; the seed draws the images and the order of the classes."""
    with np.load(data / "fashion_mnist" / "fashion_mnist.npz") as z:
        x, y, test_x, test_y = (z[key] for key in ("x_train", "y_train", "x_test", "y_test"))
    generator = np.random.default_rng(seed)
    order = generator.permutation(CLASSES)
    train, valid = [], []
    for place, label in enumerate(order):
        rows = generator.permutation(np.flatnonzero(y == label))
        count = round(MOST * IMBALANCE ** (-place / (CLASSES - 1)))
        train.append(rows[:count])
        valid.append(rows[-VALIDATION:])
    first, second = (
        Part(_pixels(x[rows]), _classes(y[rows])) for rows in (np.concatenate(train), np.concatenate(valid))
    )
    return Task(first, second, Part(_pixels(test_x), _classes(test_y)), torch.from_numpy(order))


def _pixels(images: np.ndarray) -> Tensor:
    return torch.from_numpy(images.reshape(len(images), -1)).float() / 127.5 - 1.0


def _classes(labels: np.ndarray) -> Tensor:
    return torch.from_numpy(labels.astype(np.int64))


@dataclass(frozen=True)
class Trained:
    """A network trained with a loss of `guidestar.losses`.

    Args:
        make_loss: from the task and the setting.
        settings: learning rates, or temperatures if there is a `rate`.
        rate: the learning rate where the setting is something else.
    """

    make_loss: Callable[[Task, float], nn.Module]
    settings: Sequence[float] = RATES
    rate: float | None = None

    def fit(self, task: Task, setting: float, seed: int, epochs: int = EPOCHS) -> dict[str, Any]:
        """Train a new network."""
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(task.train.x.shape[1], HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES))
        loss = self.make_loss(task, setting)
        batches, per_epoch = shuffled(len(task.train.y), BATCH, seed), len(task.train.y) // BATCH
        optimizer = torch.optim.AdamW(model.parameters(), lr=self.rate or setting, weight_decay=1e-2)

        def objective(step: int) -> Tensor:
            if step % per_epoch == 0 and isinstance(loss, gs.losses.ABSGDLoss):
                loss.set_epoch(step // per_epoch)
            rows = next(batches)
            return loss(model(task.train.x[rows]), task.train.y[rows], rows)

        for _ in descend(optimizer, epochs * per_epoch, objective):
            pass
        return task.judge(model)


class CrossEntropy(nn.Module):
    """The plain cross-entropy."""

    def forward(self, logits: Tensor, labels: Tensor, index: Tensor) -> Tensor:
        """The mean."""
        return nn.functional.cross_entropy(logits, labels)


STUDY = Study(
    "longtail",
    load,
    {
        "erm": Trained(lambda task, lr: CrossEntropy()),
        "focal": Trained(lambda task, lr: gs.losses.FocalLoss()),
        "class_balanced": Trained(lambda task, lr: gs.losses.ClassBalancedLoss(task.counts)),
        "logit_adjusted": Trained(lambda task, lr: gs.losses.LogitAdjustedLoss(task.counts)),
        "ldr": Trained(lambda task, lr: gs.losses.LDRLoss()),
        "aldr": Trained(lambda task, lr: gs.losses.ALDRLoss(len(task.train.y))),
        "absgd_one": Trained(lambda task, tau: gs.losses.ABSGDLoss(tau), TAUS, RATE),
        "absgd": Trained(
            lambda task, tau: gs.losses.ABSGDLoss(tau, first_tau=FIRST_TAU, first_epochs=EPOCHS // 2), TAUS, RATE
        ),
    },
    lambda task: {"train": len(task.train.y), "rarest": int(task.counts.min())},
)
