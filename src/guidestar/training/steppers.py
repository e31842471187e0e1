"""What the loop asks of a kind of training: how its batches become gradients, and how it is evaluated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from guidestar.losses.base import Loss
from guidestar.training.failure import TrainingFailed
from guidestar.training.snapshot import Counters, Part


@dataclass(frozen=True)
class Course:
    """Where a training stands, as its stepper sees it.

    Attributes:
        engine: the engine.
        model, bare: the model as the engine runs it, and without what the engine put around it.
        count: what has been counted; steppers add to its samples.
        total, steps_per_epoch: numbers of optimizer steps.
    """

    engine: Accelerator
    model: nn.Module
    bare: nn.Module
    count: Counters
    total: int
    steps_per_epoch: int

    @property
    def last_epoch(self) -> bool:
        """Whether the next step belongs to the last epoch."""
        return self.count.step >= self.total - self.steps_per_epoch


class Stepper(Protocol):
    """One kind of training, for one job.

    Attributes:
        objective: what is minimised; its parameters, if any, are optimized too.
        layout: the memory format of the model's weights.
    """

    @property
    def objective(self) -> Loss: ...
    @property
    def layout(self) -> torch.memory_format: ...

    def groups(self, model: nn.Module) -> list[Any]:
        """What the optimizer gets: parameters, or groups of them with settings of their own."""
        ...

    def begin(self, course: Course) -> None:
        """The engine has prepared the model."""
        ...

    def parts(self) -> Mapping[str, Part]:
        """What has a state beside model, optimizer, schedule and objective."""
        ...

    def batches(self, start: int, stop: int) -> Iterable[Any]:
        """The drawn batches `start` up to `stop`, counted over all epochs."""
        ...

    def backward(self, batch: Any, number: int, *, last: bool, of: int) -> tuple[Tensor, Any]:
        """Add the gradient of a batch's loss, divided by `of`, to the parameters'.

        Args:
            batch: one of `batches`.
            number: its number.
            last: whether it is the last before the optimizer's step, when processes exchange their gradients.
            of: how many batches make up the optimizer's step.

        Returns:
            The loss, detached, and what `failure` needs to name the samples.
        """
        ...

    def failure(self, step: int, loss: Tensor, seen: list[Any]) -> TrainingFailed:
        """What to say when the loss of step `step` is not finite; every process must ask."""
        ...

    def stepped(self) -> None:
        """The optimizer has made its step."""
        ...

    def check(self) -> None:
        """A checkpoint is about to be written.

        Raises:
            TrainingFailed: it would be of no use.
        """
        ...

    def evaluate(self, *, last: bool) -> dict[str, float]:
        """The metrics of the model on the test data; `last`: after the last step.

        Raises:
            UserError: the model gives what cannot be measured.
        """
        ...

    def result(self) -> nn.Module:
        """The model that is evaluated and saved."""
        ...
