"""Everything that a training is at a step, as a checkpoint: so that what is killed ends as if it had not been."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from guidestar import distributed
from guidestar.errors import UserError
from guidestar.training.checkpoint import checkpoint_path, list_checkpoints, load_checkpoint, save_checkpoint
from guidestar.training.explain import difference, recipe_digest
from guidestar.training.job import Job
from guidestar.training.recipe_io import check_recipe


class Part(Protocol):
    """A piece of a training with a state: its model, optimizer, schedule, objective, ..."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any]) -> Any: ...


@dataclass
class Counters:
    """The numbers that a training counts.

    Attributes:
        step: optimizer steps done.
        loss_sum, loss_count: the objective's sum over the steps since the last record, and how many these are.
        seconds: time spent in steps.
        forward_samples, reference_samples: samples that the target and the reference were run on, on all processes.
        position: bytes of the journal.
    """

    step: int = 0
    loss_sum: float = 0.0
    loss_count: int = 0
    seconds: float = 0.0
    forward_samples: int = 0
    reference_samples: int = 0
    position: int = 0


class Snapshots:
    """Saves and restores a training.

    Args:
        job: the training.
        parts: what has a state, by name.
        counters: changed in place by `resume`.
    """

    def __init__(self, job: Job, parts: Mapping[str, Part], counters: Counters) -> None:
        self.job = job
        self.parts = parts
        self.counters = counters
        self.device = job.accelerator.device

    def save(self) -> Path:
        """Write a checkpoint of this step; every process must call it, the first one writes.

        Raises:
            DiskFull: the disk is full; older checkpoints are untouched.
            OSError: the file cannot be written for another reason.
        """
        state = {
            "digest": recipe_digest(self.job.recipe),
            "recipe": self.job.recipe.model_dump_json(),
            "strategy": self.job.strategy,
            "seed": self.job.seed,
            "random": self._gathered(torch.get_rng_state()),
            "random_cuda": self._gathered(torch.cuda.get_rng_state(self.device)) if self._cuda else None,
            "counters": asdict(self.counters),
            "parts": {name: part.state_dict() for name, part in self.parts.items()},
        }
        if self.job.accelerator.is_main_process:
            keep = self.job.recipe.training.keep_checkpoints
            save_checkpoint(self.job.checkpoints, self.counters.step, state, keep)
        distributed.barrier()
        return checkpoint_path(self.job.checkpoints, self.counters.step)

    def resume(self) -> None:
        """Continue from the newest checkpoint, if there is one.

        Raises:
            UserError: it cannot be read, or belongs to another recipe, strategy, seed or number of processes.
            OSError: it cannot be read.
        """
        saved = list_checkpoints(self.job.checkpoints)
        if not saved:
            return
        state = load_checkpoint(saved[-1])
        self._check_same(saved[-1], state)
        for name, part in self.parts.items():
            part.load_state_dict(state["parts"][name])
        # Clones: torch reads a state from the start of its memory, and crashes on a row of a larger tensor.
        torch.set_rng_state(state["random"][distributed.rank()].clone())
        if state["random_cuda"] is not None and self._cuda:
            torch.cuda.set_rng_state(state["random_cuda"][distributed.rank()].clone(), self.device)
        for field in fields(Counters):
            setattr(self.counters, field.name, state["counters"][field.name])

    @property
    def _cuda(self) -> bool:
        return self.device.type == "cuda"

    def _gathered(self, random: Tensor) -> Tensor:
        return distributed.gather(random.unsqueeze(0).to(self.device)).cpu()

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
