"""The recipe: everything that a run is made of, as checked and frozen settings."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

from pydantic import Field, model_validator

from guidestar.training.recipe_common import RunSettings
from guidestar.training.recipe_sections import (
    DataSettings,
    DistillSettings,
    FinetuneSettings,
    ModelSettings,
    ReferenceSettings,
    SelectSettings,
    SteerSettings,
    TrainingSettings,
)

Strategy = Literal["as_is", "erm", "dro", "finetune", "distill", "select", "steer", "steer+distill"]
STRATEGIES: tuple[Strategy, ...] = ("as_is", "erm", "dro", "finetune", "distill", "select", "steer", "steer+distill")

_WITHOUT_REFERENCE = ("erm", "dro")
_WITH_REFERENCE_MODEL = ("as_is", "finetune")


class Strategies(NamedTuple):
    """The strategies that can run, and the reason for each that was left out."""

    usable: tuple[str, ...]
    dropped: dict[str, str]


class Recipe(RunSettings):
    """A whole run. `guidestar.training.recipe_io.load_recipe` reads one from a file.

    Example:
        >>> data = {"train": {"source": "sklearn_digits"}, "test_fraction": 0.25}
        >>> recipe = Recipe.model_validate({"name": "a", "strategies": ["erm"], "data": data, "model": {"name": "mlp"}})
        >>> recipe.resolved_strategies()
        Strategies(usable=('erm',), dropped={})
    """

    task: Literal["classification"] = Field(
        default="classification", description="What is trained: classification, or pairs (another set of keys)."
    )
    strategies: Annotated[tuple[Strategy, ...], Field(strict=False)] = Field(
        default=STRATEGIES, min_length=1, description="What to compare; by default all that the recipe allows."
    )
    data: DataSettings = Field(description="The data.")
    model: ModelSettings = Field(description="The target: the model that is trained.")
    reference: ReferenceSettings = Field(default=ReferenceSettings(), description="The reference model.")
    training: TrainingSettings = Field(default=TrainingSettings(), description="How the target is trained.")
    steer: SteerSettings = Field(default=SteerSettings(), description="Settings of dro, steer, steer+distill.")
    distill: DistillSettings = Field(default=DistillSettings(), description="Settings of distill, steer+distill.")
    select: SelectSettings = Field(default=SelectSettings(), description="Settings of select.")
    finetune: FinetuneSettings = Field(default=FinetuneSettings(), description="Settings of finetune.")

    @model_validator(mode="after")
    def _strategies_possible(self) -> Recipe:
        needing = [s for s in self.strategies if s not in _WITHOUT_REFERENCE]
        if needing and not self.reference.given:
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

    def _obstacle(self, strategy: Strategy) -> str | None:
        """Why this strategy cannot run, or None."""
        if strategy in _WITH_REFERENCE_MODEL and not self.reference.has_model:
            return (
                "needs the reference model itself, and `reference` has only `reference.store`: give `reference.model` and "
                "`reference.weights`, or remove the strategy"
            )
        if strategy == "finetune" and not self.model.same_architecture(self.reference.model):
            return (
                f"needs `model` and `reference.model` to be the same; found {_spell(self.model)} and "
                f"{_spell(self.reference.model)}"
            )
        return None

    def resolved_strategies(self) -> Strategies:
        """The strategies that this recipe can run, and why each other one was left out.

        A strategy that was asked for and cannot run is an error already when the recipe is read; one that only
        stands in the default list is left out here.
        """
        dropped: dict[str, str] = {s: reason for s in self.strategies if (reason := self._obstacle(s))}
        return Strategies(tuple(s for s in self.strategies if s not in dropped), dropped)


def _spell(model: ModelSettings | None) -> str:
    if model is None:
        return "none"
    options = ", ".join(f"{key}={value!r}" for key, value in sorted(model.options.items()))
    return f"{model.name}({options})"
