"""Omniglot, 1,623 characters: cross-entropy from the classes of the batch alone, the shape of Figure 6.7 of the book.

Of the 20 drawers the seed takes 14 for training, 3 for validation and 3 for testing. The features are fixed: histograms of
the directions of the strokes on a grid (HOG), reduced by a principal component analysis to 128 numbers of norm 1 (times
`SCALE`); only the linear classifier is trained, by SGD without momentum, as in the book. The methods see the same batches;
all but the full softmax touch only the weights of the classes in the batch (`ClassWeights`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

import guidestar as gs
from guidestar.networks import ClassWeights

from .optimize import shuffled
from .study import Metric, Study

DRAWERS = (14, 3, 3)
DIRECTIONS, GRID, FEATURES, SCALE = 8, 7, 128, 4.0
BATCH, EPOCHS = 128, 12
#: Training images on which the full cross-entropy is looked at.
LOOKED_AT = 2000
RATES = (5.0, 10.0, 20.0, 40.0)
#: Of the step sizes of nu: the best on validation images of seed 0 at the rate 10 from 10, 100, 1000; 0.2, 0.5, 0.9; and
#: 0.1, 0.5, 1.
SCENT_ALPHA, SOX_GAMMA, ASGD_LR = 1000.0, 0.9, 1.0
TITLES = {
    "full": "full softmax",
    "scent": "SCENT",
    "sox": "SOX",
    "asgd": "ASGD",
    "bsgd": "BSGD",
}
METRICS = {
    "accuracy": Metric("test accuracy"),
    "top5": Metric("test top-5 accuracy"),
    "cross_entropy": Metric("full test cross-entropy", higher=False, percent=False),
}


@dataclass(frozen=True)
class Part:
    """Features `[n, d]` and classes `[n]`."""

    x: Tensor
    y: Tensor


@dataclass(frozen=True)
class Task:
    """The three parts."""

    train: Part
    valid: Part
    test: Part
    classes: int

    def look(self, weights: ClassWeights) -> dict[str, float]:
        """The points of the curves."""
        part = slice(LOOKED_AT)
        loss = weights.cross_entropy(self.train.x[part], self.train.y[part]).mean()
        return {"values": float(loss), "accuracy": _accuracy(weights, self.valid, 1)}

    def judge(self, weights: ClassWeights) -> dict[str, Any]:
        """What a training gives."""
        test = {
            "accuracy": _accuracy(weights, self.test, 1),
            "top5": _accuracy(weights, self.test, 5),
            "cross_entropy": float(weights.cross_entropy(self.test.x, self.test.y).mean()),
        }
        loss = float(weights.cross_entropy(self.valid.x, self.valid.y).mean())
        return {"valid": _accuracy(weights, self.valid, 1), "loss": -loss, "test": test}


def _accuracy(weights: ClassWeights, part: Part, k: int) -> float:
    _, classes = weights.top(part.x, k)
    return float((classes == part.y.unsqueeze(1)).any(1).float().mean())


def load(data: Path, seed: int) -> Task:
    """The set; the seed shuffles the drawers and the training images."""
    with np.load(data / "omniglot" / "omniglot_28.npz") as z:
        images = np.unpackbits(z["bits"], axis=1)[:, :784].reshape(-1, 28, 28)
        y, drawer = torch.from_numpy(z["label"].astype(np.int64)), z["drawer"]
    generator = np.random.default_rng(seed)
    place = np.argsort(generator.permutation(sum(DRAWERS)))[drawer]
    part = np.digitize(place, np.cumsum(DRAWERS)[:-1])
    features = directions(torch.from_numpy(images).float())
    rows = [torch.from_numpy(generator.permutation(np.flatnonzero(part == number))) for number in range(3)]
    mean = features[rows[0]].mean(0)
    centred = features - mean
    _, vectors = torch.linalg.eigh(centred[rows[0]].T @ centred[rows[0]])
    x = SCALE * functional.normalize(centred @ vectors[:, -FEATURES:], dim=1)
    return Task(*(Part(x[which], y[which]) for which in rows), classes=int(y.max()) + 1)


def directions(images: Tensor) -> Tensor:
    """Histograms `[n, d]` of the directions of the gradient of blurred images `[n, 28, 28]`; square roots, norm 1.

    Example:
        >>> directions(torch.eye(28)[None]).shape
        torch.Size([1, 392])
    """
    found = []
    for chunk in images.unsqueeze(1).split(4096):
        blurred = functional.avg_pool2d(functional.pad(chunk, (2, 2, 2, 2)), 3, stride=1)
        across = blurred[..., 1:-1, 2:] - blurred[..., 1:-1, :-2]
        down = blurred[..., 2:, 1:-1] - blurred[..., :-2, 1:-1]
        angles = torch.arange(DIRECTIONS) * (2 * math.pi / DIRECTIONS)
        turned = across * angles.cos().view(-1, 1, 1) + down * angles.sin().view(-1, 1, 1)
        # Only what points within 45 degrees of a direction counts for it.
        strength = torch.relu(turned - (across.square() + down.square()).sqrt() * math.cos(math.pi / 4))
        found.append(functional.adaptive_avg_pool2d(strength, GRID).flatten(1))
    return functional.normalize(torch.cat(found).sqrt(), dim=1)


@dataclass(frozen=True)
class Trained:
    """A linear classifier.

    Args:
        make_loss: from the number of training samples; None is the softmax over all classes.
        settings: learning rates.
    """

    make_loss: Callable[[int], gs.losses.ExtremeClassificationLoss] | None
    settings: Sequence[float] = RATES

    def fit(self, task: Task, setting: float, seed: int, epochs: int = EPOCHS) -> dict[str, Any]:
        """Train a new classifier; the curve has a point an epoch."""
        torch.manual_seed(seed)
        weights = ClassWeights(task.classes, task.train.x.shape[1], lr=setting)
        loss = None if self.make_loss is None else self.make_loss(len(task.train.y))
        batches, per_epoch = shuffled(len(task.train.y), BATCH, seed), len(task.train.y) // BATCH
        curve = {"steps": [0], **{key: [value] for key, value in task.look(weights).items()}}
        for step in range(epochs * per_epoch):
            weights.lr = setting * (1 + math.cos(math.pi * step / (epochs * per_epoch))) / 2
            rows = next(batches)
            x, y = task.train.x[rows], task.train.y[rows]
            if loss is None:
                leaf, _ = weights.rows(torch.arange(task.classes))
                value = functional.cross_entropy(x @ leaf.T, y)
            else:
                logits, columns = weights(x, y)
                value = loss(logits, columns, rows)
            value.backward()
            weights.step()
            if (step + 1) % per_epoch == 0:
                curve["steps"].append((step + 1) // per_epoch)
                for key, found in task.look(weights).items():
                    curve[key].append(found)
        return {**task.judge(weights), "curve": curve}


def _loss(**options: Any) -> Callable[[int], gs.losses.ExtremeClassificationLoss]:
    return lambda rows: gs.losses.ExtremeClassificationLoss(rows, **options)


STUDY = Study(
    "omniglot",
    load,
    {
        "full": Trained(None),
        "scent": Trained(_loss(gamma=gs.schedules.Scent(SCENT_ALPHA))),
        "sox": Trained(_loss(gamma=SOX_GAMMA)),
        "asgd": Trained(_loss(dual_lr=ASGD_LR)),
        "bsgd": Trained(_loss(gamma=1.0)),
    },
    lambda task: {"classes": task.classes, "train": len(task.train.y)},
    criteria=("valid", "loss"),
)
