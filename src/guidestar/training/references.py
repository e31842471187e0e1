"""The reference of a run: fitted here, loaded, or known only by a store; asked live, or scored once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from guidestar import distributed
from guidestar.errors import UserError
from guidestar.files import clear_when_full
from guidestar.models.weights import load_weights, save_weights
from guidestar.training.display import Display
from guidestar.training.failure import TrainingFailed
from guidestar.training.interrupt import Interrupted, StopRequest
from guidestar.training.job import Job
from guidestar.training.loop import Training
from guidestar.training.tasks import Task


class References:
    """Gives each seed its reference; fits and scores at most once.

    Args:
        task: the run's kind of training, with its data; the reference's files go to `reference/` in its folder.
        request: set by a signal.
        display: shows what goes on.
    """

    def __init__(self, task: Task, request: StopRequest, display: Display) -> None:
        self.task = task
        self.loaded = task.loaded
        self.settings = task.loaded.recipe.reference
        self.engine = task.engine
        self.folder = task.folder / "reference"
        self.request = request
        self.display = display

    def model(self, seed: int, data: Any) -> nn.Module:
        """The reference model of a seed, with its weights, new each time.

        Raises:
            UserError: the weights do not fit, or the recipe has no reference model.
            OSError: a file cannot be read.
        """
        model = self.task.reference(seed)
        if self.settings.fit is not None:
            fitted = self._folder(seed) / "model.safetensors"
            if not first_says(fitted.is_file(), self.engine.device):
                # In another object: training changes the layout of a model's memory and, by that, its rounding, and a
                # resumed run, which finds the file, must not differ.
                self._fit(self.task.reference(seed), seed, data, fitted)
            load_weights(model, fitted)
        elif self.settings.weights is not None:
            load_weights(model, self.loaded.resolve(self.settings.weights))
        return model.to(self.engine.device)

    def notes(self) -> Iterator[str]:
        """What the user should know about how the reference is used."""
        return self.task.notes()

    def asked(self, seed: int, data: Any) -> tuple[Any, int]:
        """What a strategy asks about the samples, and how many passes were made for it beforehand.

        Raises:
            UserError: the store does not belong to this data or reference, or is not complete.
        """
        if self.settings.scoring == "online":
            return self.task.live(self.model(seed, data), data), 0
        if self.settings.store is not None:
            model = self.model(seed, data) if self.settings.has_model else None
            return self.task.stored(self.loaded.resolve(self.settings.store), data, model), 0
        store = self.score(seed, data)
        return self.task.stored(store.path, data, None), len(store)

    def score(self, seed: int, data: Any) -> Any:
        """Fill the store of a seed, or open it if it is complete.

        The whole training data are scored once for all seeds; only where seeds differ in their reference or labels is
        the target's own part scored for each.

        Raises:
            UserError: the reference does not fit the data, or the store there was made for something else.
            DiskFull: the disk is full.
            Interrupted: a signal came; the blocks that were scored are kept.
        """
        own = self.task.own_store(data)
        path = (self._folder(seed) if own else self.folder) / "store"
        model = self.model(seed, data)
        progress = self.display.begin(f"scoring, seed {seed}" if own else "scoring")
        share = max(1, self.task.rows_to_score(data) // distributed.world_size())

        def on_rows(rows: int) -> None:
            progress(rows, share, None)
            if self.request.number:
                raise Interrupted(self.request.number)

        with clear_when_full(path):
            self._fill(model, data, path, on_rows)
        return self.task.open_store(path, data)

    def _fill(self, model: nn.Module, data: Any, path: Path, on_rows: Callable[[int], None]) -> None:
        # A process that was asked to stop waits for the others, so that all of them stop, or none.
        with suppress(Interrupted):
            self.task.fill(model, data, path, on_rows)
        number = self.request.agreed(self.engine.device)
        if number:
            raise Interrupted(number)

    def _folder(self, seed: int) -> Path:
        return self.folder / f"seed-{seed}" if self.settings.fit is not None else self.folder / f"labels-{seed}"

    def _fit(self, model: nn.Module, seed: int, data: Any, target: Path) -> None:
        own = replace(self.loaded, recipe=self.task.fit_recipe())
        folder = target.parent
        job = Job(own, "erm", seed, self.task.fit_data(data), model, None, 0, folder, self.engine)
        training = Training(job, resume=True)
        try:
            training.run(self.request, self.display.begin(f"reference, seed {seed}"))
        except TrainingFailed as error:  # without its reference no strategy can go on
            raise UserError(f"the reference could not be fitted, see `reference.fit`: {error}") from error
        if self.engine.is_main_process:
            with clear_when_full(target):
                save_weights(training.stepper.result(), target)
        distributed.barrier()


def first_says(answer: bool, device: torch.device) -> bool:
    """The first process's answer to a question about files, on every process.

    The others may look a moment later, when the first one has already changed what they look at.
    """
    return bool(distributed.gather(torch.tensor([answer], device=device))[0])
