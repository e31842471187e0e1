"""Evaluating the trained models of a run again."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from guidestar.errors import UserError
from guidestar.evaluation.metrics import evaluate
from guidestar.files import write_json
from guidestar.models.weights import load_weights
from guidestar.training.display import Display
from guidestar.training.interrupt import StopRequest
from guidestar.training.loop import evaluation_batches
from guidestar.training.prepare import load_source, reference_model, seed_data, target_model
from guidestar.training.recipe import STRATEGIES
from guidestar.training.recipe_io import load_recipe
from guidestar.training.references import References
from guidestar.training.runner import Results, build_engine, read_result

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
    source = load_source(loaded)
    engine = build_engine(loaded.recipe, folder)
    references = References(loaded, source, engine, folder, StopRequest(), Display())

    def model(strategy: str, seed: int) -> nn.Module:
        if strategy == "as_is":
            return references.model(seed, seed_data(loaded, source, seed))
        build = reference_model if strategy == "finetune" else target_model
        built = build(loaded, source, seed)
        load_weights(built, folder / f"seed-{seed}" / strategy / "model.safetensors")
        return built.to(engine.device)

    seeds = sorted({seed for _, seed in there})
    results: Results = {}
    for strategy in (name for name in STRATEGIES if any(name == other for other, _ in there)):
        for position, seed in enumerate(seeds):
            if (strategy, seed) not in there:
                continue
            metrics = evaluate(model(strategy, seed), evaluation_batches(source.test), engine.device)
            for name, value in metrics.items():
                results.setdefault(strategy, {}).setdefault(name, [None] * len(seeds))[position] = value
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
