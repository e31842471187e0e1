"""The training loop: one strategy on one seed, on `accelerate`, resumable at any step."""

from __future__ import annotations

import json
import time
from contextlib import nullcontext
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
from guidestar.training.checkpoint import list_checkpoints, load_checkpoint, save_checkpoint
from guidestar.training.display import Progress
from guidestar.training.explain import difference, recipe_digest
from guidestar.training.interrupt import Interrupted, StopRequest
from guidestar.training.job import Job, build_objective, build_optimizer
from guidestar.training.journal import Journal
from guidestar.training.recipe_io import check_recipe
from guidestar.training.weight_log import WeightLog

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
        UserError: the checkpoint belongs to another recipe, strategy, seed or number of processes.
    """

    def __init__(self, job: Job, *, resume: bool) -> None:
        settings, size = job.recipe.training, len(job.data.train)
        self.job = job
        self.settings = settings
        self.engine = job.accelerator
        world = distributed.world_size()
        self.drawn = settings.batch_size
        if job.strategy == "select":
            self.drawn = candidates(settings.batch_size, job.recipe.select.fraction, size)
            self.drawn -= self.drawn % world
        self.plan = BatchPlan(size, self.drawn, job.seed, rank=distributed.rank(), world=world)
        self.steps_per_epoch = max(1, size // settings.batch_size // settings.accumulate)
        self.total = settings.steps or settings.epochs * self.steps_per_epoch
        lr = settings.lr * (job.recipe.finetune.lr_factor if job.strategy == "finetune" else 1.0)
        optimizer, self.scheduler = build_optimizer(settings, job.model, lr, self.total)
        # Convolutions are up to twice as fast on images that keep their channels last.
        self.layout = torch.channels_last if job.data.train.kind == "image" else torch.preserve_format
        self.model, self.optimizer = self.engine.prepare(job.model.to(memory_format=self.layout), optimizer)
        self.bare = self.engine.unwrap_model(self.model)
        self.objective = build_objective(job.recipe, job.strategy).to(self.engine.device)
        self.weights = WeightLog(size)
        self.step = 0
        self.loss_sum = 0.0
        self.loss_count = 0
        self.seconds = 0.0
        self.forward_samples = 0
        self.reference_samples = 0
        self.position = 0
        torch.manual_seed(job.seed + distributed.rank())
        if resume:
            self._resume()

    def run(self, request: StopRequest, progress: Progress) -> dict[str, Any]:
        """Train to the end and return the result; everything else is in the job's folder.

        Raises:
            UserError: the loss is not finite, or the disk is full; the last good checkpoint is kept.
            Interrupted: a signal came; a checkpoint has been written.
        """
        metrics: dict[str, float] = {}
        with Journal(self.job.folder / "metrics.jsonl", self.position) as journal:
            micro = self.settings.accumulate
            started = time.perf_counter()
            batches = iter(self._loader(self.step * micro, self.total * micro))
            while self.step < self.total:
                loss = self._step(batches)
                self._guard(loss, request)
                self.seconds += time.perf_counter() - started
                progress(self.step, self.total, self.loss_sum / max(1, self.loss_count))
                metrics = self._after_step(journal) or metrics
                if request.number or self._signalled:
                    raise Interrupted(request.number or self._signalled, self._save(journal))
                started = time.perf_counter()
            if not metrics:  # resumed after the last step
                metrics = self._evaluate()
        return {"status": "finished", "metrics": metrics, "cost": self.cost()}

    def cost(self) -> dict[str, float]:
        """What the training took: seconds, samples trained on, forward passes of the target and of the reference."""
        return {
            "seconds": self.seconds,
            "samples_trained": float(self.step * self.settings.accumulate * self.settings.batch_size),
            "forward_samples": float(self.forward_samples),
            "reference_forward_samples": float(self.reference_samples + self.job.scored),
        }

    # -- one step -----------------------------------------------------------------------------------------------------

    def _step(self, batches: Any) -> Tensor:
        self.model.train()
        self.objective.train()
        self.objective.set_epoch(self.step // self.steps_per_epoch)
        total = torch.zeros((), device=self.engine.device)
        micro = self.settings.accumulate
        for part in range(micro):
            last = part == micro - 1
            with nullcontext() if last else self.engine.no_sync(self.model):
                loss = self._loss(next(batches), self.step * micro + part)
                self.engine.backward(loss / micro)
            total += loss.detach() / micro
        if self.settings.clip_grad is not None:
            self.engine.clip_grad_norm_(self.model.parameters(), self.settings.clip_grad)
        if not bool(torch.isfinite(total)):
            return total  # the weights of the last good step stay
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad()
        self.step += 1
        self.loss_sum += float(total)
        self.loss_count += 1
        return total

    def _loss(self, batch: tuple[Tensor, Tensor, Tensor], number: int) -> Tensor:
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
        self.forward_samples += len(rows) * distributed.world_size()
        outputs = self.model(inputs)
        if self.job.strategy in WEIGHED and self._last_epoch():
            self.weights.add(rows, *self.objective.weights(outputs, labels, losses))
        self._last = rows, labels, outputs.detach()
        return self.objective(outputs, labels, reference_losses=losses, teacher_logits=logits)

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
        self.reference_samples += (reference.forward_samples - before) * distributed.world_size()
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
        self.forward_samples += len(rows) * distributed.world_size()
        keep = self.settings.batch_size // distributed.world_size()
        chosen = select_top(rho, keep)
        if self._last_epoch():
            weights = torch.zeros_like(rho).index_fill_(0, chosen, len(rho) / keep)
            self.weights.add(rows, weights, rho)
        return inputs[chosen], labels[chosen], rows[chosen.cpu()]

    def _last_epoch(self) -> bool:
        return self.step >= self.total - self.steps_per_epoch

    # -- between steps ------------------------------------------------------------------------------------------------

    def _guard(self, loss: Tensor, request: StopRequest) -> None:
        """Stop on all processes together when one has a loss that is not finite, or was signalled."""
        self._signalled = 0
        bad = not bool(torch.isfinite(loss))
        if distributed.world_size() > 1:
            flags = torch.tensor([[int(bad), request.number]], device=self.engine.device)
            everywhere = distributed.gather(flags).amax(0)
            bad_somewhere, self._signalled = bool(everywhere[0]), int(everywhere[1])
        else:
            bad_somewhere = bad
        if not bad_somewhere:
            return
        rows, labels, outputs = self._last
        culprits = rows[~torch.isfinite(sample_cross_entropy(outputs, labels)).cpu()].tolist()
        keys = self.job.data.train.keys(culprits[:8])
        which = f"samples {', '.join(keys)}{', ...' if len(culprits) > 8 else ''}" if keys else "no single sample"
        saved = list_checkpoints(self.job.folder / "checkpoints")
        kept = f"the last good checkpoint is {saved[-1]}" if saved else "no checkpoint had been written"
        raise UserError(
            f"the loss of {self.job.strategy} (seed {self.job.seed}) is {float(loss)} at step {self.step + 1}; "
            f"{which} of the batch have a loss that is not finite; {kept}. Lower `training.lr`, set "
            "`training.clip_grad`, or check those samples."
        )

    def _after_step(self, journal: Journal) -> dict[str, float] | None:
        metrics = None
        finished = self.step == self.total
        if self.step % self.steps_per_epoch == 0 or finished:
            epoch = -(-self.step // self.steps_per_epoch)
            record: dict[str, Any] = {"step": self.step, "epoch": epoch, **self.cost()}
            record["train_loss"] = self.loss_sum / self.loss_count
            record |= {f"objective_{name}": value for name, value in self.objective.metrics().items()}
            self.loss_sum, self.loss_count = 0.0, 0
            if finished or epoch % self.settings.evaluate_every == 0:
                metrics = self._evaluate()
                record["test"] = metrics
            if self.engine.is_main_process:
                journal.write(record)
            flat = {"train_loss": record["train_loss"]} | {f"test_{k}": v for k, v in (metrics or {}).items()}
            self.engine.log({f"{self.job.strategy}/{name}": value for name, value in flat.items()}, step=self.step)
        if self.step % self.settings.checkpoint_every == 0 or finished:
            self._save(journal)
        return metrics

    def _evaluate(self) -> dict[str, float]:
        return evaluate(self.bare, evaluation_batches(self.job.data.test), self.engine.device)

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

    # -- state --------------------------------------------------------------------------------------------------------

    def _save(self, journal: Journal) -> Path:
        folder = self.job.folder / "checkpoints"
        random = distributed.gather(torch.get_rng_state().unsqueeze(0).to(self.engine.device)).cpu()
        state = {
            "digest": recipe_digest(self.job.recipe),
            "recipe": self.job.recipe.model_dump_json(),
            "strategy": self.job.strategy,
            "seed": self.job.seed,
            "model": self.bare.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "objective": self.objective.state_dict(),
            "weights": self.weights.state_dict(),
            "random": random,
            "random_cuda": torch.cuda.get_rng_state() if self.engine.device.type == "cuda" else None,
            "loss_sum": self.loss_sum,
            "loss_count": self.loss_count,
            "seconds": self.seconds,
            "forward_samples": self.forward_samples,
            "reference_samples": self.reference_samples,
            "position": journal.position if self.engine.is_main_process else 0,
        }
        if self.engine.is_main_process:
            save_checkpoint(folder, self.step, state, self.settings.keep_checkpoints)
        distributed.barrier()
        return folder / f"step-{self.step:08d}.pt"

    def _resume(self) -> None:
        saved = list_checkpoints(self.job.folder / "checkpoints")
        if not saved:
            return
        state = load_checkpoint(saved[-1])
        self._check_same(saved[-1], state)
        self.bare.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.objective.load_state_dict(state["objective"])
        self.weights.load_state_dict(state["weights"])
        torch.set_rng_state(state["random"][distributed.rank()])
        if state["random_cuda"] is not None and self.engine.device.type == "cuda":
            torch.cuda.set_rng_state(state["random_cuda"])
        self.step = state["step"]
        for name in ("loss_sum", "loss_count", "seconds", "forward_samples", "reference_samples", "position"):
            setattr(self, name, state[name])

    def _check_same(self, path: Path, state: dict[str, Any]) -> None:
        if state["digest"] != recipe_digest(self.job.recipe):
            differs = "; ".join(difference(check_recipe(json.loads(state["recipe"])), self.job.recipe))
            raise UserError(
                f"{path} is a checkpoint of another recipe: {differs}. Train into another folder (`name` or `output`), or "
                "start again with --overwrite."
            )
        for name, own in (("strategy", self.job.strategy), ("seed", self.job.seed)):
            if state[name] != own:
                raise UserError(f"{path} is a checkpoint of {name} {state[name]}, not of {own}.")
        if len(state["random"]) != distributed.world_size():
            raise UserError(
                f"{path} was written by {len(state['random'])} processes and cannot be continued by "
                f"{distributed.world_size()}: start as many, or start again with --overwrite."
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
