"""Image-text pairs as a run sees them: splits, two-tower models, and a store of embeddings."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from guidestar import distributed
from guidestar.data.pairs.batches import PairDataset
from guidestar.files import write_json
from guidestar.models.pairs import DualEncoder, initialise_from
from guidestar.models.weights import weights_hash
from guidestar.reference.embeddings import EmbeddingStore, LiveEmbeddings, StoredEmbeddings, score_pairs
from guidestar.training.batches import EVALUATION_BATCH
from guidestar.training.pair_evaluation import PairEvaluation
from guidestar.training.pair_head import HeadedEncoder
from guidestar.training.pair_prepare import (
    PairSeedData,
    load_splits,
    pair_reference,
    pair_seed_data,
    pair_target,
    run_tokenizer,
)
from guidestar.training.pair_recipe import PAIR_STRATEGIES, PairRecipe
from guidestar.training.pair_sections import HeadSettings, PairTrainingSettings
from guidestar.training.recipe_io import LoadedRecipe, pairs
from guidestar.training.steppers import Stepper

_ASKING = ("distill", "select", "jest", "steer", "steer+distill", "steer_init")


class PairTask:
    """A recipe of pairs with its data and its tokenizer.

    Args:
        loaded: the recipe.
        engine: where models run.
        folder: the run's folder, which gets the tokenizer.

    Raises:
        UserError: the data break a rule or the recipe asks for what they cannot give.
        OSError: a file cannot be read.
    """

    order: tuple[str, ...] = PAIR_STRATEGIES
    with_reference: tuple[str, ...] = ("as_is", "finetune", *_ASKING)

    def __init__(self, loaded: LoadedRecipe, engine: Accelerator, folder: Path) -> None:
        self.loaded = loaded
        self.engine = engine
        self.folder = folder
        self.recipe = pairs(loaded.recipe)
        # A head is trained on what the reference says, whatever the strategy.
        self.asking: tuple[str, ...] = _ASKING if self.recipe.head is None else PAIR_STRATEGIES
        self.source = load_splits(loaded)
        self.tokenizer = run_tokenizer(self.recipe, self.source, folder)

    def seed_data(self, seed: int) -> PairSeedData:
        """The data of a seed."""
        return pair_seed_data(self.recipe, self.source, seed)

    def target(self, strategy: str, seed: int, reference: Callable[[], nn.Module]) -> DualEncoder:
        """Random weights, or the reference's where a strategy starts from them; frozen as the recipe says."""
        settings = self.recipe.training
        if self.recipe.head is not None:
            model = self._headed(cast(DualEncoder, reference()), seed)
        elif strategy == "finetune":
            model = cast(DualEncoder, reference())
        else:
            model = pair_target(self.recipe, self.loaded, self.tokenizer, seed)
        if strategy == "steer_init":
            initialise_from(model, reference().state_dict())
        if strategy == "siglip":
            model.init_siglip()
        if settings.freeze is not None:
            model.freeze(settings.freeze)
        if settings.checkpoint_gradients:
            model.checkpoint_gradients()
        return model

    def reference(self, seed: int) -> DualEncoder:
        """The reference's architecture."""
        return pair_reference(self.recipe, self.loaded, self.tokenizer, seed)

    def empty(self, strategy: str, seed: int) -> DualEncoder:
        """The model that the saved weights of a strategy are loaded into."""
        if self.recipe.head is not None:
            return self._headed(self.reference(seed), seed)
        build = pair_reference if strategy == "finetune" else pair_target
        return build(self.recipe, self.loaded, self.tokenizer, seed)

    def _headed(self, reference: DualEncoder, seed: int) -> DualEncoder:
        head = self.recipe.head or HeadSettings()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return HeadedEncoder(reference, width=head.width, hidden=head.hidden)

    def fit_data(self, data: PairSeedData) -> PairSeedData:
        """The reference's rows as training data."""
        return replace(data, train=data.reference or data.train, moved=None, reference=None)

    def fit_recipe(self) -> PairRecipe:
        """The recipe with the reference as its target."""
        recipe, reference = self.recipe, self.recipe.reference
        if reference.fit is None or reference.model is None:
            raise TypeError("`reference.fit` and `reference.model` must be given to fit a reference. Found none.")
        fit = reference.fit
        training = PairTrainingSettings(
            epochs=fit.epochs,
            batch_size=min(fit.batch_size, fit.samples),
            lr=fit.lr,
            weight_decay=fit.weight_decay,
            precision=recipe.training.precision,
            evaluate_every=fit.epochs,
            checkpoint_every=recipe.training.checkpoint_every,
            tracker=recipe.training.tracker,
        )
        evaluation = recipe.evaluate.model_copy(update={"probe": False})
        return recipe.model_copy(
            update={"model": reference.model, "training": training, "evaluate": evaluation, "head": None}
        )

    def evaluate(self, model: nn.Module, data: PairSeedData, *, last: bool = True) -> dict[str, float]:
        """Retrieval and zero-shot classification on the test pairs."""
        return self._evaluation(data).metrics(cast(DualEncoder, model), last=last)

    def example(self, model: nn.Module, data: PairSeedData, count: int) -> tuple[Tensor, ...]:
        """The first training pictures and captions."""
        towers = cast(DualEncoder, model)
        dataset = PairDataset(
            data.train,
            size=towers.size,
            tokenizer=towers.tokenizer,
            captions="first",
            on_error=self.recipe.data.on_error,
        )
        batch = dataset.__getitems__((0, list(range(min(count, len(data.train))))))
        return batch.images, batch.tokens

    def remarks(self, metrics: dict[str, float], data: PairSeedData) -> Iterator[str]:
        """A reference that finds nothing."""
        found, chance = metrics["image_to_text_r10"], 10 / len(data.test)
        if found <= chance:
            yield (
                f"the reference finds the caption of {100 * found:.1f} % of the test images among the nearest 10, which is "
                "no better than chance: check its weights, its tokenizer and its normalisation."
            )

    def notes(self) -> Iterator[str]:
        """Whose weights the reference has."""
        settings = self.recipe.reference
        if settings.model is not None and settings.model.brings_weights and settings.weights is None:
            yield f"the reference {settings.model.name} is used as it comes; no `reference.weights` are loaded into it."

    def live(self, model: nn.Module, data: PairSeedData) -> LiveEmbeddings:
        """A reference that is asked while a target trains."""
        precision = self.recipe.training.precision
        return LiveEmbeddings(cast(DualEncoder, model), data.train, precision, self.engine.device)

    def stored(self, path: Path, data: PairSeedData, model: nn.Module | None) -> StoredEmbeddings:
        """A reference whose embeddings are in a store."""
        expect: dict[str, object] = {}
        if isinstance(model, DualEncoder):
            expect = {
                "weights": weights_hash(model),
                "width": model.width,
                "tokenizer": model.tokenizer.fingerprint(),
            }
        store = EmbeddingStore.open(path, expect=expect)
        store.require_complete(data.train)
        return StoredEmbeddings(store, data.train)

    def own_store(self, data: PairSeedData) -> bool:
        """The seeds' references or captions differ."""
        return self.recipe.reference.fit is not None or data.moved is not None

    def fill(self, model: nn.Module, data: PairSeedData, path: Path, on_rows: Callable[[int], None]) -> None:
        """Write the reference's embeddings."""
        reference = self.recipe.reference
        score_pairs(
            cast(DualEncoder, model),
            data.train if self.own_store(data) else self.source.train,
            path,
            batch_size=EVALUATION_BATCH,
            device=self.engine.device,
            precision=self.recipe.training.precision,
            weights_hash=weights_hash(model),
            reference_name=reference.model.name if reference.model is not None else "reference",
            rank=distributed.rank(),
            world=distributed.world_size(),
            on_part=on_rows,
            workers=self.recipe.data.workers,
            on_error=self.recipe.data.on_error,
            command=shlex.join(["guidestar", *sys.argv[1:]]),
            progress=False,
        )

    def rows_to_score(self, data: PairSeedData) -> int:
        """How many rows `fill` writes."""
        return len(data.train if self.own_store(data) else self.source.train)

    def open_store(self, path: Path, data: PairSeedData) -> EmbeddingStore:
        """A store that was filled."""
        store = EmbeddingStore.open(path)
        store.require_complete()
        return store

    def leave(
        self, folder: Path, model: nn.Module, stepper: Stepper | None, data: PairSeedData, *, first: bool
    ) -> None:
        """A gallery of what the model finds, for the first seed."""
        if first and self.recipe.evaluate.queries:
            write_json(folder / "gallery.json", self._evaluation(data).gallery(cast(DualEncoder, model)))

    def _evaluation(self, data: PairSeedData) -> PairEvaluation:
        return PairEvaluation(self.recipe.data, self.recipe.evaluate, data, self.engine)
