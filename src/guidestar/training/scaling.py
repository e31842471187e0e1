"""A grid of model sizes and amounts of data, run cell by cell, for laws of error against compute."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from guidestar import distributed
from guidestar.errors import UserError
from guidestar.files import write_json
from guidestar.training.explain import recipe_digest
from guidestar.training.recipe_errors import spell
from guidestar.training.recipe_io import LoadedRecipe, load_recipe
from guidestar.training.recipe_yaml import read_yaml
from guidestar.training.runner import Options, Run, read_result

_EXAMPLES = 32
_GIGA = 1e9


@dataclass(frozen=True)
class Size:
    """A size of the model: its name in figures, and what it changes in the recipe."""

    name: str
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class Cell:
    """One run of a grid: a size, a number of training samples and a seed; all strategies share it.

    Attributes:
        name: of its folder.
        size: of the model.
        samples: training samples.
        seed: of the run.
    """

    name: str
    size: Size
    samples: int
    seed: int


def parse_sizes(texts: Sequence[str]) -> list[Size]:
    """The sizes of a grid from `key=value,value,...`; several keys change together, the first with the first.

    Raises:
        UserError: a text has another form, or the keys have different numbers of values.

    Example:
        >>> [size.name for size in parse_sizes(["model.options.width=8,16"])]
        ['width=8', 'width=16']
    """
    columns: dict[str, list[Any]] = {}
    for text in texts:
        key, equals, values = text.partition("=")
        listed = read_yaml(f"[{values}]", f"`--sizes` {text}").value if equals else None
        if not key or not listed:
            raise UserError(f"`--sizes` must be key=value,value,... such as model.options.width=16,32. Found {text!r}.")
        columns[key] = listed
    lengths = sorted({len(values) for values in columns.values()})
    if len(lengths) != 1:
        raise UserError(f"`--sizes` must have as many values for each key. Found {' and '.join(map(str, lengths))}.")
    sizes = []
    for values in zip(*columns.values(), strict=True):
        pairs = list(zip(columns, values, strict=True))
        name = ", ".join(f"{key.rpartition('.')[2]}={spell(value)}" for key, value in pairs)
        sizes.append(Size(name, tuple(f"{key}={spell(value, limit=None)}" for key, value in pairs)))
    return sizes


def parse_samples(text: str) -> list[int]:
    """Numbers of training samples with commas between.

    Raises:
        UserError: the text is something else.

    Example:
        >>> parse_samples("500, 1000")
        [500, 1000]
    """
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise UserError(f"`--samples` must be whole numbers with commas between, such as 500,1000. Found {text!r}.")
    return [int(part) for part in parts]


class Grid:
    """The cells of a scaling run, in the folder `<output>/<name>-scaling`.

    Args:
        recipe: the recipe's file.
        overrides: changes to it that all cells have.
        sizes: of the model; see `parse_sizes`.
        samples: numbers of training samples.
        strategies: what each cell trains.

    Raises:
        UserError: the recipe is wrong, or a strategy cannot run.
    """

    def __init__(
        self,
        recipe: Path,
        overrides: Sequence[str],
        sizes: Sequence[Size],
        samples: Sequence[int],
        strategies: Sequence[str],
    ) -> None:
        self.recipe = recipe
        self.overrides = tuple(overrides)
        self.strategies = tuple(strategies)
        common = load_recipe(recipe, self.overrides)
        usable = common.recipe.resolved_strategies().usable
        for strategy in self.strategies:
            if strategy not in usable:
                raise UserError(f"`--strategies` must be among {', '.join(usable)}. Found {strategy}.")
        self.folder = common.output / f"{common.recipe.name}-scaling"
        self.cells = [
            Cell(f"{_plain(size.name)}-n{count}-seed{seed}", size, count, seed)
            for size, count, seed in product(sizes, samples, common.recipe.seeds)
        ]

    def cell(self, index: int) -> Cell:
        """A cell by its number.

        Raises:
            UserError: there is none of this number.
        """
        if not 0 <= index < len(self.cells):
            raise UserError(f"`--index` must be in [0, {len(self.cells) - 1}], the cells of the grid. Found {index}.")
        return self.cells[index]

    def load(self, cell: Cell) -> LoadedRecipe:
        """The recipe of a cell."""
        own = [*cell.size.overrides, f"data.train_samples={cell.samples}", f"seeds=[{cell.seed}]"]
        loaded = load_recipe(self.recipe, [*self.overrides, *own, f"name={spell(cell.name)}"])
        return replace(loaded, output=self.folder)

    def run(self, cell: Cell, options: Options) -> list[dict[str, Any]]:
        """Train a cell's strategies, or read what they gave if they are finished.

        Returns:
            A record for each strategy that succeeded: strategy, model, samples, seed, compute and reference_compute in
            GFLOPs, and the metrics.

        Raises:
            UserError: the folder holds the cell of another recipe, or has unfinished trainings and is not to be continued.
            Interrupted: a signal came.
            OSError: a file cannot be read or written.
        """
        loaded = self.load(cell)
        written = loaded.run_folder / "scaling_cell.json"
        digest = recipe_digest(loaded.recipe)
        if options.resume and written.is_file():
            found = json.loads(written.read_text(encoding="utf-8"))
            if found["digest"] != digest or not set(self.strategies) <= {r["strategy"] for r in found["records"]}:
                written.unlink()
            else:
                return [record for record in found["records"] if record["strategy"] in self.strategies]
        options.display.note(f"cell {self.cells.index(cell)} of {len(self.cells)}: {cell.name}")
        self._share_reference(cell, loaded)
        run = Run(loaded, options)
        run.compare(self.strategies, [cell.seed])
        records = [
            _record(run, cell, strategy)
            for strategy in self.strategies
            if read_result(run.folder / f"seed-{cell.seed}" / strategy / "result.json").get("status") == "finished"
        ]
        if run.engine.is_main_process:
            write_json(written, {"digest": digest, "records": records})
        distributed.barrier()
        return records

    def collect(self, records: Iterable[dict[str, Any]], metric: str | None) -> Path:
        """Write `scaling.json`: the error, 1 less a metric, of every record.

        Args:
            records: what `run` returned for all cells.
            metric: its name; None: accuracy, zero_shot_top1, or else image_to_text_r10.

        Raises:
            UserError: there are no records, or none has the metric.
        """
        found = list(records)
        if not found:
            raise UserError("`records` must hold at least one training that succeeded. Found none.")
        there = found[0]["metrics"]
        usual = [name for name in ("accuracy", "zero_shot_top1", "image_to_text_r10") if name in there]
        name = metric or usual[0]
        if name not in there:
            raise UserError(f"`--metric` must be one of {', '.join(there)}. Found {name}.")
        lines = [{**r, "metric": name, "error": 1.0 - r["metrics"][name]} for r in found]
        path = self.folder / "scaling.json"
        write_json(path, [{key: value for key, value in line.items() if key != "metrics"} for line in lines])
        return path

    def _share_reference(self, cell: Cell, loaded: LoadedRecipe) -> None:
        """A reference that was fitted for another cell of the same seed is the same one, and is not fitted again."""
        if any(not override.startswith("model.") for override in cell.size.overrides):
            return
        place = Path("reference") / f"seed-{cell.seed}" / "model.safetensors"
        own = loaded.run_folder / place
        there = [self.folder / other.name / place for other in self.cells if other.seed == cell.seed]
        for path in there:
            if path.is_file() and not own.exists() and distributed.rank() == 0:
                own.parent.mkdir(parents=True, exist_ok=True)
                part = own.with_suffix(".part")
                shutil.copyfile(path, part)
                part.replace(own)
        distributed.barrier()


def _record(run: Run, cell: Cell, strategy: str) -> dict[str, Any]:
    result = read_result(run.folder / f"seed-{cell.seed}" / strategy / "result.json")
    cost, data = result["cost"], run.task.seed_data(cell.seed)
    forward, training = _flops(run.task.empty(strategy, cell.seed), run, data)
    extra = cost["forward_samples"] - cost["samples_trained"]
    own = training * cost["samples_trained"] + forward * max(0.0, extra)
    reference = 0.0
    if strategy in run.task.with_reference and run.loaded.recipe.reference.model is not None:
        forward, training = _flops(run.task.reference(cell.seed), run, data)
        reference = forward * cost["reference_forward_samples"] + training * _fitted_samples(run)
    return {
        "strategy": strategy,
        "model": cell.size.name,
        "samples": cell.samples,
        "seed": cell.seed,
        "compute": own / _GIGA,
        "reference_compute": reference / _GIGA,
        "metrics": result["metrics"],
    }


def _fitted_samples(run: Run) -> int:
    """Samples that the reference was trained on here, over all epochs."""
    fit = run.loaded.recipe.reference.fit
    if fit is None:
        return 0
    batch = min(fit.batch_size, fit.samples)
    return fit.epochs * (fit.samples // batch) * batch


def _flops(model: nn.Module, run: Run, data: Any) -> tuple[float, float]:
    """Floating-point operations of a forward pass, and of one with its backward pass, for one sample."""
    inputs = [tensor.to(run.engine.device) for tensor in run.task.example(model, data, _EXAMPLES)]
    model.to(run.engine.device).train()
    counter = FlopCounterMode(display=False)
    with counter:
        outputs = model(*inputs)
        forward = counter.get_total_flops()
        score = outputs[0] @ outputs[1].T if isinstance(outputs, tuple) else outputs
        torch.autograd.backward(score.sum())
    return forward / len(inputs[0]), counter.get_total_flops() / len(inputs[0])


def _plain(name: str) -> str:
    return re.sub(r"[^\w.=]+", "-", name).strip("-")
