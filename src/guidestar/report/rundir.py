"""Reading a run directory: results, progress, recipe and environment. What is missing is named, not an error."""

import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from guidestar.errors import UserError
from guidestar.report.headlines import with_retrieval
from guidestar.report.statistics import Results
from guidestar.report.strategies import in_order

SEED_FOLDER = re.compile(r"seed-(\d+)")
# Where the recipe lay and the run was written, with the indented lines that a long path goes on in. A report is passed
# on to others, to whom these folders say nothing.
_FOLDERS = re.compile(r"^(?:base|output):.*\n?(?:[ \t].*\n?)*", re.MULTILINE)
# strategy -> metric -> one value a seed
Columns = dict[str, dict[str, list[float]]]


@dataclass(frozen=True)
class Problem:
    """A strategy on a seed that has no result, and why."""

    strategy: str
    seed: int
    reason: str


@dataclass(frozen=True)
class Run:
    """What a run directory says.

    Args:
        path: the directory.
        name: the recipe's name, or else the folder's.
        seeds: all seeds, in the order of the lists in `results`.
        results: strategy -> metric -> one value a seed, NaN where there is none; with the column `retrieval`.
        problems: what failed, was left out or is unfinished.
        recipe: the resolved recipe; empty if it is missing or unreadable.
        recipe_text: the recipe as written, without `base` and `output`.
        environment: what the run was made with; empty if missing.
        warnings: files that are missing or unreadable.
        folders: strategy -> its folders, with the seed of each, in the order of seeds.
    """

    path: Path
    name: str
    seeds: list[int]
    results: Results
    problems: list[Problem] = field(default_factory=list)
    recipe: dict[str, Any] = field(default_factory=dict)
    recipe_text: str = ""
    environment: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    folders: dict[str, list[tuple[int, Path]]] = field(default_factory=dict)

    @property
    def pairs(self) -> bool:
        """Whether the run is one on image-text pairs.

        Example:
            >>> Run(Path("runs/none"), "none", [0], {}, recipe={"task": "pairs"}).pairs
            True
        """
        return self.recipe.get("task") == "pairs"


def read_run(path: Path) -> Run:
    """Read a run directory.

    Results come from each seed's `result.json`, because these keep the seed; a strategy that has no such file at all
    is taken from `results.json`.

    Args:
        path: the directory.

    Returns:
        The run; missing or unreadable files are listed in `warnings`.

    Raises:
        UserError: the directory does not exist or holds neither `results.json` nor any `seed-*/<strategy>` folder.

    Example:
        >>> read_run(Path("no/such/run"))
        Traceback (most recent call last):
        ...
        guidestar.errors.UserError: `run` must be a run directory; `no/such/run` does not exist.
    """
    if not path.is_dir():
        state = "is a file" if path.exists() else "does not exist"
        raise UserError(f"`run` must be a run directory; `{path}` {state}.")
    folders = _strategy_folders(path)
    if not folders and not (path / "results.json").is_file():
        raise UserError(
            f"`run` must be a run directory; `{path}` has neither `results.json` nor a folder `seed-<n>/<strategy>`."
            " Give the folder that `guidestar compare` or `guidestar train` wrote, such as `runs/demo`."
        )
    warnings: list[str] = []
    recipe_text = _read_text(path / "recipe.yaml", warnings)
    recipe = _parse_recipe(recipe_text, warnings)
    environment = _read_object(path / "environment.json", warnings)
    totals = _read_object(path / "results.json", warnings)
    seeds = _seeds(recipe, folders, totals)
    results, problems = _per_seed(folders, seeds, warnings)
    reported = {strategy for _, strategy, folder in folders if (folder / "result.json").is_file()}
    for strategy, metrics in totals.items():
        if strategy not in reported and isinstance(metrics, dict):
            results[strategy] = {name: _numbers(values, len(seeds)) for name, values in metrics.items()}
    problems += _never_started(recipe, results, problems)
    ordered = with_retrieval({key: results[key] for key in in_order(set(results))})
    shown = _FOLDERS.sub("", recipe_text)
    name = str(recipe.get("name") or path.resolve().name)
    by_strategy = {key: [(seed, folder) for seed, owner, folder in folders if owner == key] for _, key, _ in folders}
    return Run(path, name, seeds, ordered, problems, recipe, shown, environment, warnings, by_strategy)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSONL file; a line that cannot be read, such as the last one of a killed run, is left out.

    Args:
        path: the file; a missing one has no lines.

    Returns:
        The objects in order.

    Example:
        >>> read_lines(Path("no/metrics.jsonl"))
        []
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return [record for record in map(_parse_line, text.splitlines()) if record is not None]


def number(value: Any) -> float:
    """A number out of JSON.

    Args:
        value: anything.

    Returns:
        The number; NaN for what is none.

    Example:
        >>> number(3), number("3"), number(None)
        (3.0, nan, nan)
    """
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan


def _parse_line(line: str) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except json.JSONDecodeError:
        return None
    return record if isinstance(record, dict) else None


def _strategy_folders(path: Path) -> list[tuple[int, str, Path]]:
    found = []
    for seed_folder in path.iterdir():
        match = SEED_FOLDER.fullmatch(seed_folder.name)
        if match and seed_folder.is_dir():
            folders = [folder for folder in seed_folder.iterdir() if folder.is_dir()]
            found += [(int(match[1]), folder.name, folder) for folder in folders]
    return sorted(found, key=lambda item: item[:2])


def _seeds(recipe: dict[str, Any], folders: list[tuple[int, str, Path]], totals: dict[str, Any]) -> list[int]:
    """The recipe's seeds and those that have folders; without either, as many as the lists in results.json are long."""
    listed = recipe.get("seeds")
    seeds = [seed for seed in listed if isinstance(seed, int)] if isinstance(listed, list) else []
    seeds += sorted({seed for seed, _, _ in folders} - set(seeds))
    lists = [values for metrics in totals.values() if isinstance(metrics, dict) for values in metrics.values()]
    longest = max((len(values) for values in lists if isinstance(values, list)), default=0)
    return seeds if len(seeds) >= longest else list(range(longest))


def _per_seed(
    folders: list[tuple[int, str, Path]], seeds: list[int], warnings: list[str]
) -> tuple[Columns, list[Problem]]:
    results: Columns = {}
    problems: list[Problem] = []
    for seed, strategy, folder in folders:
        result = _read_object(folder / "result.json", warnings, required=False)
        if result.get("status") != "finished":
            problems.append(Problem(strategy, seed, _reason(result, folder)))
            continue
        columns = results.setdefault(strategy, {})
        for name, value in {**_object(result, "metrics"), **_object(result, "cost")}.items():
            columns.setdefault(name, [math.nan] * len(seeds))[seeds.index(seed)] = number(value)
    return results, problems


def _reason(result: dict[str, Any], folder: Path) -> str:
    if result:
        detail = result.get("error") or result.get("reason") or result.get("message")
        status = str(result.get("status", "has no status"))
        return f"{status}: {detail}" if detail else status
    lines = read_lines(folder / "metrics.jsonl")
    step = number(lines[-1].get("step")) if lines else math.nan
    return "unfinished, not a step yet" if math.isnan(step) else f"unfinished, last seen at step {step:.0f}"


def _never_started(recipe: dict[str, Any], results: Columns, problems: list[Problem]) -> list[Problem]:
    listed = recipe.get("strategies")
    known = set(results) | {problem.strategy for problem in problems}
    names = [str(name) for name in listed] if isinstance(listed, list) else []
    return [Problem(name, -1, "not started") for name in names if name not in known]


def _object(parent: dict[str, Any], key: str) -> dict[str, Any]:
    value = parent.get(key)
    return value if isinstance(value, dict) else {}


def _numbers(values: Any, length: int) -> list[float]:
    given = [number(value) for value in values] if isinstance(values, list) else []
    return given + [math.nan] * (length - len(given))


def _read_text(path: Path, warnings: list[str]) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        warnings.append(f"{path.name} cannot be read: {error.strerror or error}.")
        return ""


def _read_object(path: Path, warnings: list[str], required: bool = True) -> dict[str, Any]:
    if not required and not path.exists():
        return {}
    text = _read_text(path, warnings)
    record = _parse_line(text) if text else {}
    if record is None:
        warnings.append(f"{'/'.join(path.parts[-3:]) if not required else path.name} is not a JSON object.")
    return record or {}


def _parse_recipe(text: str, warnings: list[str]) -> dict[str, Any]:
    try:
        recipe = yaml.safe_load(text)
    except yaml.YAMLError:
        warnings.append("recipe.yaml is not valid YAML; it is shown as it is.")
        return {}
    return recipe if isinstance(recipe, dict) else {}
