"""iWildCam features: a linear softmax on a long tail of classes under a shift of the places.

The features are those of the Prospect paper, for the validation and the test part of WILDS' iWildCam. A model is trained on
four fifths of the validation file, which the seed draws; the rest of it chooses the learning rate. The test file comes from
other cameras, with other frequencies and with classes that the first file does not have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

import guidestar as gs
from guidestar.evaluation.groups import per_group
from guidestar.risks import spectra
from guidestar.samplers import GroupSampler

from .optimize import descend, endless, shuffled
from .study import Metric, Study

CLASSES, TRAINING, WORST = 60, 0.8, 0.5
STEPS, CLASSES_A_STEP, SAMPLES = 1000, 16, 8
RATES = (0.003, 0.01, 0.03, 0.1)
#: Not tuned.
GAMMA, SMOOTHING, NU_LR, WEIGHT_LR = 0.5, 0.1, 0.05, 0.02
TITLES = {
    "erm": "ERM",
    "erm_classes": "ERM, classes uniformly",
    "online": "OnlineGroupDROLoss",
    "sonex": "SONEXLoss",
    "spectral": "Spectral(superquantile)",
    "class_balanced": "ClassBalancedLoss",
    "logit_adjusted": "LogitAdjustedLoss",
}
METRICS = {
    "balanced": Metric("balanced accuracy"),
    "accuracy": Metric("accuracy"),
    "loss": Metric("mean loss", higher=False, percent=False),
    "worst_half": Metric("mean of the worst half of the losses", higher=False, percent=False),
}


@dataclass(frozen=True)
class Part:
    """Features `x` `[n, d]`, the last of them 1, and classes `y`."""

    x: Tensor
    y: Tensor

    @torch.no_grad()
    def metrics(self, model: nn.Module) -> dict[str, float]:
        """The metrics of the tables; the balanced accuracy is over the classes that occur here."""
        logits = model(self.x)
        losses = functional.cross_entropy(logits, self.y, reduction="none")
        right = (logits.argmax(1) == self.y).double()
        recall = list(per_group(right, self.y, CLASSES)["mean"].values())
        return {
            "balanced": sum(recall) / len(recall),
            "accuracy": float(right.mean()),
            "loss": float(losses.mean()),
            "worst_half": float(gs.Spectral(spectra.superquantile(WORST))(losses)),
        }


@dataclass(frozen=True)
class Task:
    """The three parts."""

    train: Part
    valid: Part
    test: Part

    @cached_property
    def counts(self) -> Tensor:
        """Training samples of each class."""
        return torch.bincount(self.train.y, minlength=CLASSES)

    @cached_property
    def group(self) -> Tensor:
        """The classes of the training samples, numbered without gaps."""
        return self.train.y.unique(return_inverse=True)[1]

    @property
    def num_groups(self) -> int:
        """Classes in the training part."""
        return int((self.counts > 0).sum())

    def judge(self, model: nn.Module) -> dict[str, Any]:
        """What a training gives."""
        valid = self.valid.metrics(model)
        return {"valid": valid["balanced"], "loss": -valid["worst_half"], "test": self.test.metrics(model)}


def load(data: Path, seed: int) -> Task:
    """The two files; the seed splits the first."""
    with np.load(data / "iwildcam_features" / "iwildcam.npz") as z:
        x, y, test_x, test_y = (z[key] for key in ("x_val", "y_val", "x_test", "y_test"))
    order = np.random.default_rng(seed).permutation(len(y))
    cut = round(TRAINING * len(y))
    return Task(_part(x[order[:cut]], y[order[:cut]]), _part(x[order[cut:]], y[order[cut:]]), _part(test_x, test_y))


def _part(x: np.ndarray, y: np.ndarray) -> Part:
    columns = np.concatenate([x, np.ones((len(x), 1))], axis=1).astype(np.float32)
    return Part(torch.from_numpy(columns), torch.from_numpy(y.astype(np.int64)))


class OverLosses(nn.Module):
    """A loss over the per-sample cross-entropies: of groups if `by_class`, else a risk of the batch."""

    def __init__(self, loss: nn.Module, by_class: bool) -> None:
        super().__init__()
        self.loss, self.by_class = loss, by_class

    def forward(self, logits: Tensor, labels: Tensor, group: Tensor) -> Tensor:
        """The objective."""
        losses = functional.cross_entropy(logits, labels, reduction="none")
        return self.loss(losses, group) if self.by_class else self.loss(losses)


class OverLogits(nn.Module):
    """A constant times a loss over logits and labels."""

    def __init__(self, loss: nn.Module, scale: float = 1.0) -> None:
        super().__init__()
        self.loss, self.scale = loss, scale

    def forward(self, logits: Tensor, labels: Tensor, group: Tensor) -> Tensor:
        """The objective."""
        return self.scale * self.loss(logits, labels)


@dataclass(frozen=True)
class Trained:
    """A linear softmax trained with an objective of logits, labels and groups.

    Args:
        make_loss: from the task.
        by_class: `GroupSampler`, and not shuffled samples.
        settings: learning rates.
    """

    make_loss: Callable[[Task], nn.Module]
    by_class: bool = False
    settings: Sequence[float] = RATES

    def fit(self, task: Task, setting: float, seed: int, steps: int = STEPS) -> dict[str, Any]:
        """Start from zero; the squared norm of the weights is divided by twice the number of samples."""
        model = nn.Linear(task.train.x.shape[1], CLASSES, bias=False)
        nn.init.zeros_(model.weight)
        loss, batches = self.make_loss(task), self._batches(task, seed)
        optimizer = torch.optim.Adam(model.parameters(), lr=setting)

        def objective(step: int) -> Tensor:
            rows = next(batches)
            value = loss(model(task.train.x[rows]), task.train.y[rows], task.group[rows])
            return value + model.weight.square().sum() / (2 * len(task.train.y))

        for _ in descend(optimizer, steps, objective):
            pass
        return task.judge(model)

    def _batches(self, task: Task, seed: int) -> Iterator[Tensor]:
        if self.by_class:
            classes = min(CLASSES_A_STEP, task.num_groups)
            return endless(GroupSampler(task.group, classes, SAMPLES, seed=seed))
        return shuffled(len(task.train.y), CLASSES_A_STEP * SAMPLES, seed)


class Scaled(nn.Module):
    """A constant times a loss over groups."""

    def __init__(self, loss: nn.Module, scale: float) -> None:
        super().__init__()
        self.loss, self.scale = loss, scale

    def forward(self, losses: Tensor, group: Tensor) -> Tensor:
        """The product."""
        return self.scale * self.loss(losses, group)


def _online(task: Task) -> nn.Module:
    """Its sum over the classes of a batch is brought to that over all classes."""
    loss = gs.losses.OnlineGroupDROLoss(task.num_groups, lr=WEIGHT_LR)
    return OverLosses(Scaled(loss, task.num_groups / min(CLASSES_A_STEP, task.num_groups)), True)


def _sonex(task: Task) -> nn.Module:
    """The worst half of the classes; the loss is alpha times CVaR."""
    loss = gs.losses.SONEXLoss(task.num_groups, WORST, gamma=GAMMA, lr=NU_LR, smoothing=SMOOTHING)
    return OverLosses(Scaled(loss, 1.0 / WORST), True)


def _class_balanced(task: Task) -> nn.Module:
    """Brought to a mean weight of 1 over the training samples, so that the regulariser means the same as elsewhere."""
    loss = gs.losses.ClassBalancedLoss(task.counts.clamp(min=1))
    return OverLogits(loss, 1.0 / float(loss.class_weights[task.train.y].mean()))


def _facts(task: Task) -> dict[str, float]:
    unseen = task.counts[task.test.y] == 0
    return {
        "train": len(task.train.y),
        "valid": len(task.valid.y),
        "test": len(task.test.y),
        "features": task.train.x.shape[1] - 1,
        "classes": task.num_groups,
        "rarest": int(task.counts[task.counts > 0].min()),
        "largest": int(task.counts.max()),
        "test_classes": len(task.test.y.unique()),
        "unseen_classes": len(task.test.y[unseen].unique()),
        "unseen": int(unseen.sum()),
    }


STUDY = Study(
    "iwildcam",
    load,
    {
        "erm": Trained(lambda task: OverLogits(nn.CrossEntropyLoss())),
        "erm_classes": Trained(lambda task: OverLogits(nn.CrossEntropyLoss()), by_class=True),
        "online": Trained(_online, by_class=True),
        "sonex": Trained(_sonex, by_class=True),
        "spectral": Trained(lambda task: OverLosses(gs.Spectral(spectra.superquantile(WORST)), False)),
        "class_balanced": Trained(_class_balanced),
        "logit_adjusted": Trained(lambda task: OverLogits(gs.losses.LogitAdjustedLoss(task.counts.clamp(min=1)))),
    },
    _facts,
    criteria=("valid", "loss"),
)
