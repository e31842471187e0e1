"""From a recipe and a seed to the data of a run: what the target trains on, what the reference may, and the test data."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from guidestar.data.corrupt import label_noise, long_tail, stratified_rows
from guidestar.data.sources import load_pair
from guidestar.data.split import Split
from guidestar.data.statistics import mean_std
from guidestar.errors import UserError
from guidestar.models.load import build_model
from guidestar.models.preprocess import Preprocess
from guidestar.training.recipe_io import LoadedRecipe, classification
from guidestar.training.recipe_sections import ModelSettings


@dataclass(frozen=True)
class Source:
    """The data of a recipe, the same for every seed.

    Attributes:
        train: all training rows, clean.
        test: the test rows.
        mean, std: statistics of the training inputs, by channel or column.
    """

    train: Split
    test: Split
    mean: list[float]
    std: list[float]


@dataclass(frozen=True)
class SeedData:
    """The data of one seed.

    Attributes:
        train: the target's training rows with the labels that it is given.
        true_labels: their labels before the label noise, or None if there is none.
        reference: the clean rows that are set aside for fitting the reference, or None.
        test: the test rows.
    """

    train: Split
    true_labels: Tensor | None
    reference: Split | None
    test: Split


def load_source(loaded: LoadedRecipe) -> Source:
    """Read the data of a recipe.

    Raises:
        UserError: the data break a rule or the recipe asks for what they cannot give.
        OSError: a file cannot be read.
    """
    data = classification(loaded.recipe).data
    train, test = load_pair(
        data.train, data.test, base=loaded.base, test_fraction=data.test_fraction, on_error=data.on_error
    )
    if data.augment != "none" and train.kind != "image":
        raise UserError(f"`data.augment` is {data.augment}, which is for images; the data are of kind {train.kind!r}.")
    if getattr(train, "encoder", None) is not None:
        return Source(train, test, [0.0], [1.0])  # a table that was encoded is standardised, its one-hot columns stay
    return Source(train, test, *mean_std(train))


def seed_data(loaded: LoadedRecipe, source: Source, seed: int) -> SeedData:
    """Set the reference's rows aside, then choose, thin out and corrupt the target's.

    Raises:
        UserError: there are not enough rows.
    """
    recipe = classification(loaded.recipe)
    train, labels = source.train, source.train.labels
    rows = torch.arange(len(train))
    reference = None
    fit = recipe.reference.fit
    if fit is not None:
        _enough("reference.fit.samples", fit.samples, len(rows) - 1, train)
        own = stratified_rows(labels, fit.samples, seed)
        reference = train.subset(own, "reference")
        rows = rows[~torch.isin(rows, own)]
    wanted = recipe.data.train_samples
    if wanted is not None:
        _enough("data.train_samples", wanted, len(rows), train)
        rows = rows[stratified_rows(labels[rows], wanted, seed)]
    if recipe.data.imbalance > 1:
        rows = rows[long_tail(labels[rows], recipe.data.imbalance, train.num_classes, seed)]
    target = train.subset(rows)
    true_labels = None
    if recipe.data.label_noise > 0:
        true_labels = target.labels
        target = target.with_labels(label_noise(true_labels, recipe.data.label_noise, train.num_classes, seed))
    size = recipe.training.batch_size
    if size > len(target):
        raise UserError(
            f"`training.batch_size` must be at most the number of training rows, {len(target)}; found {size}."
        )
    return SeedData(target, true_labels, reference, source.test)


def target_model(loaded: LoadedRecipe, source: Source, seed: int) -> nn.Module:
    """The target with the random weights of `seed`, the same for every strategy; it normalises its own inputs."""
    model = classification(loaded.recipe).model
    if model.name.startswith("transformers:") and "pretrained" not in model.options:
        # A target is trained from scratch; what starts from trained weights is the strategy finetune.
        model = model.model_copy(update={"options": {**model.options, "pretrained": False}})
    return _build(loaded, model, source, seed, source.mean, source.std, None)


def reference_model(loaded: LoadedRecipe, source: Source, seed: int) -> nn.Module:
    """The reference's architecture with its own normalisation and image size.

    Raises:
        UserError: the recipe has no reference model.
    """
    settings = classification(loaded.recipe).reference
    if settings.model is None:
        raise UserError("`reference.model` is needed to run the reference; the recipe has none.")
    own = processor(loaded, settings.model)
    mean = list(settings.mean) if settings.mean is not None else own.get("mean", source.mean)
    std = list(settings.std) if settings.std is not None else own.get("std", source.std)
    return _build(loaded, settings.model, source, seed, mean, std, settings.image_size or own.get("size"))


def processor(loaded: LoadedRecipe, model: ModelSettings) -> dict[str, Any]:
    """What a Transformers folder says about its model's inputs: `mean`, `std`, `size`; empty for other models.

    Raises:
        UserError: the folder's preprocessor_config.json is not JSON.
    """
    origin, _, folder = model.name.partition(":")
    path = loaded.resolve(folder) / "preprocessor_config.json"
    if origin != "transformers" or not path.is_file():
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"`reference.model`: {path} is not JSON ({error}).") from error
    found: dict[str, Any] = {}
    if config.get("do_normalize", True) and "image_mean" in config and "image_std" in config:
        found = {"mean": config["image_mean"], "std": config["image_std"]}
    size = config.get("crop_size") or config.get("size")
    if isinstance(size, dict) and isinstance(size.get("height"), int):
        found["size"] = size["height"]
    return found


def _build(
    loaded: LoadedRecipe,
    model: ModelSettings,
    source: Source,
    seed: int,
    mean: list[float],
    std: list[float],
    size: int | None,
) -> nn.Module:
    shape = source.train.input_shape
    if size is not None:
        shape = (shape[0], size, size)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        built = build_model(model, shape, source.train.num_classes, base=loaded.base)
    return Preprocess(built, mean, std, size)


def _enough(key: str, wanted: int, there: int, train: Split) -> None:
    if wanted > there:
        raise UserError(
            f"`{key}` is {wanted}, and {there} rows are left for it of the {len(train)} in `data.train`. Ask for fewer."
        )
