"""Classification as a run sees it: splits, models, and a store of losses and logits."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import Tensor, nn

from guidestar import distributed
from guidestar.evaluation.metrics import evaluate
from guidestar.models.preprocess import Preprocess
from guidestar.models.weights import weights_hash
from guidestar.reference.joined import StoredReference
from guidestar.reference.live import LiveReference
from guidestar.reference.score import score
from guidestar.reference.store import Store
from guidestar.training.batches import EVALUATION_BATCH, evaluation_batches
from guidestar.training.classification import ClassificationStepper
from guidestar.training.outputs import write_weights
from guidestar.training.prepare import (
    SeedData,
    load_source,
    processor,
    reference_model,
    seed_data,
    target_model,
)
from guidestar.training.recipe import STRATEGIES, Recipe
from guidestar.training.recipe_io import LoadedRecipe, classification
from guidestar.training.recipe_sections import TrainingSettings
from guidestar.training.steppers import Stepper


class ClassificationTask:
    """A recipe of classification with its data.

    Args:
        loaded: the recipe.
        engine: where models run.
        folder: the run's folder.

    Raises:
        UserError: the data break a rule or the recipe asks for what they cannot give.
        OSError: a file cannot be read.
    """

    order: tuple[str, ...] = STRATEGIES
    asking: tuple[str, ...] = ("distill", "select", "steer", "steer+distill")
    with_reference: tuple[str, ...] = ("as_is", "finetune", *asking)

    def __init__(self, loaded: LoadedRecipe, engine: Accelerator, folder: Path) -> None:
        self.loaded = loaded
        self.engine = engine
        self.folder = folder
        self.recipe = classification(loaded.recipe)
        self.source = load_source(loaded)

    def seed_data(self, seed: int) -> SeedData:
        """The data of a seed."""
        return seed_data(self.loaded, self.source, seed)

    def target(self, strategy: str, seed: int, reference: Callable[[], nn.Module]) -> nn.Module:
        """Random weights, or the reference's for finetune."""
        return reference() if strategy == "finetune" else target_model(self.loaded, self.source, seed)

    def reference(self, seed: int) -> nn.Module:
        """The reference's architecture."""
        return reference_model(self.loaded, self.source, seed)

    def empty(self, strategy: str, seed: int) -> nn.Module:
        """The model that the saved weights of a strategy are loaded into."""
        build = reference_model if strategy == "finetune" else target_model
        return build(self.loaded, self.source, seed)

    def fit_data(self, data: SeedData) -> SeedData:
        """The reference's rows as training data."""
        return replace(data, train=data.reference or data.train, true_labels=None, reference=None)

    def fit_recipe(self) -> Recipe:
        """The recipe with the reference as its target."""
        recipe, reference = self.recipe, self.recipe.reference
        if reference.fit is None or reference.model is None:
            raise TypeError("`reference.fit` and `reference.model` must be given to fit a reference. Found none.")
        fit = reference.fit
        training = TrainingSettings(
            epochs=fit.epochs,
            batch_size=min(fit.batch_size, fit.samples),
            lr=fit.lr,
            weight_decay=fit.weight_decay,
            precision=recipe.training.precision,
            evaluate_every=fit.epochs,
            checkpoint_every=recipe.training.checkpoint_every,
            tracker=recipe.training.tracker,
        )
        return recipe.model_copy(update={"model": reference.model, "training": training})

    def evaluate(self, model: nn.Module, data: SeedData, *, last: bool = True) -> dict[str, float]:
        """Accuracy and the like on the test data."""
        return evaluate(model, evaluation_batches(data.test), self.engine.device)

    def example(self, model: nn.Module, data: SeedData, count: int) -> tuple[Tensor, ...]:
        """The first training inputs."""
        return (data.train.__getitems__(list(range(min(count, len(data.train)))))[0],)

    def remarks(self, metrics: dict[str, float], data: SeedData) -> Iterator[str]:
        """A reference that has learnt nothing."""
        commonest = float(data.test.labels.bincount().max() / len(data.test))
        if metrics["accuracy"] <= commonest:
            yield (
                f"the reference's accuracy is no better than that of always answering the commonest class, "
                f"{100 * commonest:.1f} %: check its weights, its normalisation and the order of the classes."
            )

    def notes(self) -> Iterator[str]:
        """What is guessed about the reference."""
        settings = self.recipe.reference
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

    def live(self, model: nn.Module, data: SeedData) -> LiveReference:
        """A reference that is asked while a target trains."""
        return LiveReference(model, self.recipe.training.precision, self.engine.device)

    def stored(self, path: Path, data: SeedData, model: nn.Module | None) -> StoredReference:
        """A reference whose answers are in a store."""
        expect: dict[str, object] = {"classes": data.train.num_classes}
        if model is not None:
            expect["weights"] = weights_hash(bare(model))
        store = Store.open(path, expect=expect)
        store.require_complete()
        return StoredReference(store, data.train)

    def own_store(self, data: SeedData) -> bool:
        """The seeds' references or labels differ."""
        return self.recipe.reference.fit is not None or data.true_labels is not None

    def fill(self, model: nn.Module, data: SeedData, path: Path, on_rows: Callable[[int], None]) -> None:
        """Write the reference's losses and logits."""
        reference = self.recipe.reference
        score(
            model,
            data.train if self.own_store(data) else self.source.train,
            path,
            batch_size=EVALUATION_BATCH,
            device=self.engine.device,
            reference_name=reference.model.name if reference.model is not None else "reference",
            weights_hash=weights_hash(bare(model)),
            preprocessing=preprocessing(model),
            command=shlex.join(["guidestar", *sys.argv[1:]]),
            rank=distributed.rank(),
            world=distributed.world_size(),
            progress=False,
            on_block=on_rows,
            precision=self.recipe.training.precision,
            workers=self.recipe.data.workers,
        )

    def rows_to_score(self, data: SeedData) -> int:
        """How many rows `fill` writes."""
        return len(data.train if self.own_store(data) else self.source.train)

    def open_store(self, path: Path, data: SeedData) -> Store:
        """A store that was filled."""
        store = Store.open(path)
        store.require_complete()
        return store

    def leave(self, folder: Path, model: nn.Module, stepper: Stepper | None, data: SeedData, *, first: bool) -> None:
        """The weights that samples got."""
        if isinstance(stepper, ClassificationStepper):
            write_weights(folder, stepper.weights, data)


def bare(model: nn.Module) -> nn.Module:
    """The model without the normalisation around it, which may come from the data."""
    return model.model if isinstance(model, Preprocess) else model


def preprocessing(model: nn.Module) -> dict[str, Any]:
    """The normalisation and size around a model, for a store's record."""
    if not isinstance(model, Preprocess):
        return {}
    return {"mean": model.mean.tolist(), "std": model.std.tolist(), "size": list(model.size) if model.size else None}
