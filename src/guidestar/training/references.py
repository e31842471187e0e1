"""The reference of a run: fitted here, loaded, or known only by a store; asked live, or scored once."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from guidestar import distributed
from guidestar.data.split import Split
from guidestar.errors import UserError
from guidestar.files import clear_when_full
from guidestar.models.preprocess import Preprocess
from guidestar.models.weights import load_weights, save_weights, weights_hash
from guidestar.reference.joined import StoredReference
from guidestar.reference.live import LiveReference
from guidestar.reference.score import score
from guidestar.reference.store import Store
from guidestar.training.display import Display
from guidestar.training.failure import TrainingFailed
from guidestar.training.interrupt import Interrupted, StopRequest
from guidestar.training.job import Job, Reference
from guidestar.training.loop import EVALUATION_BATCH, Training
from guidestar.training.prepare import SeedData, Source, processor, reference_model
from guidestar.training.recipe_io import LoadedRecipe
from guidestar.training.recipe_sections import TrainingSettings


class References:
    """Gives each seed its reference; fits and scores at most once.

    Args:
        loaded: the recipe.
        source: the data.
        engine: where models run.
        folder: the run's folder; the reference's files go to `reference/` in it.
        request: set by a signal.
        display: shows what goes on.
    """

    def __init__(
        self,
        loaded: LoadedRecipe,
        source: Source,
        engine: Accelerator,
        folder: Path,
        request: StopRequest,
        display: Display,
    ) -> None:
        self.loaded = loaded
        self.settings = loaded.recipe.reference
        self.source = source
        self.engine = engine
        self.folder = folder / "reference"
        self.request = request
        self.display = display

    def model(self, seed: int, data: SeedData) -> nn.Module:
        """The reference model of a seed, with its weights, new each time.

        Raises:
            UserError: the weights do not fit, or the recipe has no reference model.
            OSError: a file cannot be read.
        """
        model = reference_model(self.loaded, self.source, seed)
        if self.settings.fit is not None:
            fitted = self._folder(seed) / "model.safetensors"
            if not first_says(fitted.is_file(), self.engine.device):
                # In another object: training changes the layout of a model's memory and, by that, its rounding, and a
                # resumed run, which finds the file, must not differ.
                self._fit(reference_model(self.loaded, self.source, seed), seed, data, fitted)
            load_weights(model, fitted)
        elif self.settings.weights is not None:
            load_weights(model, self.loaded.resolve(self.settings.weights))
        return model.to(self.engine.device)

    def notes(self) -> Iterator[str]:
        """What the user should know about how the reference is used."""
        settings = self.settings
        if settings.model is None or settings.fit is not None or not settings.has_model:
            return
        name = settings.model.name
        if settings.weights is None:
            yield f"the reference {name} is used as it comes; no `reference.weights` are loaded into it."
        own = processor(self.loaded, settings.model)
        if settings.mean is None and "mean" not in own and getattr(self.source.train, "encoder", None) is None:
            yield (
                "the reference's inputs are normalised with the mean and standard deviation of `data.train`; give "
                "`reference.mean` and `reference.std` if it was trained with others."
            )

    def asked(self, seed: int, data: SeedData) -> tuple[Reference, int]:
        """What a strategy asks about the samples, and how many passes were made for it beforehand.

        Raises:
            UserError: the store does not belong to this data or reference, or is not complete.
        """
        if self.settings.scoring == "online":
            return LiveReference(self.model(seed, data), self.loaded.recipe.training.precision, self.engine.device), 0
        if self.settings.store is not None:
            expect: dict[str, object] = {"classes": data.train.num_classes}
            if self.settings.has_model:
                expect["weights"] = weights_hash(bare(self.model(seed, data)))
            store = Store.open(self.loaded.resolve(self.settings.store), expect=expect)
            store.require_complete()
            return StoredReference(store, data.train), 0
        store = self.score(seed, data)
        return StoredReference(store, data.train), len(store)

    def score(self, seed: int, data: SeedData) -> Store:
        """Fill the store of a seed, or open it if it is complete.

        The whole training data are scored once for all seeds; only where seeds differ in their reference or labels is
        the target's own part scored for each.

        Raises:
            UserError: the reference does not fit the data, or the store there was made for something else.
            DiskFull: the disk is full.
            Interrupted: a signal came; the blocks that were scored are kept.
        """
        own = self.settings.fit is not None or data.true_labels is not None
        path = (self._folder(seed) if own else self.folder) / "store"
        model = self.model(seed, data)
        split = data.train if own else self.source.train
        progress = self.display.begin(f"scoring, seed {seed}" if own else "scoring")
        share = max(1, len(split) // distributed.world_size())

        def on_block(rows: int) -> None:
            progress(rows, share, None)
            if self.request.number:
                raise Interrupted(self.request.number)

        with clear_when_full(path):
            self._fill(model, split, path, on_block)
        store = Store.open(path)
        store.require_complete()
        return store

    def _fill(self, model: nn.Module, split: Split, path: Path, on_block: Callable[[int], None]) -> None:
        # A process that was asked to stop waits for the others, so that all of them stop, or none.
        with suppress(Interrupted):
            score(
                model,
                split,
                path,
                batch_size=EVALUATION_BATCH,
                device=self.engine.device,
                reference_name=self.settings.model.name if self.settings.model is not None else "reference",
                weights_hash=weights_hash(bare(model)),
                preprocessing=preprocessing(model),
                command=shlex.join(["guidestar", *sys.argv[1:]]),
                rank=distributed.rank(),
                world=distributed.world_size(),
                progress=False,
                on_block=on_block,
                precision=self.loaded.recipe.training.precision,
                workers=self.loaded.recipe.data.workers,
            )
        number = self.request.agreed(self.engine.device)
        if number:
            raise Interrupted(number)

    def _folder(self, seed: int) -> Path:
        return self.folder / f"seed-{seed}" if self.settings.fit is not None else self.folder / f"labels-{seed}"

    def _fit(self, model: nn.Module, seed: int, data: SeedData, target: Path) -> None:
        fit = self.settings.fit
        if fit is None or data.reference is None or self.settings.model is None:
            raise UserError("`reference.fit` is needed to fit a reference. Found none.")
        recipe = self.loaded.recipe
        training = TrainingSettings(
            epochs=fit.epochs,
            batch_size=min(fit.batch_size, len(data.reference)),
            lr=fit.lr,
            weight_decay=fit.weight_decay,
            precision=recipe.training.precision,
            evaluate_every=fit.epochs,
            checkpoint_every=recipe.training.checkpoint_every,
            tracker=recipe.training.tracker,
        )
        own = replace(
            self.loaded, recipe=recipe.model_copy(update={"model": self.settings.model, "training": training})
        )
        rows = SeedData(data.reference, None, None, data.test)
        folder = target.parent
        job = Job(own, "erm", seed, rows, model, None, 0, folder, self.engine)
        try:
            Training(job, resume=True).run(self.request, self.display.begin(f"reference, seed {seed}"))
        except TrainingFailed as error:  # without its reference no strategy can go on
            raise UserError(f"the reference could not be fitted, see `reference.fit`: {error}") from error
        if self.engine.is_main_process:
            with clear_when_full(target):
                save_weights(model, target)
        distributed.barrier()


def bare(model: nn.Module) -> nn.Module:
    """The model without the normalisation around it, which may come from the data."""
    return model.model if isinstance(model, Preprocess) else model


def preprocessing(model: nn.Module) -> dict[str, Any]:
    """The normalisation and size around a model, for a store's record."""
    if not isinstance(model, Preprocess):
        return {}
    return {"mean": model.mean.tolist(), "std": model.std.tolist(), "size": list(model.size) if model.size else None}


def first_says(answer: bool, device: torch.device) -> bool:
    """The first process's answer to a question about files, on every process.

    The others may look a moment later, when the first one has already changed what they look at.
    """
    return bool(distributed.gather(torch.tensor([answer], device=device))[0])
