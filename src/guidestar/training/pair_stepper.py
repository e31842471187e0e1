"""Contrastive training, step by step: batches of pairs, the reference's embeddings, selection, chunks and averages."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from guidestar import distributed
from guidestar.data.pairs.batches import PairBatch, PairDataset
from guidestar.data.pairs.plan import ShardPlan
from guidestar.errors import UserError
from guidestar.models.pairs import DualEncoder
from guidestar.models.pairs.dual import SMALLEST_TAU
from guidestar.steering.objective import candidates
from guidestar.steering.pair_objective import PairObjective, build_pair_objective
from guidestar.steering.pair_selection import select_pairs
from guidestar.training.batches import batch_loader
from guidestar.training.exchange import my_share
from guidestar.training.failure import TrainingFailed
from guidestar.training.grad_cache import cached_backward
from guidestar.training.job import Job
from guidestar.training.pair_evaluation import PairEvaluation
from guidestar.training.pair_failure import check_temperature, pair_failure
from guidestar.training.pair_head import CachedRows
from guidestar.training.recipe_io import pairs
from guidestar.training.snapshot import Part
from guidestar.training.steppers import Course

#: Strategies that train on a part of a larger batch, and how the part is chosen.
SELECTING = {"select": "rho", "jest": "jest"}


#: Strategies whose objective has a temperature of its own and does not use the model's.
OWN_TEMPERATURE = ("dro", "fastclip", "steer", "steer_init")


@dataclass(frozen=True)
class Asked:
    """A batch with what the reference says about it.

    Attributes:
        images, tokens: the model's inputs, on the device.
        rows: on the CPU.
        image, text: the reference's embeddings, or None where it is not asked.
    """

    images: Tensor
    tokens: Tensor
    rows: Tensor
    image: Tensor | None
    text: Tensor | None


class PairStepper:
    """The steps of a training on pairs.

    Args:
        job: what to train.

    Raises:
        UserError: the batch size does not fit.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.recipe = pairs(job.recipe)
        self.settings = self.recipe.training
        model = cast(DualEncoder, job.model)
        size, world = len(job.data.train), distributed.world_size()
        drawn = self.settings.batch_size
        if job.strategy in SELECTING:
            fraction = self.recipe.jest.fraction if job.strategy == "jest" else self.recipe.select.fraction
            drawn = candidates(drawn, fraction, size)
            drawn -= drawn % world
        self.plan = ShardPlan(job.data.train.blocks(), drawn, job.seed, rank=distributed.rank(), world=world)
        self.dataset = self._dataset(model)
        self.layout = torch.channels_last
        self.objective = self._objective(size, model.width)
        if job.strategy in OWN_TEMPERATURE:
            fast, contrast = self.recipe.objective.fastclip, self.recipe.objective.contrast
            model.fix_tau(max(fast.tau if job.strategy == "fastclip" else contrast.temperature.tau, SMALLEST_TAU))
        self.average: AveragedModel | None = None
        self.course: Course
        self.evaluation: PairEvaluation

    def _dataset(self, model: DualEncoder) -> PairDataset | CachedRows:
        job, data = self.job, self.recipe.data
        if self.recipe.head is not None:
            return CachedRows(job.data.train, data.captions, job.seed)
        return PairDataset(
            job.data.train,
            size=model.size,
            tokenizer=model.tokenizer,
            captions=data.captions,
            crop=data.crop,
            flip=data.flip,
            seed=job.seed,
            cache=data.cache,
            on_error=data.on_error,
        )

    def _objective(self, size: int, width: int) -> PairObjective:
        reference = self.job.reference
        with torch.random.fork_rng():
            torch.manual_seed(self.job.seed)  # a temperature network starts from random weights
            return build_pair_objective(
                self.job.strategy,
                self.recipe.objective,
                num_rows=size,
                epochs=self.settings.epochs,
                width=width,
                reference_width=None if reference is None else reference.width,
            )

    def groups(self, model: nn.Module) -> list[Any]:
        """Matrices and kernels with weight decay; vectors, temperatures and the objective's parameters without."""
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        own = [parameter for parameter in self.objective.parameters() if parameter.requires_grad]
        lr = {} if self.settings.objective_lr is None else {"lr": self.settings.objective_lr}
        found = [
            {"params": [parameter for parameter in trained if parameter.ndim >= 2]},
            {"params": [parameter for parameter in trained if parameter.ndim < 2], "weight_decay": 0.0},
            {"params": own, "weight_decay": 0.0, **lr},
        ]
        return [group for group in found if group["params"]]

    def begin(self, course: Course) -> None:
        """The engine has prepared the model."""
        self.course = course
        if self.settings.ema is not None:
            self.average = AveragedModel(course.bare, multi_avg_fn=get_ema_multi_avg_fn(self.settings.ema))
        self.evaluation = PairEvaluation(self.recipe.data, self.recipe.evaluate, self.job.data, course.engine)

    def parts(self) -> Mapping[str, Part]:
        """The average of the weights, where there is one."""
        return {} if self.average is None else {"average": self.average}

    def batches(self, start: int, stop: int) -> Iterable[PairBatch]:
        """The drawn batches `start` up to `stop`."""
        pin = self.course.engine.device.type == "cuda"
        return batch_loader(
            self.dataset, lambda: self.plan.requests(start, stop), workers=self.recipe.data.workers, pin=pin
        )

    def backward(self, batch: PairBatch, number: int, *, last: bool, of: int) -> tuple[Tensor, Any]:
        """Add the gradient of a batch's loss."""
        asked = self._ask(batch)
        if self.job.strategy in SELECTING:
            asked = self._select(asked, number)
        course, world = self.course, distributed.world_size()
        course.count.forward_samples += len(asked.rows) * world
        shared = [self._bare.log_scale, self._bare.bias]
        own = list(self.objective.parameters())
        if self.settings.chunk is None:
            with nullcontext() if last else course.engine.no_sync(course.model):
                image, text = course.model(asked.images, asked.tokens)
                loss = self._loss(image, text, asked)
                course.engine.backward(loss / of)
            image, text = image.detach(), text.detach()
        else:
            course.count.forward_samples += len(asked.rows) * world
            share = max(1, self.settings.chunk // world)
            loss, image, text = cached_backward(
                course.model,
                list(zip(asked.images.split(share), asked.tokens.split(share), strict=True)),
                lambda image, text: self._loss(image, text, asked) / of,
                shared=shared,
                own=own,
                no_sync=lambda: course.engine.no_sync(course.model),
                last=last,
            )
            loss = loss * of
        if last:
            for parameter in own:  # these are not the engine's, so nobody else takes the mean over the processes
                if parameter.grad is not None:
                    parameter.grad = distributed.mean(parameter.grad)
        return loss.detach(), (asked.rows, image, text)

    def failure(self, step: int, loss: Tensor, seen: list[Any]) -> TrainingFailed:
        """Names the temperature and the pairs whose embeddings are not finite."""
        return pair_failure(self.job, step, loss, seen, self.temperatures())

    def stepped(self) -> None:
        """Keep the temperature in its range and the average up to date."""
        self._bare.clamp_scale()
        if self.average is not None:
            self.average.update_parameters(self._bare)

    def check(self) -> None:
        """Temperatures that are of no use end the training."""
        check_temperature(self.job, self.course.count.step, self.temperatures())

    def temperatures(self) -> dict[str, float]:
        """The model's temperature, and those of the objective, by name."""
        own = {name: value for name, value in self.objective.metrics().items() if "tau" in name}
        return {"the model's tau": float(self._bare.tau().detach()), **{f"the objective's {k}": own[k] for k in own}}

    def evaluate(self, *, last: bool) -> dict[str, float]:
        """Retrieval, zero-shot classification and probes on the test pairs."""
        self._tell_temperature()
        return self.evaluation.metrics(cast(DualEncoder, self.result()), last=last)

    def result(self) -> nn.Module:
        """The average of the weights where there is one, else the model itself."""
        return self.course.bare if self.average is None else self.average.module

    @property
    def _bare(self) -> DualEncoder:
        return cast(DualEncoder, self.course.bare)

    def _ask(self, batch: PairBatch) -> Asked:
        device, reference = self.course.engine.device, self.job.reference
        batch = batch.to(device, non_blocking=True)
        image = text = None
        headed = self.recipe.head is not None
        if reference is not None and (headed or self.objective.needs_reference or self.job.strategy in SELECTING):
            before = reference.forward_samples
            image, text = (found.to(device) for found in reference.embeddings(batch.rows, batch.choice))
            self.course.count.reference_samples += (reference.forward_samples - before) * distributed.world_size()
        if headed and image is not None and text is not None:
            return Asked(image, text, batch.rows, image, text)
        images = batch.images.contiguous(memory_format=self.layout)
        return Asked(images, batch.tokens, batch.rows, image, text)

    def _loss(self, image: Tensor, text: Tensor, asked: Asked) -> Tensor:
        loss = self.objective(
            image,
            text,
            asked.rows,
            scale=self._bare.scale(),
            bias=self._bare.bias,
            reference_image=asked.image,
            reference_text=asked.text,
            groups=self._groups(asked),
        )
        # Every parameter that the engine exchanges has to take part, also where the objective does not use it.
        return loss + 0.0 * self._bare.log_scale if self._bare.log_scale.requires_grad else loss

    def _tell_temperature(self) -> None:
        """Where the objective has learnt a temperature of its own, the model's probabilities get it, too."""
        own = [value for name, value in self.objective.metrics().items() if "tau" in name]
        if own and not self._bare.log_scale.requires_grad:
            scale = -math.log(max(sum(own) / len(own), SMALLEST_TAU))
            for model in (self._bare, cast(DualEncoder, self.result())):
                model.log_scale.data.fill_(scale)

    def _groups(self, asked: Asked) -> Tensor | None:
        kind = self.recipe.data.groups
        if kind == "none":
            return None
        if kind == "caption":
            return _token_hash(asked.tokens, self._bare.tokenizer.pad)
        labels = self.job.data.train.labels
        if labels is None:
            raise UserError("`data.groups` is label, and the training pairs have no labels. Use caption or none.")
        return labels[asked.rows].to(asked.images.device)

    def _select(self, asked: Asked, number: int) -> Asked:
        if asked.image is None or asked.text is None:
            raise UserError(f"`strategies` has {self.job.strategy}, which needs a reference. Found none.")
        world, model = distributed.world_size(), self._bare
        model.eval()
        with torch.no_grad(), self.course.engine.autocast():
            image, text = model(asked.images, asked.tokens)
        model.train()
        self.course.count.forward_samples += len(asked.rows) * world
        seed = np.random.SeedSequence((self.job.seed, number)).generate_state(1)[0]
        everyone = [distributed.gather(x.float().contiguous()) for x in (image, text, asked.image, asked.text)]
        kept = select_pairs(
            cast(Any, SELECTING[self.job.strategy]),
            *everyone,
            keep=self.settings.batch_size,
            scale=float(model.scale().detach()),
            reference_scale=1.0 / self.recipe.objective.distill.teacher_tau,
            chunks=self.recipe.jest.chunks,
            generator=torch.Generator().manual_seed(int(seed)),
        )
        tokens = _widest(asked.tokens, model.tokenizer.pad)
        columns = [asked.images, tokens, asked.rows, asked.image, asked.text]
        images, tokens, rows, *reference = my_share(columns, kept, len(asked.rows))
        if images.ndim == 4:
            images = images.contiguous(memory_format=self.layout)
        return Asked(images, tokens, rows, *reference)


def _token_hash(tokens: Tensor, pad: int) -> Tensor:
    """A number for each caption's tokens, whatever the padding; int64 arithmetic wraps round."""
    places = torch.arange(tokens.shape[1], device=tokens.device)
    mixed = (tokens + 1) * (2 * places + 1) * 0x9E3779B97F4A7C1
    mixed = (mixed ^ (mixed >> 29)) * 0xBF58476D1CE4E5B
    return mixed.masked_fill(tokens == pad, 0).sum(dim=1)


def _widest(tokens: Tensor, pad: int) -> Tensor:
    """The tokens padded to the longest of all processes."""
    lengths = distributed.gather(torch.tensor([tokens.shape[1]], device=tokens.device))
    return nn.functional.pad(tokens, (0, int(lengths.max()) - tokens.shape[1]), value=pad)
