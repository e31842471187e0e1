"""Runs: the strategies of a recipe side by side, on the same data, seeds and budget."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from guidestar import distributed
from guidestar.errors import UserError
from guidestar.evaluation.metrics import evaluate
from guidestar.models.weights import save_weights
from guidestar.training.checkpoint import write_text
from guidestar.training.display import Display
from guidestar.training.explain import difference, recipe_digest
from guidestar.training.interrupt import StopRequest, stop_requests
from guidestar.training.job import ASK_THE_REFERENCE, Job
from guidestar.training.loop import Training, evaluation_batches
from guidestar.training.outputs import environment, write_json, write_weights
from guidestar.training.prepare import SeedData, load_source, seed_data, target_model
from guidestar.training.recipe import Recipe, Strategy
from guidestar.training.recipe_io import LoadedRecipe, dump, load_recipe
from guidestar.training.references import References

NO_COST = {"seconds": 0.0, "samples_trained": 0.0, "forward_samples": 0.0, "reference_forward_samples": 0.0}
Results = dict[str, dict[str, list[float | None]]]


@dataclass(frozen=True)
class Options:
    """How a run is carried out.

    Attributes:
        resume: continue what is in the run's folder.
        overwrite: remove what is in the run's folder first.
        display: shows what goes on; silent by default.
    """

    resume: bool = False
    overwrite: bool = False
    display: Display = field(default_factory=Display)


class Run:
    """A run of a recipe in its folder.

    Args:
        loaded: the recipe.
        options: how to carry it out.

    Raises:
        UserError: the folder holds a run already and the options do not say what to do with it, or it is of another
            recipe; or the data break a rule.
        OSError: a file cannot be read or written.
    """

    def __init__(self, loaded: LoadedRecipe, options: Options) -> None:
        self.loaded = loaded
        self.options = options
        self.folder = loaded.run_folder
        self.engine = build_engine(loaded.recipe, self.folder)
        if self.engine.is_main_process:
            _claim(self.folder, loaded, options)
        distributed.barrier()
        self.source = load_source(loaded)
        if self.engine.is_main_process:
            write_text(self.folder / "recipe.yaml", dump(loaded))
            write_json(self.folder / "environment.json", environment(self.engine.device))

    def compare(self, strategies: Iterable[Strategy], seeds: Iterable[int]) -> Results:
        """Train each strategy on each seed, and write `results.json`.

        A strategy that fails (its loss is not finite, say) is recorded as failed and the others go on.

        Returns:
            strategy -> metric -> one value a seed, None where it failed.
        """
        strategies, seeds = tuple(strategies), tuple(seeds)
        with stop_requests() as request:
            references = self._references(request)
            for seed in seeds:
                data = seed_data(self.loaded, self.source, seed)
                for strategy in strategies:
                    self._one(strategy, seed, data, references, request)
        self.engine.end_training()
        results = collect(self.folder, strategies, seeds)
        if self.engine.is_main_process:
            write_json(self.folder / "results.json", results)
        return results

    def score(self, seeds: Iterable[int]) -> list[Path]:
        """Fill the reference store of each seed; their folders."""
        done: list[Path] = []
        with stop_requests() as request:
            references = self._references(request)
            for seed in seeds:
                path = Path(references.score(seed, seed_data(self.loaded, self.source, seed)).path)
                if path not in done:
                    done.append(path)
        return done

    def _references(self, request: StopRequest) -> References:
        return References(self.loaded, self.source, self.engine, self.folder, request, self.options.display)

    def _one(self, strategy: Strategy, seed: int, data: SeedData, references: References, request: StopRequest) -> None:
        folder = self.folder / f"seed-{seed}" / strategy
        written = folder / "result.json"
        if written.is_file() and json.loads(written.read_text())["status"] == "finished":
            self.options.display.finished(f"{strategy}, seed {seed}", json.loads(written.read_text()))
            return
        try:
            if strategy == "as_is":
                model = references.model(seed, data)
                metrics = evaluate(model, evaluation_batches(data.test), self.engine.device)
                result: dict[str, Any] = {"status": "finished", "metrics": metrics, "cost": dict(NO_COST)}
            else:
                result = self._train(strategy, seed, data, references, request, folder)
        except UserError as error:
            result = {"status": "failed", "error": str(error)}
        if self.engine.is_main_process:
            write_json(written, result)
        self.options.display.finished(f"{strategy}, seed {seed}", result)

    def _train(
        self,
        strategy: Strategy,
        seed: int,
        data: SeedData,
        references: References,
        request: StopRequest,
        folder: Path,
    ) -> dict[str, Any]:
        reference, scored = references.asked(seed, data) if strategy in ASK_THE_REFERENCE else (None, 0)
        starts_from_reference = strategy == "finetune"
        model = references.model(seed, data) if starts_from_reference else target_model(self.loaded, self.source, seed)
        job = Job(self.loaded, strategy, seed, self.source, data, model, reference, scored, folder, self.engine)
        training = Training(job, resume=self.options.resume)
        result = training.run(request, self.options.display.begin(f"{strategy}, seed {seed}"))
        if self.engine.is_main_process:
            save_weights(training.bare, folder / "model.safetensors")
            write_weights(folder, training.weights, data)
        return result


def build_engine(recipe: Recipe, folder: Path) -> Accelerator:
    """The engine: device, precision and experiment tracker of a recipe.

    Raises:
        UserError: a GPU is asked for and there is none, or the tracker's package is missing.
    """
    settings = recipe.training
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise UserError("`training.device` is cuda, and torch finds no GPU. Use auto or cpu.")
    engine = Accelerator(
        cpu=settings.device == "cpu" or not torch.cuda.is_available(),
        mixed_precision="bf16" if settings.precision == "bf16" else "no",
        log_with=settings.tracker,
        project_dir=str(folder) if settings.tracker is not None else None,
    )
    if settings.tracker is not None:
        if not engine.log_with:
            raise UserError(
                f"`training.tracker` is {settings.tracker}, which is not installed: pip install 'guidestar[track]'."
            )
        engine.init_trackers(recipe.name)
    return engine


def collect(folder: Path, strategies: Iterable[str], seeds: Iterable[int]) -> Results:
    """The results of a run's folder: strategy -> metric -> one value a seed, None where there is none."""
    results: Results = {}
    seeds = tuple(seeds)
    for strategy in strategies:
        found: list[dict[str, float]] = []
        for seed in seeds:
            path = folder / f"seed-{seed}" / strategy / "result.json"
            result = json.loads(path.read_text()) if path.is_file() else {}
            found.append({**result.get("metrics", {}), **result.get("cost", {})})
        names = list(dict.fromkeys(name for values in found for name in values))
        if names:
            results[strategy] = {name: [values.get(name) for values in found] for name in names}
    return results


def _claim(folder: Path, loaded: LoadedRecipe, options: Options) -> None:
    """Make the run's folder ours: new, continued, or emptied."""
    written = folder / "recipe.yaml"
    if options.overwrite and written.is_file():
        for name in (*(path.name for path in folder.glob("seed-*")), "reference"):
            shutil.rmtree(folder / name, ignore_errors=True)
        for name in ("results.json", "report.html", "evaluation.json", "recipe.yaml"):
            (folder / name).unlink(missing_ok=True)
    elif written.is_file():
        if not options.resume:
            raise UserError(
                f"{folder} holds a run already: continue it with --resume, start again with --overwrite, or choose "
                "another `name` or `output`."
            )
        before = load_recipe(written).recipe
        if recipe_digest(before) != recipe_digest(loaded.recipe):
            raise UserError(
                f"{folder} holds a run of another recipe: {'; '.join(difference(before, loaded.recipe))}. Choose another "
                "`name` or `output`, or start again with --overwrite."
            )
    folder.mkdir(parents=True, exist_ok=True)
