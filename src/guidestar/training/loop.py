"""The training loop: one strategy on one seed, on `accelerate`, resumable at any step."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from guidestar import distributed
from guidestar.errors import UserError
from guidestar.training.display import Progress
from guidestar.training.failure import check_weights, evaluation_failure
from guidestar.training.interrupt import Interrupted, StopRequest
from guidestar.training.job import Job, build_optimizer
from guidestar.training.journal import Journal
from guidestar.training.kinds import stepper_of
from guidestar.training.snapshot import Counters, Part, Snapshots
from guidestar.training.steppers import Course


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
        self.stepper = stepper_of(job)
        self.steps_per_epoch = max(1, size // settings.batch_size // settings.accumulate)
        self.total = settings.steps or settings.epochs * self.steps_per_epoch
        if settings.warmup_steps >= self.total:
            raise UserError(
                f"`training.warmup_steps` must be less than the number of steps, which is {self.total}; found "
                f"{settings.warmup_steps}."
            )
        lr = settings.lr * (job.recipe.finetune.lr_factor if job.strategy == "finetune" else 1.0)
        self.objective = self.stepper.objective.to(self.engine.device)
        optimizer, self.scheduler = build_optimizer(settings, self.stepper.groups(job.model), lr, self.total)
        model = job.model.to(memory_format=self.stepper.layout)  # pyright: ignore[reportCallIssue]  # torch's stubs lack it
        self.model, self.optimizer = self.engine.prepare(model, optimizer)
        self.bare = self.engine.unwrap_model(self.model)
        self.count = Counters()
        self.signal = 0
        self.stepper.begin(Course(self.engine, self.model, self.bare, self.count, self.total, self.steps_per_epoch))
        torch.manual_seed(job.seed + distributed.rank())
        parts: dict[str, Part] = {
            "model": self.bare,
            "optimizer": self.optimizer,
            "scheduler": self.scheduler,
            "objective": self.objective,
            **self.stepper.parts(),
        }
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
            batches = iter(self.stepper.batches(count.step * micro, self.total * micro))
            while count.step < self.total:
                self._step(batches, request)
                count.seconds += time.perf_counter() - started
                progress(count.step, self.total, count.loss_sum / count.loss_count)
                metrics = self._after_step(journal) or metrics
                if self.signal:
                    raise Interrupted(self.signal, self._save(journal))
                started = time.perf_counter()
            if not metrics:  # resumed after the last step
                metrics = self._evaluate(last=True)
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

    def _step(self, batches: Iterator[Any], request: StopRequest) -> None:
        self.model.train()
        self.objective.train()
        self.objective.set_epoch(self.count.step // self.steps_per_epoch)
        total = torch.zeros((), device=self.engine.device)
        micro = self.settings.accumulate
        seen: list[Any] = []
        for part in range(micro):
            number = self.count.step * micro + part
            loss, batch = self.stepper.backward(next(batches), number, last=part == micro - 1, of=micro)
            total += loss / micro
            seen.append(batch)
        bad, self.signal = self._agree(total, request)
        if bad:  # before the step: the weights stay those of the last good one
            raise self.stepper.failure(self.count.step + 1, total, seen)
        if self.settings.clip_grad is not None:
            self.engine.clip_grad_norm_(self.model.parameters(), self.settings.clip_grad)
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad()
        self.count.step += 1
        self.count.loss_sum += float(total)
        self.count.loss_count += 1
        self.stepper.stepped()

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
                metrics = self._evaluate(last=finished)
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

    def _evaluate(self, *, last: bool) -> dict[str, float]:
        try:
            return self.stepper.evaluate(last=last)
        except UserError as error:
            raise evaluation_failure(self.job, self.count.step, error) from error

    def _save(self, journal: Journal | None) -> Path:
        check_weights(self.job, self.count.step, self.bare)
        self.stepper.check()
        if journal is not None:
            self.count.position = journal.position
        return self.snapshots.save()

    def _journal(self) -> AbstractContextManager[Journal | None]:
        """The journal on the process that writes it."""
        if not self.engine.is_main_process:
            return nullcontext()
        return Journal(self.job.folder / "metrics.jsonl", self.count.position)
