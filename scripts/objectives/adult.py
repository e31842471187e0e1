"""UCI Adult: few groups, income times sex; the metric is the accuracy of the worst group.

Women with a high income are the smallest group (about 4 % of the training part). A network with one hidden layer; the
learning rate is chosen by the worst group's accuracy on a fifth of the training rows.
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from guidestar.evaluation.groups import worst_group

from .groups import Inner, methods
from .study import Metric, Study

NUMBERS = ("age", "education_num", "capital_gain", "capital_loss", "hours_per_week")
WORDS = ("workclass", "marital_status", "occupation", "relationship", "race", "sex")
GROUPS = ("low income, female", "low income, male", "high income, female", "high income, male")
VALIDATION = 0.2
SAMPLES, STEPS, EVERY, HIDDEN = 64, 400, 50, 32
#: Not tuned.
INNER = Inner(online=0.05, primal_dual=0.05, nu=0.05, alexr=1.0)
METRICS = {
    "worst": Metric("worst group's accuracy"),
    "balanced": Metric("mean over the groups"),
    "accuracy": Metric("accuracy"),
    "worst_loss": Metric("worst group's loss", higher=False, percent=False),
}


@dataclass(frozen=True)
class Part:
    """Rows `x` `[n, d]`, labels `y`, 1 for a high income, and group numbers."""

    x: Tensor
    y: Tensor
    group: Tensor

    @torch.no_grad()
    def metrics(self, model: nn.Module) -> dict[str, float]:
        """The metrics of the tables."""
        scores = model(self.x).squeeze(1)
        right = (scores > 0) == (self.y > 0)
        losses = functional.binary_cross_entropy_with_logits(scores, self.y, reduction="none")
        worst = worst_group(right, self.group, len(GROUPS))
        return {
            "worst": worst["value"],
            "balanced": worst["average"],
            "accuracy": float(right.float().mean()),
            "worst_loss": worst_group(losses, self.group, len(GROUPS), higher_is_better=False)["value"],
        }


@dataclass(frozen=True)
class Task:
    """The three parts, and the sizes of a step."""

    train: Part
    valid: Part
    test: Part
    alpha: float = 1.0 / len(GROUPS)
    num_groups: int = len(GROUPS)
    groups_per_batch: int = len(GROUPS)
    samples_per_group: int = SAMPLES
    l2: float = 0.0
    steps: int = STEPS
    every: int = EVERY

    @property
    def group(self) -> Tensor:
        """The group of each training row."""
        return self.train.group

    def network(self) -> nn.Module:
        """One hidden layer."""
        return nn.Sequential(nn.Linear(self.train.x.shape[1], HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1))

    def losses(self, predict: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
        """The losses of some training rows."""
        scores = predict(self.train.x[rows]).squeeze(1)
        return functional.binary_cross_entropy_with_logits(scores, self.train.y[rows], reduction="none")

    def look(self, model: nn.Module) -> float:
        """The worst group's accuracy on the validation part."""
        return self.valid.metrics(model)["worst"]

    def judge(self, model: nn.Module) -> dict[str, Any]:
        """What a training gives."""
        return {"valid": self.look(model), "test": self.test.metrics(model)}


def load(data: Path, seed: int) -> Task:
    """The set; its own test part, and a validation part that the seed draws."""
    with gzip.open(data / "fairness" / "adult.csv.gz", "rt", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    is_train = np.array([row["split"] == "train" for row in rows])
    numbers = np.array([[float(row[name]) for name in NUMBERS] for row in rows])
    numbers[:, 2:4] = np.log1p(numbers[:, 2:4])  # capital gains and losses, mostly 0
    numbers = (numbers - numbers[is_train].mean(0)) / numbers[is_train].std(0)
    columns = [numbers]
    for name in WORDS:
        values = np.array([row[name] for row in rows])
        columns.append(values[:, None] == np.unique(values[is_train])[None])
    x = torch.from_numpy(np.concatenate(columns, axis=1).astype(np.float32))
    y = torch.tensor([row["income"] == ">50K" for row in rows])
    group = 2 * y.long() + torch.tensor([row["sex"] == "Male" for row in rows]).long()
    order = np.random.default_rng(seed).permutation(np.flatnonzero(is_train))
    held_out = round(VALIDATION * len(order))
    parts = (order[held_out:], order[:held_out], np.flatnonzero(~is_train))
    train, valid, test = (Part(x[part], y[part].float(), group[part]) for part in map(torch.from_numpy, parts))
    return Task(train, valid, test)


def _facts(task: Task) -> dict[str, float]:
    return {"train": len(task.group), "rarest": int(torch.bincount(task.group).min())}


STUDY = Study("adult", load, methods(INNER), _facts)
