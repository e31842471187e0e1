"""A binary task: three parts of the data, a network, and how many steps it is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from guidestar.networks.compositional import CompositionalStep

from .metrics import ranking_metrics

EVALUATION_BATCH = 1024


@dataclass(frozen=True)
class Part:
    """Samples `x` `[n, ...]` and labels `y` `[n]`, 0 or 1."""

    x: Tensor
    y: Tensor

    @cached_property
    def flat(self) -> np.ndarray:
        """The samples as a matrix, for learners that are no networks."""
        return self.x.flatten(1).numpy()

    @cached_property
    def labels(self) -> np.ndarray:
        """The labels as an array."""
        return self.y.numpy()


@dataclass(frozen=True)
class BinaryTask:
    """What a method is trained on and judged by.

    Args:
        name: of the files.
        title: for people.
        train, valid, test: the parts.
        network: makes an untrained network with one logit.
        steps: optimizer steps of a training.
        batch_size: samples a step.
    """

    name: str
    title: str
    train: Part
    valid: Part
    test: Part
    network: Callable[[], nn.Module]
    steps: int
    batch_size: int

    @property
    def rows(self) -> int:
        """Training samples."""
        return len(self.train.y)

    @property
    def positive_rate(self) -> float:
        """Share of positives of the training samples."""
        return float(self.train.y.float().mean())

    @property
    def positives(self) -> int:
        """Positive training samples."""
        return int(self.train.y.sum())

    def arguments(self, model: nn.Module, rows: Tensor) -> tuple[Tensor, ...]:
        """What a loss is called with for these training rows: scores, labels, rows."""
        x, y = self.train.x[rows], self.train.y[rows]
        scores = model(x, y) if isinstance(model, CompositionalStep) else model(x)
        return scores.squeeze(1), y, rows

    def facts(self) -> dict[str, Any]:
        """What the page says about the task."""
        return {
            "title": self.title,
            "train": self.rows,
            "positives": self.positives,
            "valid": len(self.valid.y),
            "test": len(self.test.y),
            "test_positives": int(self.test.y.sum()),
            "steps": self.steps,
            "batch_size": self.batch_size,
        }

    def judge(self, scorer: Callable[[Part], np.ndarray]) -> dict[str, dict[str, float]]:
        """The metrics on the validation and on the test part."""
        parts = {"valid": self.valid, "test": self.test}
        return {name: ranking_metrics(scorer(part), part.labels) for name, part in parts.items()}


def network_scorer(model: nn.Module) -> Callable[[Part], np.ndarray]:
    """The scores of a trained network, without gradients and in evaluation mode."""

    @torch.no_grad()
    def scores(part: Part) -> np.ndarray:
        model.eval()
        found = torch.cat([model(batch).squeeze(1) for batch in part.x.split(EVALUATION_BATCH)])
        return found.double().numpy()

    return scores
