"""Evaluating the trained models of a run again."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from guidestar.errors import UserError
from guidestar.files import write_json
from guidestar.models.weights import load_weights
from guidestar.training.display import Display
from guidestar.training.interrupt import StopRequest
from guidestar.training.recipe_io import load_recipe
from guidestar.training.references import References
from guidestar.training.runner import Results, build_engine, read_result
from guidestar.training.tasks import open_task

_SEED = re.compile(r"seed-(\d+)")


def evaluate_run(folder: Path, overrides: Sequence[str] = ()) -> tuple[Results, Path]:
    """Evaluate every model of a run, the reference that was used as it is among them, and write `evaluation.json`.

    Args:
        folder: the run's folder.
        overrides: changes to its recipe, such as other test data.

    Returns:
        strategy -> metric -> one value a seed (None where it has no model), and the file.

    Raises:
        UserError: the folder holds no trained model, or the data do not fit.
        OSError: a file cannot be read or written.
    """
    if not (folder / "recipe.yaml").is_file():
        raise UserError(f"`run` must be a run's folder, with a recipe.yaml. Found none in {folder}.")
    there = _finished(folder)
    if not there:
        raise UserError(f"{folder} holds no trained model (seed-*/<strategy>/model.safetensors).")
    for override in overrides:
        if not override.startswith("data."):
            raise UserError(
                f"`{override}`: only the data can be changed, such as data.test.path=new.npz; the models are trained."
            )
    loaded = load_recipe(folder / "recipe.yaml", overrides)
    task = open_task(loaded, build_engine(loaded.recipe, folder), folder)
    references = References(task, StopRequest(), Display())

    def model(strategy: str, seed: int, data: Any) -> nn.Module:
        if strategy == "as_is":
            return references.model(seed, data)
        built = task.empty(strategy, seed)
        load_weights(built, folder / f"seed-{seed}" / strategy / "model.safetensors")
        return built.to(task.engine.device)

    seeds = sorted({seed for _, seed in there})
    order = [name for name in task.order if any(name == other for other, _ in there)]
    results: Results = {strategy: {} for strategy in order}
    for position, seed in enumerate(seeds):
        data = task.seed_data(seed)
        for strategy in order:
            if (strategy, seed) not in there:
                continue
            metrics = task.evaluate(model(strategy, seed, data), data)
            for name, value in metrics.items():
                results[strategy].setdefault(name, [None] * len(seeds))[position] = value
    written = folder / "evaluation.json"
    write_json(written, results)
    return results, written


def _finished(folder: Path) -> set[tuple[str, int]]:
    """The strategies and seeds whose model is there."""
    found = set()
    for path in folder.glob("seed-*/*/result.json"):
        seed, strategy = _SEED.fullmatch(path.parent.parent.name), path.parent.name
        finished = read_result(path).get("status") == "finished"
        if seed and finished and (strategy == "as_is" or (path.parent / "model.safetensors").is_file()):
            found.add((strategy, int(seed[1])))
    return found
