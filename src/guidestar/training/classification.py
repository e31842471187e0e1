"""Classification, step by step: batches, the reference's part, selection, and the weights that samples got."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from guidestar import distributed
from guidestar.data.augment import flip_crop
from guidestar.errors import UserError
from guidestar.evaluation.metrics import evaluate
from guidestar.losses.drrho_cross_entropy import sample_cross_entropy
from guidestar.risks.excess import excess
from guidestar.steering.objective import candidates, select_top
from guidestar.training.batches import BatchPlan, batch_loader, evaluation_batches
from guidestar.training.failure import MiniBatch, TrainingFailed, loss_failure
from guidestar.training.job import Job, build_objective
from guidestar.training.recipe_io import classification
from guidestar.training.snapshot import Part
from guidestar.training.steppers import Course
from guidestar.training.weight_log import WeightLog

Batch = tuple[Tensor, Tensor, Tensor]
#: Strategies that weigh the samples of a batch by a risk.
WEIGHED = ("dro", "steer", "steer+distill")


class ClassificationStepper:
    """The steps of a classification.

    Args:
        job: what to train.

    Raises:
        UserError: the batch size does not fit.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.recipe = classification(job.recipe)
        self.settings = self.recipe.training
        size, world = len(job.data.train), distributed.world_size()
        drawn = self.settings.batch_size
        if job.strategy == "select":
            drawn = candidates(drawn, self.recipe.select.fraction, size)
            drawn -= drawn % world
        self.plan = BatchPlan(size, drawn, job.seed, rank=distributed.rank(), world=world)
        # Convolutions are up to twice as fast on images that keep their channels last.
        self.layout = torch.channels_last if job.data.train.kind == "image" else torch.preserve_format
        self.objective = build_objective(self.recipe, job.strategy)
        self.weights = WeightLog(size)
        self.course: Course

    def groups(self, model: nn.Module) -> list[Any]:
        """Every parameter that is trained."""
        return [parameter for parameter in model.parameters() if parameter.requires_grad]

    def begin(self, course: Course) -> None:
        """The engine has prepared the model."""
        self.course = course

    def parts(self) -> Mapping[str, Part]:
        """The weights that samples got, where they get any."""
        return {"weights": self.weights} if self.job.strategy in (*WEIGHED, "select") else {}

    def batches(self, start: int, stop: int) -> Iterable[Batch]:
        """The drawn batches `start` up to `stop`."""
        pin = self.course.engine.device.type == "cuda"
        workers = self.recipe.data.workers
        return batch_loader(self.job.data.train, lambda: self.plan.between(start, stop), workers=workers, pin=pin)

    def backward(self, batch: Batch, number: int, *, last: bool, of: int) -> tuple[Tensor, MiniBatch]:
        """Add the gradient of a batch's loss."""
        engine = self.course.engine
        with nullcontext() if last else engine.no_sync(self.course.model):
            loss, mini_batch = self._loss(batch, number)
            engine.backward(loss / of)
        return loss.detach(), mini_batch

    def failure(self, step: int, loss: Tensor, seen: list[MiniBatch]) -> TrainingFailed:
        """Names the samples whose loss is not finite."""
        return loss_failure(self.job, step, loss, seen)

    def stepped(self) -> None:
        """Nothing is to be done after a step."""

    def check(self) -> None:
        """Nothing but the weights can be of no use."""

    def evaluate(self, *, last: bool) -> dict[str, float]:
        """Accuracy and the like on the test data."""
        return evaluate(self.course.bare, evaluation_batches(self.job.data.test), self.course.engine.device)

    def result(self) -> nn.Module:
        """The model itself."""
        return self.course.bare

    def _loss(self, batch: Batch, number: int) -> tuple[Tensor, MiniBatch]:
        inputs, labels, rows = batch
        if self.recipe.data.augment == "flip_crop":
            # Seeded by position, not by a generator that would have to be saved.
            seed = np.random.SeedSequence((self.job.seed, number, distributed.rank())).generate_state(1)[0]
            inputs = flip_crop(inputs, torch.Generator().manual_seed(int(seed)))
        device = self.course.engine.device
        inputs = inputs.to(device, non_blocking=True, memory_format=self.layout)
        losses, logits = self._ask_reference(rows, inputs, labels)
        labels = labels.to(device, non_blocking=True)
        if self.job.strategy == "select":
            inputs, labels, rows = self._select(inputs, labels, rows, losses)
        self.course.count.forward_samples += len(rows) * distributed.world_size()
        outputs = self.course.model(inputs)
        if self.job.strategy in WEIGHED and self.course.last_epoch:
            self.weights.add(rows, *self.objective.weights(outputs, labels, losses))
        loss = self.objective(outputs, labels, reference_losses=losses, teacher_logits=logits)
        return loss, (rows, labels, outputs.detach())

    def _ask_reference(self, rows: Tensor, inputs: Tensor, labels: Tensor) -> tuple[Tensor | None, Tensor | None]:
        reference, device = self.job.reference, self.course.engine.device
        need_losses = self.objective.needs_losses or self.job.strategy == "select"
        if reference is None or not (need_losses or self.objective.needs_logits):
            return None, None
        before = reference.forward_samples
        losses = logits = None
        if need_losses and self.objective.needs_logits:
            losses, logits = reference.losses_and_logits(rows, inputs, labels)
        elif need_losses:
            losses = reference.losses(rows, inputs, labels)
        else:
            logits = reference.logits(rows, inputs)
        self.course.count.reference_samples += (reference.forward_samples - before) * distributed.world_size()
        losses, logits = (None if v is None else v.to(device, non_blocking=True) for v in (losses, logits))
        return losses, logits

    def _select(
        self, inputs: Tensor, labels: Tensor, rows: Tensor, reference_losses: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        if reference_losses is None:
            raise UserError("`strategies` has select, which needs the reference's losses. Found none.")
        model = self.course.bare
        # Evaluation mode: selecting must not move the running statistics of normalisation layers.
        model.eval()
        with torch.no_grad():
            rho = excess(sample_cross_entropy(model(inputs), labels), reference_losses)
        model.train()
        self.course.count.forward_samples += len(rows) * distributed.world_size()
        keep = self.settings.batch_size // distributed.world_size()
        chosen = select_top(rho, keep)
        if self.course.last_epoch:
            weights = torch.zeros_like(rho).index_fill_(0, chosen, len(rho) / keep)
            self.weights.add(rows, weights, rho)
        return inputs[chosen], labels[chosen], rows[chosen.cpu()]
