"""The reference of a run: fitted here, loaded, or known only by a store; asked live, or scored once."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from pathlib import Path

from accelerate import Accelerator
from torch import nn

from guidestar import distributed
from guidestar.errors import UserError
from guidestar.models.weights import load_weights, save_weights, weights_hash
from guidestar.reference.joined import StoredReference
from guidestar.reference.live import LiveReference
from guidestar.reference.score import score
from guidestar.reference.store import Store
from guidestar.training.display import Display
from guidestar.training.interrupt import StopRequest
from guidestar.training.job import Job, Reference
from guidestar.training.loop import EVALUATION_BATCH, Training
from guidestar.training.prepare import SeedData, Source, reference_model
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
            if not fitted.is_file():
                self._fit(model, seed, data, fitted)
            load_weights(model, fitted)
        elif self.settings.weights is not None:
            load_weights(model, self.loaded.resolve(self.settings.weights))
        return model.to(self.engine.device)

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
                expect["weights"] = weights_hash(self.model(seed, data))
            store = Store.open(self.loaded.resolve(self.settings.store), expect=expect)
            store.require_complete()
            return StoredReference(store, data.train), 0
        store = self.score(seed, data)
        return StoredReference(store, data.train), len(store)

    def score(self, seed: int, data: SeedData) -> Store:
        """Fill the store of a seed, or open it if it is complete.

        The whole training data are scored once for all seeds; only where seeds differ in their reference or labels is
        the target's own part scored for each.
        """
        own = self.settings.fit is not None or data.true_labels is not None
        path = (self._folder(seed) if own else self.folder) / "store"
        model = self.model(seed, data)
        split = data.train if own else self.source.train
        progress = self.display.begin(f"scoring, seed {seed}" if own else "scoring")
        share = max(1, len(split) // distributed.world_size())
        store = score(
            model,
            split,
            path,
            batch_size=EVALUATION_BATCH,
            device=self.engine.device,
            reference_name=self.settings.model.name if self.settings.model is not None else "reference",
            weights_hash=weights_hash(model),
            command=shlex.join(["guidestar", *sys.argv[1:]]),
            rank=distributed.rank(),
            world=distributed.world_size(),
            progress=False,
            on_block=lambda rows: progress(rows, share, None),
            precision=self.loaded.recipe.training.precision,
            workers=self.loaded.recipe.data.workers,
        )
        distributed.barrier()
        store = Store.open(path)
        store.require_complete()
        return store

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
        )
        own = replace(
            self.loaded, recipe=recipe.model_copy(update={"model": self.settings.model, "training": training})
        )
        rows = SeedData(data.reference, None, None, data.test)
        folder = target.parent
        job = Job(own, "erm", seed, self.source, rows, model, None, 0, folder, self.engine)
        Training(job, resume=True).run(self.request, self.display.begin(f"reference, seed {seed}"))
        if self.engine.is_main_process:
            save_weights(self.engine.unwrap_model(model), target)
        distributed.barrier()
