"""What a run needs to know about its kind of training: data, models, the reference's answers, what is measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from accelerate import Accelerator
from torch import nn

from guidestar.training.classification_task import ClassificationTask
from guidestar.training.recipe import Recipe
from guidestar.training.recipe_io import LoadedRecipe
from guidestar.training.steppers import Stepper

#: Called with the number of rows that this process has scored.
OnRows = Callable[[int], None]


class Task(Protocol):
    """A recipe's kind of training, with the data that are the same for every seed.

    Attributes:
        loaded: the recipe.
        engine: where models run.
        folder: the run's folder.
        order: every strategy of this kind, in the order of reports.
        asking: those whose training asks the reference about the samples.
        with_reference: those that cannot do without one.
    """

    loaded: LoadedRecipe
    engine: Accelerator
    folder: Path
    order: tuple[str, ...]
    asking: tuple[str, ...]
    with_reference: tuple[str, ...]

    def seed_data(self, seed: int) -> Any:
        """The data of a seed, with `train`, `reference` (the rows to fit it on, or None) and `test`."""
        ...

    def target(self, strategy: str, seed: int, reference: Callable[[], nn.Module]) -> nn.Module:
        """What a strategy trains, with its first weights; `reference` makes the reference model."""
        ...

    def reference(self, seed: int) -> nn.Module:
        """The reference's architecture, before its weights are loaded or fitted."""
        ...

    def empty(self, strategy: str, seed: int) -> nn.Module:
        """The model that the saved weights of a strategy are loaded into."""
        ...

    def fit_data(self, data: Any) -> Any:
        """The data of a seed as those of its reference's training."""
        ...

    def fit_recipe(self) -> Any:
        """The recipe of the reference's training."""
        ...

    def evaluate(self, model: nn.Module, data: Any, *, last: bool = True) -> dict[str, float]:
        """The metrics of a model on the test data."""
        ...

    def example(self, model: nn.Module, data: Any, count: int) -> tuple[Any, ...]:
        """Inputs of a model: the first `count` training samples."""
        ...

    def remarks(self, metrics: dict[str, float], data: Any) -> Iterator[str]:
        """What the user should know about a reference with these metrics."""
        ...

    def notes(self) -> Iterator[str]:
        """What the user should know about how the reference is used."""
        ...

    def live(self, model: nn.Module, data: Any) -> Any:
        """A reference that is asked while a target trains."""
        ...

    def stored(self, path: Path, data: Any, model: nn.Module | None) -> Any:
        """A reference whose answers are in a store, which was made with `model` where one is given."""
        ...

    def own_store(self, data: Any) -> bool:
        """Whether each seed has a store of its own, because its reference or its labels differ."""
        ...

    def fill(self, model: nn.Module, data: Any, path: Path, on_rows: OnRows) -> None:
        """Write what the reference says about the training data of a seed, or all, where seeds have no store of their own."""
        ...

    def rows_to_score(self, data: Any) -> int:
        """How many rows `fill` writes."""
        ...

    def open_store(self, path: Path, data: Any) -> Any:
        """A store that was filled, complete; it has a `path` and a length."""
        ...

    def leave(self, folder: Path, model: nn.Module, stepper: Stepper | None, data: Any, *, first: bool) -> None:
        """What a training leaves beside its weights; no stepper for a model used as it is; `first`: of the seeds."""
        ...


def open_task(loaded: LoadedRecipe, engine: Accelerator, folder: Path) -> Task:
    """Read the data of a recipe.

    Raises:
        UserError: the data break a rule or the recipe asks for what they cannot give.
        OSError: a file cannot be read.
    """
    if isinstance(loaded.recipe, Recipe):
        return ClassificationTask(loaded, engine, folder)
    from guidestar.training.pair_task import PairTask

    return PairTask(loaded, engine, folder)
