"""Evaluating the trained models of a run again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from guidestar.errors import UserError
from guidestar.evaluation.metrics import evaluate
from guidestar.models.weights import load_weights
from guidestar.training.loop import evaluation_batches
from guidestar.training.outputs import write_json
from guidestar.training.prepare import load_source, reference_model, target_model
from guidestar.training.recipe_io import load_recipe
from guidestar.training.runner import Results, build_engine


def evaluate_run(folder: Path, overrides: Sequence[str] = ()) -> tuple[Results, Path]:
    """Evaluate every `model.safetensors` of a run and write `evaluation.json`.

    Args:
        folder: the run's folder.
        overrides: changes to its recipe, such as other test data.

    Returns:
        strategy -> metric -> one value a seed, and the file.

    Raises:
        UserError: the folder holds no trained model, or the data do not fit.
        OSError: a file cannot be read or written.
    """
    if not (folder / "recipe.yaml").is_file():
        raise UserError(f"`run` must be a run's folder, with a recipe.yaml. Found none in {folder}.")
    loaded = load_recipe(folder / "recipe.yaml", overrides)
    source = load_source(loaded)
    device = build_engine(loaded.recipe, folder).device
    results: Results = {}
    for path in sorted(folder.glob("seed-*/*/model.safetensors")):
        seed, strategy = int(path.parent.parent.name.removeprefix("seed-")), path.parent.name
        build = reference_model if strategy == "finetune" else target_model
        model = build(loaded, source, seed)
        load_weights(model, path)
        metrics = evaluate(model.to(device), evaluation_batches(source.test), device)
        for name, value in metrics.items():
            results.setdefault(strategy, {}).setdefault(name, []).append(value)
    if not results:
        raise UserError(f"{folder} holds no trained model (seed-*/<strategy>/model.safetensors).")
    written = folder / "evaluation.json"
    write_json(written, results)
    return results, written
