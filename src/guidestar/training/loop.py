"""The training loop: one strategy on one seed, on `accelerate`, resumable at any step."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from guidestar import distributed
from guidestar.data.augment import flip_crop
from guidestar.errors import UserError
from guidestar.evaluation.metrics import evaluate
from guidestar.losses.drrho_cross_entropy import sample_cross_entropy
from guidestar.risks.excess import excess
from guidestar.steering.objective import candidates, select_top
from guidestar.training.batches import BatchPlan
from guidestar.training.display import Progress
from guidestar.training.failure import MiniBatch, check_weights, evaluation_failure, loss_failure
from guidestar.training.interrupt import Interrupted, StopRequest
from guidestar.training.job import Job, build_objective, build_optimizer
from guidestar.training.journal import Journal
from guidestar.training.snapshot import Counters, Part, Snapshots
from guidestar.training.weight_log import WeightLog

Batch = tuple[Tensor, Tensor, Tensor]
EVALUATION_BATCH = 512
#: Strategies that weigh the samples of a batch by a risk.
WEIGHED = ("dro", "steer", "steer+distill")


def _as_is(batch: Any) -> Any:
    return batch


class Training:
    """A training from its first (or last saved) step to its last.

    Args:
        job: what to train.
        resume: continue from the newest checkpoint in the job's folder, if there is one.

    Raises:
        UserError: the checkpoint belongs to another recipe, strategy, seed or number of processes; the batch size or
            the warm-up does not fit.
    """

    def __init__(self, job: Job, *, resume: bool) -> None:
        settings, size = job.recipe.training, len(job.data.train)
        self.job = job
        self.settings = settings
        self.engine = job.accelerator
        world = distributed.world_size()
        drawn = settings.batch_size
        if job.strategy == "select":
            drawn = candidates(settings.batch_size, job.recipe.select.fraction, size)
            drawn -= drawn % world
        self.plan = BatchPlan(size, drawn, job.seed, rank=distributed.rank(), world=world)
        self.steps_per_epoch = max(1, size // settings.batch_size // settings.accumulate)
        self.total = settings.steps or settings.epochs * self.steps_per_epoch
        if settings.warmup_steps >= self.total:
            raise UserError(
                f"`training.warmup_steps` must be less than the number of steps, which is {self.total}; found "
                f"{settings.warmup_steps}."
            )
        lr = settings.lr * (job.recipe.finetune.lr_factor if job.strategy == "finetune" else 1.0)
        optimizer, self.scheduler = build_optimizer(settings, job.model, lr, self.total)
        # Convolutions are up to twice as fast on images that keep their channels last.
        self.layout = torch.channels_last if job.data.train.kind == "image" else torch.preserve_format
        model = job.model.to(memory_format=self.layout)  # pyright: ignore[reportCallIssue]  # torch's stubs lack it
        self.model, self.optimizer = self.engine.prepare(model, optimizer)
        self.bare = self.engine.unwrap_model(self.model)
        self.objective = build_objective(job.recipe, job.strategy).to(self.engine.device)
        self.weights = WeightLog(size)
        self.count = Counters()
        self.signal = 0
        torch.manual_seed(job.seed + distributed.rank())
        parts: dict[str, Part] = {
            "model": self.bare,
            "optimizer": self.optimizer,
            "scheduler": self.scheduler,
            "objective": self.objective,
        }
        if job.strategy in (*WEIGHED, "select"):
            parts["weights"] = self.weights
        self.snapshots = Snapshots(job, parts, self.count)
        if resume:
            self.snapshots.resume()

    def run(self, request: StopRequest, progress: Progress) -> dict[str, Any]:
        """Train to the end and return the result; everything else is in the job's folder.

        Raises:
            TrainingFailed: the loss or a weight is not finite; the last good checkpoint is kept.
            DiskFull: the disk is full; the last good checkpoint is kept.
            Interrupted: a signal came; a checkpoint has been written.
        """
        metrics: dict[str, float] = {}
        count, micro = self.count, self.settings.accumulate
        with self._journal() as journal:
            started = time.perf_counter()
            batches = iter(self._loader(count.step * micro, self.total * micro))
            while count.step < self.total:
                self._step(batches, request)
                count.seconds += time.perf_counter() - started
                progress(count.step, self.total, count.loss_sum / count.loss_count)
                metrics = self._after_step(journal) or metrics
                if self.signal:
                    raise Interrupted(self.signal, self._save(journal))
                started = time.perf_counter()
            if not metrics:  # resumed after the last step
                metrics = self._evaluate()
        return {"status": "finished", "metrics": metrics, "cost": self.cost()}

    def cost(self) -> dict[str, float]:
        """What the training took: seconds, samples trained on, forward passes of the target and of the reference."""
        return {
            "seconds": self.count.seconds,
            "samples_trained": float(self.count.step * self.settings.accumulate * self.settings.batch_size),
            "forward_samples": float(self.count.forward_samples),
            "reference_forward_samples": float(self.count.reference_samples + self.job.scored),
        }

    # -- one step -----------------------------------------------------------------------------------------------------

    def _step(self, batches: Iterator[Batch], request: StopRequest) -> None:
        self.model.train()
        self.objective.train()
        self.objective.set_epoch(self.count.step // self.steps_per_epoch)
        total = torch.zeros((), device=self.engine.device)
        micro = self.settings.accumulate
        seen: list[MiniBatch] = []
        for part in range(micro):
            last = part == micro - 1
            with nullcontext() if last else self.engine.no_sync(self.model):
                loss, mini_batch = self._loss(next(batches), self.count.step * micro + part)
                self.engine.backward(loss / micro)
            total += loss.detach() / micro
            seen.append(mini_batch)
        bad, self.signal = self._agree(total, request)
        if bad:  # before the step: the weights stay those of the last good one
            raise loss_failure(self.job, self.count.step + 1, total, seen)
        if self.settings.clip_grad is not None:
            self.engine.clip_grad_norm_(self.model.parameters(), self.settings.clip_grad)
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad()
        self.count.step += 1
        self.count.loss_sum += float(total)
        self.count.loss_count += 1

    def _loss(self, batch: Batch, number: int) -> tuple[Tensor, MiniBatch]:
        inputs, labels, rows = batch
        if self.job.recipe.data.augment == "flip_crop":
            # Seeded by position, not by a generator that would have to be saved.
            seed = np.random.SeedSequence((self.job.seed, number, distributed.rank())).generate_state(1)[0]
            inputs = flip_crop(inputs, torch.Generator().manual_seed(int(seed)))
        device = self.engine.device
        inputs = inputs.to(device, non_blocking=True, memory_format=self.layout)
        losses, logits = self._ask_reference(rows, inputs, labels)
        labels = labels.to(device, non_blocking=True)
        if self.job.strategy == "select":
            inputs, labels, rows = self._select(inputs, labels, rows, losses)
        self.count.forward_samples += len(rows) * distributed.world_size()
        outputs = self.model(inputs)
        if self.job.strategy in WEIGHED and self._last_epoch():
            self.weights.add(rows, *self.objective.weights(outputs, labels, losses))
        loss = self.objective(outputs, labels, reference_losses=losses, teacher_logits=logits)
        return loss, (rows, labels, outputs.detach())

    def _ask_reference(self, rows: Tensor, inputs: Tensor, labels: Tensor) -> tuple[Tensor | None, Tensor | None]:
        reference, device = self.job.reference, self.engine.device
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
        self.count.reference_samples += (reference.forward_samples - before) * distributed.world_size()
        losses, logits = (None if v is None else v.to(device, non_blocking=True) for v in (losses, logits))
        return losses, logits

    def _select(
        self, inputs: Tensor, labels: Tensor, rows: Tensor, reference_losses: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        if reference_losses is None:
            raise UserError("`strategies` has select, which needs the reference's losses. Found none.")
        # Evaluation mode: selecting must not move the running statistics of normalisation layers.
        self.bare.eval()
        with torch.no_grad():
            rho = excess(sample_cross_entropy(self.bare(inputs), labels), reference_losses)
        self.bare.train()
        self.count.forward_samples += len(rows) * distributed.world_size()
        keep = self.settings.batch_size // distributed.world_size()
        chosen = select_top(rho, keep)
        if self._last_epoch():
            weights = torch.zeros_like(rho).index_fill_(0, chosen, len(rho) / keep)
            self.weights.add(rows, weights, rho)
        return inputs[chosen], labels[chosen], rows[chosen.cpu()]

    def _last_epoch(self) -> bool:
        return self.count.step >= self.total - self.steps_per_epoch

    # -- between steps ------------------------------------------------------------------------------------------------

    def _agree(self, loss: Tensor, request: StopRequest) -> tuple[bool, int]:
        """Whether the loss of some process is not finite, and the signal that some process has got."""
        bad, number = not bool(torch.isfinite(loss)), request.number
        if distributed.world_size() == 1:
            return bad, number
        everywhere = distributed.gather(torch.tensor([[int(bad), number]], device=self.engine.device)).amax(0)
        return bool(everywhere[0]), int(everywhere[1])

    def _after_step(self, journal: Journal | None) -> dict[str, float] | None:
        count, metrics = self.count, None
        finished = count.step == self.total
        if count.step % self.steps_per_epoch == 0 or finished:
            epoch = -(-count.step // self.steps_per_epoch)
            record: dict[str, Any] = {"step": count.step, "epoch": epoch, **self.cost()}
            record["train_loss"] = count.loss_sum / count.loss_count
            record |= {f"objective_{name}": value for name, value in self.objective.metrics().items()}
            count.loss_sum, count.loss_count = 0.0, 0
            if finished or epoch % self.settings.evaluate_every == 0:
                metrics = self._evaluate()
                record["test"] = metrics
            if journal is not None:
                journal.write(record)
            self._track(record["train_loss"], metrics or {})
        if count.step % self.settings.checkpoint_every == 0 or finished:
            self._save(journal)
        return metrics

    def _track(self, train_loss: float, metrics: dict[str, float]) -> None:
        values = {"step": float(self.count.step), "train_loss": train_loss}
        values |= {f"test_{name}": value for name, value in metrics.items()}
        # Weights & Biases drops what comes with a step that it has seen, as those of the next training would be.
        step = None if self.settings.tracker == "wandb" else self.count.step
        self.engine.log({f"{self.job.title}/{name}": value for name, value in values.items()}, step=step)

    def _evaluate(self) -> dict[str, float]:
        try:
            return evaluate(self.bare, evaluation_batches(self.job.data.test), self.engine.device)
        except UserError as error:
            raise evaluation_failure(self.job, self.count.step, error) from error

    def _save(self, journal: Journal | None) -> Path:
        check_weights(self.job, self.count.step, self.bare)
        if journal is not None:
            self.count.position = journal.position
        return self.snapshots.save()

    def _journal(self) -> AbstractContextManager[Journal | None]:
        """The journal on the process that writes it."""
        if not self.engine.is_main_process:
            return nullcontext()
        return Journal(self.job.folder / "metrics.jsonl", self.count.position)

    def _loader(self, start: int, stop: int) -> DataLoader:
        dataset: Any = self.job.data.train
        return DataLoader(
            dataset,
            batch_sampler=_Lazy(self.plan, start, stop),
            num_workers=self.job.recipe.data.workers,
            collate_fn=_as_is,
            pin_memory=self.engine.device.type == "cuda",
            generator=torch.Generator(),  # its own, so that the training's random numbers are left alone
        )


class _Lazy:
    """A batch sampler over a part of a plan; fresh each time it is iterated."""

    def __init__(self, plan: BatchPlan, start: int, stop: int) -> None:
        self.plan, self.start, self.stop = plan, start, stop

    def __iter__(self) -> Any:
        return self.plan.between(self.start, self.stop)

    def __len__(self) -> int:
        return self.stop - self.start


def evaluation_batches(split: Any) -> DataLoader:
    """A split's batches in order, for evaluation."""
    rows = [
        list(range(start, min(start + EVALUATION_BATCH, len(split))))
        for start in range(0, len(split), EVALUATION_BATCH)
    ]
    return DataLoader(split, batch_sampler=rows, collate_fn=_as_is, generator=torch.Generator())
