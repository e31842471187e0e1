"""The recipe of image-text pairs (`task: pairs`): contrastive training, as checked and frozen settings."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from guidestar.models.pairs.settings import PairModelSettings, TokenizerSettings
from guidestar.steering.pair_settings import PairObjectiveSettings
from guidestar.training.pair_sections import (
    HeadSettings,
    JestSettings,
    PairDataSettings,
    PairEvaluationSettings,
    PairReferenceSettings,
    PairTrainingSettings,
)
from guidestar.training.recipe import Strategies
from guidestar.training.recipe_common import RunSettings
from guidestar.training.recipe_sections import FinetuneSettings, SelectSettings

PairStrategy = Literal[
    "as_is",
    "erm",
    "siglip",
    "dro",
    "fastclip",
    "finetune",
    "distill",
    "select",
    "jest",
    "steer",
    "steer+distill",
    "steer_init",
]
PAIR_STRATEGIES: tuple[PairStrategy, ...] = get_args(PairStrategy)
_WITHOUT_REFERENCE = ("erm", "siglip", "dro", "fastclip")
_WITH_REFERENCE_MODEL = ("as_is", "finetune", "steer_init")


class PairRecipe(RunSettings):
    """A whole run on image-text pairs. `guidestar.training.recipe_io.load_recipe` reads one from a file.

    Example:
        >>> data = {"train": {"source": "function", "function": "pairs.py:load"}, "test_samples": 100}
        >>> values = {"name": "a", "task": "pairs", "strategies": ["erm"], "data": data, "model": {"name": "dual"}}
        >>> PairRecipe.model_validate(values).resolved_strategies().usable
        ('erm',)
    """

    task: Literal["pairs"] = Field(description="What is trained: an image tower and a text tower, on pairs.")
    strategies: Annotated[tuple[PairStrategy, ...], Field(strict=False)] = Field(
        default=PAIR_STRATEGIES, min_length=1, description="What to compare; by default all that the recipe allows."
    )
    data: PairDataSettings = Field(description="The data.")
    model: PairModelSettings = Field(description="The target: the two towers that are trained.")
    tokenizer: TokenizerSettings = Field(
        default=TokenizerSettings(), description="The tokenizer of the built-in models, trained on the captions."
    )
    reference: PairReferenceSettings = Field(default=PairReferenceSettings(), description="The reference model.")
    head: HeadSettings | None = Field(
        default=None,
        description="Train only a head on each tower of the reference, from its embeddings; `model` is then not used.",
    )
    training: PairTrainingSettings = Field(default=PairTrainingSettings(), description="How the target is trained.")
    objective: PairObjectiveSettings = Field(
        default=PairObjectiveSettings(), description="Temperatures, risks and the distillation of the strategies."
    )
    select: SelectSettings = Field(default=SelectSettings(), description="Settings of select.")
    jest: JestSettings = Field(default=JestSettings(), description="Settings of jest.")
    finetune: FinetuneSettings = Field(default=FinetuneSettings(), description="Settings of finetune.")
    evaluate: PairEvaluationSettings = Field(
        default=PairEvaluationSettings(), description="What is measured on the test pairs."
    )

    @model_validator(mode="after")
    def _head_possible(self) -> PairRecipe:
        if self.head is None:
            return self
        if not self.reference.has_model:
            raise ValueError(
                "`head` needs a reference model to stand on: give `reference.model` and its weights or `fit`"
            )
        for key in ("freeze", "checkpoint_gradients"):
            if getattr(self.training, key):
                raise ValueError(f"`head` and `training.{key}` are both given; a head's towers are frozen anyway")
        if self.data.groups == "caption":
            raise ValueError("`head` is trained without captions at hand: set `data.groups` to label or none")
        return self

    @model_validator(mode="after")
    def _strategies_possible(self) -> PairRecipe:
        needing = [s for s in self.strategies if s not in _WITHOUT_REFERENCE]
        if needing and not self.reference.given and "strategies" in self.model_fields_set:
            raise ValueError(
                f"`strategies` {', '.join(needing)} need a reference, and `reference` has none: give "
                "`reference.weights`, `reference.fit` or `reference.store`, or set `strategies: [erm, dro]`"
            )
        if "strategies" in self.model_fields_set:
            problems = [
                f"`strategies` has {s}, which {reason}" for s in self.strategies if (reason := self._obstacle(s))
            ]
            if problems:
                raise ValueError("\n".join(problems))
        return self

    def _obstacle(self, strategy: PairStrategy) -> str | None:
        """Why this strategy cannot run, or None."""
        if strategy in _WITHOUT_REFERENCE:
            return None
        if not self.reference.given:
            return "needs a reference, and `reference` has none: give `reference.weights` or `reference.fit`"
        if strategy in _WITH_REFERENCE_MODEL and not self.reference.has_model:
            return (
                "needs the reference model itself, and `reference` has only `reference.store`: give `reference.model` and "
                "`reference.weights`, or remove the strategy"
            )
        if strategy in ("finetune", "steer_init") and self.head is not None:
            return "starts from the reference's weights, as every `head` does; remove one of the two"
        if strategy == "finetune" and not self.model.same_architecture(self.reference.model):
            return "needs `model` and `reference.model` to be the same; change one of them, or remove the strategy"
        return None

    def resolved_strategies(self) -> Strategies:
        """The strategies that this recipe can run, and why each other one was left out.

        A strategy that was asked for and cannot run is an error already when the recipe is read; one that only
        stands in the default list is left out here.
        """
        dropped = {s: reason for s in self.strategies if (reason := self._obstacle(s))}
        return Strategies(tuple(s for s in self.strategies if s not in dropped), dropped)
