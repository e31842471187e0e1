"""One strategy on one seed: what it needs, and the objective and optimizer that the recipe asks for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from guidestar.losses.distillation import DistillationLoss
from guidestar.risks.mean import Mean
from guidestar.steering.objective import StrategyObjective
from guidestar.training.recipe import Recipe
from guidestar.training.recipe_errors import AnyRecipe
from guidestar.training.recipe_io import LoadedRecipe
from guidestar.training.recipe_sections import TrainingSettings


@dataclass(frozen=True)
class Job:
    """Everything that one training needs.

    Attributes:
        loaded: the recipe.
        strategy, seed: which of its trainings this is.
        data: the data of the seed; its `train` and `test` have a length.
        model: the target, with its initial weights.
        reference: what is asked about the samples, as the kind of training wants it, or None.
        scored: reference passes that were made beforehand for the store.
        folder: where the results go.
        accelerator: the engine.
    """

    loaded: LoadedRecipe
    strategy: str
    seed: int
    data: Any
    model: nn.Module
    reference: Any
    scored: int
    folder: Path
    accelerator: Accelerator

    @property
    def recipe(self) -> AnyRecipe:
        """The recipe itself."""
        return self.loaded.recipe

    @property
    def checkpoints(self) -> Path:
        """The folder of its checkpoints."""
        return self.folder / "checkpoints"

    @property
    def title(self) -> str:
        """What a tracker files its metrics under: seed-0/steer, or reference/seed-0."""
        return f"{self.folder.parent.name}/{self.folder.name}"


def build_objective(recipe: Recipe, strategy: str) -> StrategyObjective:
    """The objective of a strategy, new."""
    distillation = DistillationLoss(recipe.distill.temperature) if "distill" in strategy else None
    steered = strategy in ("steer", "steer+distill")
    risk = recipe.steer.risk.build() if steered or strategy == "dro" else Mean()
    return StrategyObjective(risk, steered=steered, distillation=distillation, weight=recipe.distill.weight)


def build_optimizer(
    settings: TrainingSettings, groups: list[Any], lr: float, total_steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
    """The optimizer and the schedule of its learning rate by step: a linear warm-up, then a half cosine or constant.

    `groups` are parameters, or groups of them with settings of their own that differ from those of the recipe.
    """
    if settings.optimizer == "sgd":
        optimizer: torch.optim.Optimizer = torch.optim.SGD(
            groups, lr, momentum=settings.momentum, weight_decay=settings.weight_decay
        )
    else:
        kind = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
        optimizer = kind(groups, lr, weight_decay=settings.weight_decay)

    def factor(step: int) -> float:
        if step < settings.warmup_steps:
            return (step + 1) / settings.warmup_steps
        if settings.schedule == "constant":
            return 1.0
        share = (step - settings.warmup_steps) / max(1, total_steps - settings.warmup_steps)
        return 0.5 * (1.0 + math.cos(math.pi * min(1.0, share)))

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
