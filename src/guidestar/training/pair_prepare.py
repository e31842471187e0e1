"""From a recipe of pairs and a seed to the data of a run, its tokenizer and its models."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from guidestar import distributed
from guidestar.data.pairs.load import load_pairs
from guidestar.data.pairs.mismatch import mismatch
from guidestar.data.pairs.protocol import Pairs
from guidestar.errors import UserError
from guidestar.models.pairs import DualEncoder, PairModelSettings, build_dual_encoder, load_tokenizer, train_tokenizer
from guidestar.models.pairs.tokenizer import Tokenizer
from guidestar.training.pair_recipe import PairRecipe
from guidestar.training.recipe_io import LoadedRecipe, pairs

#: The tokenizer learns from at most so many rows; more would hardly change it.
_TOKENIZER_ROWS = 500_000
_SPLIT_SEED = 0


@dataclass(frozen=True)
class PairSplits:
    """The data of a recipe, the same for every seed.

    Attributes:
        train: all training pairs, clean.
        test: the test pairs.
    """

    train: Pairs
    test: Pairs


@dataclass(frozen=True)
class PairSeedData:
    """The data of one seed.

    Attributes:
        train: the target's training pairs, with the captions that it is given.
        moved: which of its rows have another row's captions, bool `[n]`, or None if none has.
        reference: the clean pairs that are set aside for fitting the reference, or None.
        test: the test pairs.
        class_counts: how often each class occurs in all training and test pairs, int64 `[C]`, or None without labels.
    """

    train: Pairs
    moved: Tensor | None
    reference: Pairs | None
    test: Pairs
    class_counts: Tensor | None


def load_splits(loaded: LoadedRecipe) -> PairSplits:
    """Read the data of a recipe.

    Raises:
        UserError: the data break a rule, or there are too few rows for the test set.
        OSError: a file cannot be read.
    """
    data = pairs(loaded.recipe).data
    train = load_pairs(data.train, base=loaded.base, on_error=data.on_error, name="train")
    if data.test is not None:
        names = train.class_names or None
        return PairSplits(
            train, load_pairs(data.test, base=loaded.base, on_error=data.on_error, name="test", class_names=names)
        )
    wanted = data.test_samples if data.test_samples is not None else round((data.test_fraction or 0) * len(train))
    if not 1 <= wanted < len(train):
        raise UserError(
            f"`data.test_{'samples' if data.test_samples else 'fraction'}` asks for {wanted} test rows of the "
            f"{len(train)} in `data.train`; there must be at least one, and at least one that is left."
        )
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(train))
    test, rest = np.sort(order[:wanted]), np.sort(order[wanted:])
    return PairSplits(train.subset(rest), train.subset(test, "test"))


def pair_seed_data(recipe: PairRecipe, splits: PairSplits, seed: int) -> PairSeedData:
    """Set the reference's rows aside, then choose the target's and mismatch some of their captions.

    Fewer `data.train_samples` of the same seed are a part of more.

    Raises:
        UserError: there are not enough rows.
    """
    order = np.random.default_rng(seed).permutation(len(splits.train))
    reference = None
    fit = recipe.reference.fit
    if fit is not None:
        _enough("reference.fit.samples", fit.samples, len(order) - 2, len(splits.train))
        reference, order = splits.train.subset(np.sort(order[: fit.samples]), "reference"), order[fit.samples :]
    wanted = recipe.data.train_samples
    if wanted is not None:
        _enough("data.train_samples", wanted, len(order), len(splits.train))
        order = order[:wanted]
    target = splits.train if len(order) == len(splits.train) else splits.train.subset(np.sort(order))
    moved = None
    if recipe.data.mismatch > 0:
        target, moved = mismatch(target, recipe.data.mismatch, seed)
    if recipe.training.batch_size > len(target):
        raise UserError(
            f"`training.batch_size` must be at most the number of training rows, {len(target)}; found "
            f"{recipe.training.batch_size}."
        )
    return PairSeedData(target, moved, reference, splits.test, _class_counts(splits))


def _class_counts(splits: PairSplits) -> Tensor | None:
    labels = [split.labels for split in (splits.train, splits.test) if split.labels is not None]
    return torch.bincount(torch.cat(labels), minlength=len(splits.test.class_names)) if labels else None


def run_tokenizer(recipe: PairRecipe, splits: PairSplits, folder: Path) -> Tokenizer | None:
    """The tokenizer of the built-in models, trained on the training captions, or from the folder of a run that has begun.

    None where neither model needs one.
    """
    models = [recipe.model, recipe.reference.model]
    if not any(model is not None and not model.brings_tokenizer for model in models):
        return None
    own = folder / "tokenizer"
    begun = own.is_dir() and (any(folder.glob("seed-*")) or (folder / "reference").is_dir())
    if distributed.rank() == 0 and not begun:
        train = splits.train
        step = -(-len(train) // _TOKENIZER_ROWS)
        captions = (caption for row in range(0, len(train), step) for caption in train.captions(row))
        train_tokenizer(captions, recipe.tokenizer.vocabulary, recipe.tokenizer.length).save(own)
    distributed.barrier()
    return load_tokenizer(own)


def pair_target(recipe: PairRecipe, loaded: LoadedRecipe, tokenizer: Tokenizer | None, seed: int) -> DualEncoder:
    """The target with the random weights of `seed`, the same for every strategy."""
    model = recipe.model
    if model.name.startswith("transformers:") and "pretrained" not in model.options:
        # A target is trained from scratch unless the recipe says otherwise; finetune starts from the reference.
        model = model.model_copy(update={"options": {**model.options, "pretrained": False}})
    return _build(loaded, model, tokenizer, seed)


def pair_reference(recipe: PairRecipe, loaded: LoadedRecipe, tokenizer: Tokenizer | None, seed: int) -> DualEncoder:
    """The reference's architecture, with its own tokenizer where the recipe names one.

    Raises:
        UserError: the recipe has no reference model.
    """
    settings = recipe.reference
    if settings.model is None:
        raise UserError("`reference.model` is needed to run the reference; the recipe has none.")
    if settings.tokenizer is not None:
        tokenizer = load_tokenizer(loaded.resolve(settings.tokenizer))
    return _build(loaded, settings.model, tokenizer, seed)


def _build(loaded: LoadedRecipe, model: PairModelSettings, tokenizer: Tokenizer | None, seed: int) -> DualEncoder:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build_dual_encoder(model, tokenizer=None if model.brings_tokenizer else tokenizer, base=loaded.base)


def _enough(key: str, wanted: int, there: int, rows: int) -> None:
    if wanted > there:
        raise UserError(
            f"`{key}` is {wanted}, and {there} rows are left for it of the {rows} in `data.train`. Ask for fewer."
        )
