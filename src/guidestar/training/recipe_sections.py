"""The sections of a recipe: data, model, reference, training and each strategy's settings."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from guidestar.data.sources import FunctionSource, Source
from guidestar.steering.settings import KLSettings, RiskSettings, Settings

BUILT_IN_MODELS = ("mlp", "cnn", "vit", "resnet18")

_Numbers = Annotated[tuple[float, ...], Field(strict=False, min_length=1)]


class DataSettings(Settings):
    """Where the data comes from, and what is done to it before training.

    Example:
        >>> DataSettings.model_validate({"train": {"source": "sklearn_digits"}, "test_fraction": 0.25}).augment
        'none'
    """

    train: Source = Field(description="The training data: a source and its keys.")
    test: Source | None = Field(
        default=None, description="The test data; or give `data.test_fraction`. A function may return both."
    )
    test_fraction: float | None = Field(
        default=None, gt=0, lt=1, description="The share of `data.train` that is set aside as test data, in (0, 1)."
    )
    label_noise: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="The share of the target's training labels that is replaced at random by another class, in [0, 1); "
        "for controlled experiments.",
    )
    imbalance: float = Field(
        default=1.0,
        ge=1,
        description="The ratio between the largest and the smallest class of the target's training data, at least 1.",
    )
    train_samples: int | None = Field(
        default=None,
        ge=1,
        description="The number of rows that the target trains on; null: all that the reference leaves.",
    )
    augment: Literal["none", "flip_crop"] = Field(
        default="none", description="Random changes of the training images; flip_crop: mirror and shift. Images only."
    )
    on_error: Literal["raise", "skip"] = Field(
        default="raise", description="What to do with an unreadable sample: stop, or skip and count it."
    )
    workers: int = Field(default=0, ge=0, description="Processes that load data beside the training process.")

    @model_validator(mode="after")
    def _one_test_set(self) -> DataSettings:
        if self.test is not None and self.test_fraction is not None:
            raise ValueError(
                "`data.test` and `data.test_fraction` are both given; keep the test data of its own (`data.test`) or "
                "the share of the training data (`data.test_fraction`)"
            )
        if self.test is None and self.test_fraction is None and not isinstance(self.train, FunctionSource):
            raise ValueError(
                "`data.test` and `data.test_fraction` are both missing; give test data (`data.test`) or the share of "
                "the training data to set aside (for example `data.test_fraction: 0.25`)"
            )
        return self


class ModelSettings(Settings):
    """A model by name, with its options.

    Example:
        >>> ModelSettings(name="cnn", options={"width": 32}).name
        'cnn'
    """

    name: str = Field(
        description="mlp, cnn, vit, resnet18, package.module:function, timm:NAME or transformers:PATH.",
    )
    options: dict[str, Any] = Field(default_factory=dict, description="Arguments of the model, by name.")

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        module, colon, rest = name.partition(":")
        if name not in BUILT_IN_MODELS and not (module and colon and rest):
            raise ValueError(
                f"must be one of {', '.join(BUILT_IN_MODELS)}, or package.module:function, timm:NAME or "
                f"transformers:PATH, found {name!r}"
            )
        return name

    @property
    def brings_weights(self) -> bool:
        """Whether the model arrives trained: from a Transformers folder, or from a function of the user's own."""
        origin, _, rest = self.name.partition(":")
        if origin == "transformers":
            return bool(self.options.get("pretrained", True))
        return bool(rest) and origin != "timm"

    def same_architecture(self, other: ModelSettings | None) -> bool:
        """Whether weights of one fit the other: the same name and options, however the first weights come about."""
        if other is None or self.name != other.name:
            return False
        if not self.name.startswith("transformers:"):
            return self.options == other.options
        first, second = ({k: v for k, v in m.options.items() if k != "pretrained"} for m in (self, other))
        return first == second


class FitSettings(Settings):
    """How to train the reference here, on clean rows that are set aside from the training data.

    Example:
        >>> FitSettings(samples=200).epochs
        60
    """

    samples: int = Field(ge=1, description="The number of rows set aside from `data.train` for the reference.")
    epochs: int = Field(default=60, ge=1, description="Passes over the reference's rows.")
    lr: float = Field(default=1e-3, gt=0, description="The reference's learning rate.")
    batch_size: int = Field(default=64, ge=1, description="Samples in a mini-batch of the reference.")
    weight_decay: float = Field(default=1e-4, ge=0, description="The reference's weight decay.")


class ReferenceSettings(Settings):
    """The reference model, or what it said about each sample.

    Example:
        >>> ReferenceSettings(store="store").has_model
        False
    """

    model: ModelSettings | None = Field(
        default=None, description="The reference model; not needed beside a finished store."
    )
    weights: str | None = Field(
        default=None,
        description="The reference's weights: a safetensors file, or a torch checkpoint (read as weights only).",
    )
    store: str | None = Field(default=None, description="A finished store of the reference's losses and logits.")
    fit: FitSettings | None = Field(
        default=None, description="Train the reference here, on rows set aside from `data.train`."
    )
    scoring: Literal["store", "online"] = Field(
        default="store", description="store: score every sample once, before training; online: at every step."
    )
    mean: _Numbers | None = Field(
        default=None, description="The mean, per channel, that the reference was trained with; null: the data's."
    )
    std: _Numbers | None = Field(
        default=None,
        description="The standard deviation, per channel, that the reference was trained with; null: the data's.",
    )
    image_size: int | None = Field(
        default=None, ge=1, description="The height and width that the reference wants its images in; null: the data's."
    )

    @property
    def has_model(self) -> bool:
        """Whether there is a reference that can be run, not just a store of what it said."""
        return self.model is not None and (
            self.weights is not None or self.fit is not None or self.model.brings_weights
        )

    @property
    def given(self) -> bool:
        """Whether there is any reference at all."""
        return self.has_model or self.store is not None

    @model_validator(mode="after")
    def _possible(self) -> ReferenceSettings:
        problems = self._clashes()
        for key in ("weights", "fit"):
            if getattr(self, key) is not None and self.model is None:
                problems.append(f"`reference.{key}` needs `reference.model`: give the model's name and options")
        if (self.mean is None) != (self.std is None):
            given, other = ("mean", "std") if self.std is None else ("std", "mean")
            problems.append(f"`reference.{given}` is given without `reference.{other}`; give both or neither")
        if self.mean is not None and self.std is not None:
            if len(self.mean) != len(self.std):
                problems.append(
                    "`reference.mean` and `reference.std` must be of the same length, one number a channel; found "
                    f"{len(self.mean)} and {len(self.std)}"
                )
            if min(self.std) <= 0:
                problems.append(f"`reference.std` must be positive, found {min(self.std)}")
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _clashes(self) -> list[str]:
        clashes = []
        if self.fit is not None and self.weights is not None:
            clashes.append(
                "`reference.fit` and `reference.weights` are both given; train the reference here (`reference.fit`) "
                "or load it (`reference.weights`)"
            )
        if self.fit is not None and self.store is not None:
            clashes.append(
                "`reference.fit` and `reference.store` are both given; a store of another reference says nothing about "
                "the one that is trained here, so keep one of them"
            )
        if self.scoring == "online" and self.store is not None:
            clashes.append(
                "`reference.scoring: online` and `reference.store` are both given; the store would not be used, so "
                "set `reference.scoring: store` or remove `reference.store`"
            )
        return clashes


class TrainingSettings(Settings):
    """How the target is trained; the same for every strategy.

    Example:
        >>> TrainingSettings().epochs
        20
    """

    epochs: int = Field(default=20, ge=1, description="Passes over the training data.")
    steps: int | None = Field(
        default=None, ge=1, description="Optimizer steps; when given, it overrides `training.epochs`."
    )
    batch_size: int = Field(default=128, ge=1, description="Samples in a mini-batch.")
    optimizer: Literal["adamw", "sgd", "adam"] = Field(default="adamw", description="The optimizer, from torch.optim.")
    lr: float = Field(default=1e-3, gt=0, description="The learning rate at its peak.")
    momentum: float = Field(
        default=0.9, ge=0, lt=1, description="The momentum of sgd; the other optimizers don't use it."
    )
    weight_decay: float = Field(default=1e-4, ge=0, description="The weight decay.")
    schedule: Literal["cosine", "constant"] = Field(
        default="cosine", description="The learning rate after the warm-up: down to 0 along half a cosine, or constant."
    )
    warmup_steps: int = Field(
        default=0, ge=0, description="Steps over which the learning rate rises from 0 to its peak."
    )
    precision: Literal["fp32", "bf16"] = Field(default="fp32", description="The precision of the model's arithmetic.")
    clip_grad: float | None = Field(
        default=None, gt=0, description="The largest norm of the gradient; null: not clipped."
    )
    accumulate: int = Field(default=1, ge=1, description="Mini-batches that make up one optimizer step.")
    evaluate_every: int = Field(default=1, ge=1, description="Epochs between two evaluations on the test data.")
    checkpoint_every: int = Field(default=200, ge=1, description="Steps between two checkpoints.")
    keep_checkpoints: int = Field(default=2, ge=1, description="The number of checkpoints that are kept.")
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="Where to train; auto: a GPU if there is one."
    )
    threads: int | None = Field(default=None, ge=1, description="CPU threads of torch; null: torch's own choice.")
    tracker: Literal["tensorboard", "wandb"] | None = Field(
        default=None, description="Also send the metrics to TensorBoard or Weights & Biases."
    )

    @model_validator(mode="after")
    def _warm_up_ends(self) -> TrainingSettings:
        if self.steps is not None and self.warmup_steps >= self.steps:
            raise ValueError(
                "`training.warmup_steps` must be less than `training.steps`, found "
                f"{self.warmup_steps} and {self.steps}"
            )
        return self


class SteerSettings(Settings):
    """The risk of the strategies dro, steer and steer+distill.

    Example:
        >>> SteerSettings().risk.kind
        'kl'
    """

    risk: RiskSettings = Field(
        default=KLSettings(),
        description="The risk, by kind (mean, kl, kl_stages, kl_ball, cvar, top_k, chi_square, spectral), with its keys.",
    )


class DistillSettings(Settings):
    """The logit distillation of the strategies distill and steer+distill.

    Example:
        >>> DistillSettings().temperature
        2.0
    """

    temperature: float = Field(default=2.0, gt=0, description="The temperature of both models' probabilities.")
    weight: float = Field(default=0.5, ge=0, le=1, description="The weight of the distillation term, in [0, 1].")


class SelectSettings(Settings):
    """The selection of the strategy select (RHO-LOSS).

    Example:
        >>> SelectSettings().fraction
        0.1
    """

    fraction: float = Field(
        default=0.1, gt=0, le=1, description="The share of a larger batch that is trained on, in (0, 1]."
    )


class FinetuneSettings(Settings):
    """The strategy finetune.

    Example:
        >>> FinetuneSettings().lr_factor
        0.1
    """

    lr_factor: float = Field(
        default=0.1, gt=0, description="`training.lr` times this is the learning rate of fine-tuning."
    )
