"""Runs: the strategies of a recipe side by side, on the same data, seeds and budget."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import is_tensorboard_available, is_wandb_available

from guidestar import distributed
from guidestar.errors import UserError
from guidestar.files import clear_when_full, write_json, write_text
from guidestar.models.weights import save_weights
from guidestar.training.display import Display
from guidestar.training.explain import difference, recipe_digest
from guidestar.training.failure import TrainingFailed
from guidestar.training.interrupt import Interrupted, StopRequest, stop_requests
from guidestar.training.job import Job
from guidestar.training.loop import Training
from guidestar.training.outputs import environment
from guidestar.training.recipe_errors import AnyRecipe
from guidestar.training.recipe_io import LoadedRecipe, dump, load_recipe
from guidestar.training.references import References, first_says
from guidestar.training.tasks import open_task

NO_COST = {"seconds": 0.0, "samples_trained": 0.0, "forward_samples": 0.0, "reference_forward_samples": 0.0}
_TRACKERS = {"tensorboard": is_tensorboard_available, "wandb": is_wandb_available}
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
        self._claim_folder()
        if loaded.recipe.training.tracker is not None:
            self.engine.init_trackers(loaded.recipe.name)
        self.task = open_task(loaded, self.engine, self.folder)
        if self.engine.is_main_process:
            write_text(self.folder / "recipe.yaml", dump(loaded))
            write_json(self.folder / "environment.json", environment(self.engine.device))

    def _claim_folder(self) -> None:
        problem: UserError | OSError | None = None
        if self.engine.is_main_process:
            try:
                _claim(self.folder, self.loaded, self.options)
            except (UserError, OSError) as error:
                problem = error  # the other processes are waiting to hear of it
        if first_says(problem is not None, self.engine.device):
            raise problem or UserError("the first process cannot use the run's folder; its message says why.")

    def compare(self, strategies: Iterable[str], seeds: Iterable[int]) -> Results:
        """Train each strategy on each seed, and write `results.json`.

        A strategy that fails (its loss is not finite, say) is recorded as failed and the others go on. The file holds
        everything that the run's folder has, also strategies and seeds of earlier calls.

        Returns:
            strategy -> metric -> one value a seed, None where it failed; of these strategies and seeds.

        Raises:
            UserError: the reference, its store or a checkpoint does not fit, or the disk is full.
            Interrupted: a signal came.
            OSError: a file cannot be read or written.
        """
        strategies, seeds = tuple(strategies), tuple(seeds)
        with stop_requests() as request:
            references = self._references(request)
            self._check_first(strategies, seeds, references)
            for seed in seeds:
                data = self.task.seed_data(seed)
                for strategy in strategies:
                    number = request.agreed(self.engine.device)
                    if number:
                        raise Interrupted(number)
                    self._one(strategy, seed, data, references, request)
                # The engine holds on to what it has prepared; letting go runs Python's garbage collector, so not each time.
                self.engine.free_memory()
        self.engine.end_training()
        if self.engine.is_main_process:
            write_json(self.folder / "results.json", collect(self.folder, *self._there()))
        distributed.barrier()
        return collect(self.folder, strategies, seeds)

    def _check_first(self, strategies: Sequence[str], seeds: Sequence[int], references: References) -> None:
        """What would fail later, before anything is trained: building the target, and a store that is given."""
        for note in references.notes():
            self.options.display.note(note)
        if not set(strategies) <= {"as_is"}:
            self.task.empty("erm", seeds[0])
        if self.loaded.recipe.reference.store is not None and set(strategies) & set(self.task.asking):
            references.asked(seeds[0], self.task.seed_data(seeds[0]))

    def _there(self) -> tuple[list[str], list[int]]:
        """The strategies and seeds that the run's folder has results of: the recipe's seeds in its order, then others."""
        there = [path.parent for path in self.folder.glob("seed-*/*/result.json")]
        found = {int(path.parent.name.removeprefix("seed-")) for path in there}
        seeds = [seed for seed in self.loaded.recipe.seeds if seed in found]
        strategies = [name for name in self.task.order if any(path.name == name for path in there)]
        return strategies, [*seeds, *sorted(found.difference(seeds))]

    def score(self, seeds: Iterable[int]) -> list[Path]:
        """Fill the reference store of each seed; their folders.

        Raises:
            UserError: the reference does not fit the data, or the disk is full.
            Interrupted: a signal came; what was scored is kept.
            OSError: a file cannot be read or written.
        """
        done: list[Path] = []
        with stop_requests() as request:
            references = self._references(request)
            for seed in seeds:
                path = references.score(seed, self.task.seed_data(seed)).path
                if path not in done:
                    done.append(path)
        return done

    def _references(self, request: StopRequest) -> References:
        return References(self.task, request, self.options.display)

    def _one(self, strategy: str, seed: int, data: Any, references: References, request: StopRequest) -> None:
        folder, title = self.folder / f"seed-{seed}" / strategy, f"{strategy}, seed {seed}"
        written = folder / "result.json"
        if first_says(read_result(written).get("status") == "finished", self.engine.device):
            self.options.display.finished(title, read_result(written))
            return
        try:
            if strategy == "as_is":
                result = self._as_is(seed, data, references, folder)
            else:
                result = self._train(strategy, seed, data, references, request, folder)
        except TrainingFailed as error:
            result = {"status": "failed", "error": str(error)}
        if self.engine.is_main_process:
            write_json(written, result)
        distributed.barrier()
        self.options.display.finished(title, result)

    def _as_is(self, seed: int, data: Any, references: References, folder: Path) -> dict[str, Any]:
        model = references.model(seed, data)
        metrics = self.task.evaluate(model, data)
        if self.engine.is_main_process:
            self.task.leave(folder, model, None, data, first=seed == self.loaded.recipe.seeds[0])
        for remark in self.task.remarks(metrics, data):
            self.options.display.note(remark)
        return {"status": "finished", "metrics": metrics, "cost": dict(NO_COST)}

    def _train(
        self, strategy: str, seed: int, data: Any, references: References, request: StopRequest, folder: Path
    ) -> dict[str, Any]:
        reference, scored = references.asked(seed, data) if strategy in self.task.asking else (None, 0)
        model = self.task.target(strategy, seed, lambda: references.model(seed, data))
        job = Job(self.loaded, strategy, seed, data, model, reference, scored, folder, self.engine)
        training = Training(job, resume=self.options.resume)
        result = training.run(request, self.options.display.begin(f"{strategy}, seed {seed}"))
        if self.engine.is_main_process:
            with clear_when_full(folder / "model.safetensors"):
                save_weights(training.stepper.result(), folder / "model.safetensors")
            first = seed == self.loaded.recipe.seeds[0]
            self.task.leave(folder, training.stepper.result(), training.stepper, data, first=first)
        return result


def build_engine(recipe: AnyRecipe, folder: Path) -> Accelerator:
    """The engine: device, precision and experiment tracker of a recipe.

    Raises:
        UserError: a GPU is asked for and there is none, or the tracker's package is missing.
    """
    settings = recipe.training
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise UserError("`training.device` is cuda, and torch finds no GPU. Use auto or cpu.")
    if settings.tracker is not None and not _TRACKERS[settings.tracker]():
        raise UserError(
            f"`training.tracker` is {settings.tracker}, which is not installed: pip install 'guidestar[track]'."
        )
    return Accelerator(
        cpu=settings.device == "cpu" or not torch.cuda.is_available(),
        mixed_precision="bf16" if settings.precision == "bf16" else "no",
        log_with=settings.tracker,
        project_dir=str(folder) if settings.tracker is not None else None,
    )


def read_result(path: Path) -> dict[str, Any]:
    """A training's `result.json`; empty if it is not there yet.

    Raises:
        UserError: the file is damaged.
    """
    if not path.is_file():
        return {}
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}). Remove it and continue with --resume.") from error
    if not isinstance(result, dict):
        raise UserError(f"{path} holds no result. Remove it and continue with --resume.")
    return result


def collect(folder: Path, strategies: Iterable[str], seeds: Iterable[int]) -> Results:
    """The results of a run's folder: strategy -> metric -> one value a seed, None where there is none.

    Raises:
        UserError: a result is damaged.
    """
    results: Results = {}
    seeds = tuple(seeds)
    for strategy in strategies:
        read = [read_result(folder / f"seed-{seed}" / strategy / "result.json") for seed in seeds]
        found = [{**result.get("metrics", {}), **result.get("cost", {})} for result in read]
        names = list(dict.fromkeys(name for values in found for name in values))
        if names:
            results[strategy] = {name: [values.get(name) for values in found] for name in names}
    return results


def _claim(folder: Path, loaded: LoadedRecipe, options: Options) -> None:
    """Make the run's folder ours: new, continued, or emptied."""
    written = folder / "recipe.yaml"
    if options.overwrite and written.is_file():
        for old in (*folder.glob("seed-*"), folder / "reference"):
            if old.is_dir():
                shutil.rmtree(old)
        for name in ("results.json", "report.html", "evaluation.json", "recipe.yaml"):
            (folder / name).unlink(missing_ok=True)
    elif written.is_file() and (any(folder.glob("seed-*")) or (folder / "reference").exists()):
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
