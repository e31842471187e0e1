"""The sections of a recipe of image-text pairs: data, model, reference, training, selection and evaluation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from guidestar.data.pairs.settings import PairSource
from guidestar.models.pairs.settings import PairModelSettings
from guidestar.steering.settings import Settings
from guidestar.training.recipe_sections import TrainingSettings


class PairDataSettings(Settings):
    """Where the pairs come from, and what is done to them before and during training.

    Example:
        >>> source = {"source": "function", "function": "pairs.py:load"}
        >>> PairDataSettings.model_validate({"train": source, "test_samples": 100}).mismatch
        0.0
    """

    train: PairSource = Field(description="The training pairs: a source and its keys.")
    test: PairSource | None = Field(
        default=None, description="The test pairs; or give `data.test_fraction` or `data.test_samples`."
    )
    test_fraction: float | None = Field(
        default=None, gt=0, lt=1, description="The share of `data.train` that is set aside as test pairs, in (0, 1)."
    )
    test_samples: int | None = Field(
        default=None, ge=1, description="The number of rows of `data.train` that are set aside as test pairs."
    )
    train_samples: int | None = Field(
        default=None, ge=1, description="The number of rows that the target trains on; null: all that is left."
    )
    mismatch: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="The share of the target's training rows whose captions are exchanged among each other, in [0, 1]; "
        "for controlled experiments.",
    )
    captions: Literal["random", "first"] = Field(
        default="random", description="Which caption of a row is trained on: one at random each time, or the first."
    )
    crop: Literal["center", "random", "squash"] = Field(
        default="center", description="How a training picture becomes a square: centre crop, random crop, or squashed."
    )
    flip: bool = Field(default=False, description="Whether training pictures are mirrored at random.")
    cache: bool = Field(
        default=False,
        description="Keep the decoded pictures in memory at the model's size (3 x size x size bytes each).",
    )
    groups: Literal["none", "label", "caption"] = Field(
        default="none",
        description="Rows of a batch that are no negatives of each other: those of the same label or caption, or none.",
    )
    on_error: Literal["raise", "skip"] = Field(
        default="raise", description="What to do with an unreadable sample: stop, or replace, count and log it."
    )
    workers: int = Field(default=0, ge=0, description="Processes that load data beside the training process.")

    @model_validator(mode="after")
    def _consistent(self) -> PairDataSettings:
        given = [key for key in ("test", "test_fraction", "test_samples") if getattr(self, key) is not None]
        names = ", ".join(f"`data.{key}`" for key in given)
        if len(given) != 1:
            raise ValueError(
                "exactly one of `data.test`, `data.test_fraction` and `data.test_samples` must be given; found "
                f"{names or 'none'}"
            )
        return self


class PairFitSettings(Settings):
    """How to train the reference here, on clean pairs that are set aside from the training data.

    Example:
        >>> PairFitSettings(samples=2500).epochs
        20
    """

    samples: int = Field(ge=2, description="The number of rows set aside from `data.train` for the reference.")
    epochs: int = Field(default=20, ge=1, description="Passes over the reference's rows.")
    lr: float = Field(default=1e-3, gt=0, description="The reference's learning rate.")
    batch_size: int = Field(default=256, ge=2, description="Pairs in a mini-batch of the reference.")
    weight_decay: float = Field(default=1e-4, ge=0, description="The reference's weight decay.")


class PairReferenceSettings(Settings):
    """The reference of pairs, or its embeddings.

    Example:
        >>> PairReferenceSettings(store="store").has_model
        False
    """

    model: PairModelSettings | None = Field(
        default=None, description="The reference model; not needed beside a finished store."
    )
    weights: str | None = Field(default=None, description="The reference's weights: a safetensors file.")
    tokenizer: str | None = Field(
        default=None,
        description="The folder of the tokenizer that `reference.weights` were trained with; null: the run's own.",
    )
    store: str | None = Field(default=None, description="A finished store of the reference's embeddings.")
    fit: PairFitSettings | None = Field(
        default=None, description="Train the reference here, on rows set aside from `data.train`."
    )
    scoring: Literal["store", "online"] = Field(
        default="store", description="store: embed every pair once, before training; online: at every step."
    )

    @property
    def has_model(self) -> bool:
        """Whether there is a reference that can be run, not just a store of its embeddings."""
        return self.model is not None and (
            self.weights is not None or self.fit is not None or self.model.brings_weights
        )

    @property
    def given(self) -> bool:
        """Whether there is any reference at all."""
        return self.has_model or self.store is not None

    @model_validator(mode="after")
    def _possible(self) -> PairReferenceSettings:
        problems = []
        for first, second in (("fit", "weights"), ("fit", "store")):
            if getattr(self, first) is not None and getattr(self, second) is not None:
                problems.append(f"`reference.{first}` and `reference.{second}` are both given; keep one of them")
        if self.scoring == "online" and self.store is not None:
            problems.append("`reference.scoring: online` and `reference.store` are both given; keep one of them")
        for key in ("weights", "fit"):
            if getattr(self, key) is not None and self.model is None:
                problems.append(f"`reference.{key}` needs `reference.model`: give the model's name and options")
        if self.tokenizer is not None and self.weights is None:
            problems.append("`reference.tokenizer` belongs to `reference.weights`, which are not given")
        if problems:
            raise ValueError("\n".join(problems))
        return self


class PairTrainingSettings(TrainingSettings):
    """How the target of pairs is trained; the same for every strategy.

    Example:
        >>> PairTrainingSettings().batch_size
        256
    """

    batch_size: int = Field(
        default=256, ge=2, description="Pairs in a mini-batch: each is contrasted with the others of its batch."
    )
    chunk: int | None = Field(
        default=None,
        ge=1,
        description="Pairs that go through the model at a time; less memory, the same gradient, one more forward pass. "
        "null: the whole mini-batch.",
    )
    checkpoint_gradients: bool = Field(
        default=False, description="Recompute the towers' inner values in the backward pass, for less memory."
    )
    freeze: Literal["image", "text"] | None = Field(
        default=None, description="A tower whose weights stay as they start (LiT: image); null: none."
    )
    ema: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="The decay of an average of the weights, which is what is evaluated and saved; null: no average.",
    )
    objective_lr: float | None = Field(
        default=None,
        gt=0,
        description="The learning rate of the objective's own parameters (a temperature); null: that of the model.",
    )

    @model_validator(mode="after")
    def _chunk_fits(self) -> PairTrainingSettings:
        if self.chunk is not None and self.chunk > self.batch_size:
            raise ValueError(
                f"`training.chunk` must be at most `training.batch_size`, found {self.chunk} and {self.batch_size}"
            )
        return self


class HeadSettings(Settings):
    """A head on each tower of the reference, which is all that is trained.

    Example:
        >>> HeadSettings().hidden is None
        True
    """

    width: int | None = Field(default=None, ge=1, description="The width of the embeddings; null: the reference's.")
    hidden: int | None = Field(default=None, ge=1, description="The width of a hidden layer; null: the head is linear.")


class JestSettings(Settings):
    """The joint selection of the strategy jest.

    Example:
        >>> JestSettings().chunks
        4
    """

    fraction: float = Field(
        default=0.25, gt=0, le=1, description="The share of a larger batch that is trained on, in (0, 1]."
    )
    chunks: int = Field(default=4, ge=1, description="Steps in which a batch is put together.")


class PairEvaluationSettings(Settings):
    """What is measured beside zero-shot classification and retrieval.

    Example:
        >>> PairEvaluationSettings().probe
        False
    """

    templates: Annotated[tuple[str, ...], Field(strict=False)] = Field(
        default=("a photo of a {}.",),
        min_length=1,
        description="The prompts of zero-shot classification; {}: the class.",
    )
    classes: int | None = Field(
        default=None,
        ge=2,
        description="Zero-shot classification among so many classes, the most frequent ones; null: all.",
    )
    probe: bool = Field(
        default=False, description="Whether a linear probe and nearest neighbours are fitted on the last features."
    )
    probe_samples: int = Field(
        default=10_000, ge=10, description="The largest number of training rows that a probe is fitted on."
    )
    queries: int = Field(default=6, ge=0, description="Queries of each direction in the report's gallery; 0: none.")

    @field_validator("templates")
    @classmethod
    def _with_a_place(cls, templates: tuple[str, ...]) -> tuple[str, ...]:
        wrong = [template for template in templates if "{}" not in template]
        if wrong:
            raise ValueError(f"must each have {{}} where the class goes, found {wrong[0]!r}")
        return templates
