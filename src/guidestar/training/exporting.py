"""Taking a trained model out of a run, in a form that needs no guidestar."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from guidestar.errors import UserError
from guidestar.files import clear_when_full, write_json
from guidestar.models.pairs import DualEncoder, export_clip
from guidestar.models.pairs.clip_towers import ClipImageTower, ClipTextTower
from guidestar.models.pairs.pretrained import SiglipImageTower, SiglipTextTower
from guidestar.models.weights import load_weights, save_weights
from guidestar.training.display import Display
from guidestar.training.interrupt import StopRequest
from guidestar.training.recipe_io import load_recipe
from guidestar.training.references import References
from guidestar.training.runner import build_engine, read_result
from guidestar.training.tasks import open_task


def export_run(run: Path, folder: Path, *, strategy: str | None = None, seed: int | None = None) -> Path:
    """Write a run's trained model into a new folder.

    A model of pairs with `vit` and `transformer` towers, or from a Transformers folder, becomes a folder that
    `transformers` loads; other models become `model.safetensors` with a `model.json` that says how to build them, and
    the tokenizer of pairs.

    Args:
        run: the run's folder.
        folder: new or empty.
        strategy: which; None: steer where there is one, else the first that is there.
        seed: which; None: the first of the recipe that is there.

    Returns:
        The folder.

    Raises:
        UserError: the run has no such model, or the folder is not empty.
        OSError: a file cannot be read or written.
    """
    if not (run / "recipe.yaml").is_file():
        raise UserError(f"`run` must be a run's folder, with a recipe.yaml. Found none in {run}.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"`--out` must be a new or empty folder. Found {folder} with something in it.")
    loaded = load_recipe(run / "recipe.yaml")
    chosen, number = _choose(run, loaded.recipe.seeds, strategy, seed)
    task = open_task(loaded, build_engine(loaded.recipe, run), run)
    if chosen == "as_is":
        model = References(task, StopRequest(), Display()).model(number, task.seed_data(number))
    else:
        model = task.empty(chosen, number)
        load_weights(model, run / f"seed-{number}" / chosen / "model.safetensors")
    model = model.cpu().eval()
    if isinstance(model, DualEncoder) and _transformers_knows(model):
        export_clip(model, folder)
        return folder
    settings = loaded.recipe.reference.model if chosen in ("as_is", "finetune") else loaded.recipe.model
    _write_plain(
        model, folder, {"model": settings.model_dump() if settings else None, "strategy": chosen, "seed": number}
    )
    if isinstance(model, DualEncoder):
        model.tokenizer.save(folder / "tokenizer")
    return folder


def _choose(run: Path, seeds: tuple[int, ...], strategy: str | None, seed: int | None) -> tuple[str, int]:
    finished = [
        (path.parent.name, int(path.parent.parent.name.removeprefix("seed-")))
        for path in sorted(run.glob("seed-*/*/result.json"))
        if read_result(path).get("status") == "finished"
    ]
    order = {number: place for place, number in enumerate(seeds)}
    finished.sort(key=lambda found: (found[0] == "as_is", found[0] != "steer", order.get(found[1], len(order))))
    for found in finished:
        if strategy in (None, found[0]) and seed in (None, found[1]):
            return found
    there = ", ".join(f"{name} (seed {number})" for name, number in finished) or "none"
    wanted = f"{strategy or 'a strategy'} with seed {seed}" if seed is not None else strategy or "a strategy"
    raise UserError(f"`run` must hold a trained model of {wanted}. Found in {run}: {there}.")


def _transformers_knows(model: DualEncoder) -> bool:
    return isinstance(model.image_tower, ClipImageTower | SiglipImageTower) and isinstance(
        model.text_tower, ClipTextTower | SiglipTextTower
    )


def _write_plain(model: nn.Module, folder: Path, facts: dict[str, Any]) -> None:
    with clear_when_full(folder / "model.safetensors"):
        save_weights(model, folder / "model.safetensors")
    write_json(folder / "model.json", facts)
