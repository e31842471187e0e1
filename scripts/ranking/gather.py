"""From a file a training to one file of results: `docs/figures/objectives.json`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from .harness import SEEDS, chosen
from .metrics import TITLES

PACKAGES = ("libauc", "lightgbm", "xgboost", "xgboost-cpu", "dro", "rdkit")


def gather(
    runs: Path, tasks: Iterable[str], make_task: Callable[[str], Callable[[int], Any]], seeds: tuple[int, ...] = SEEDS
) -> dict[str, Any]:
    """The results of the tasks that have any: for each method its setting, and a list with a value a seed and metric.

    A method counts if all its seeds are there; a training that diverged counts as no value.
    """
    found: dict[str, Any] = {"seeds": len(seeds), "tasks": {}, "packages": versions(), "seconds": 0.0}
    for name in tasks:
        folders = sorted(path for path in (runs / name).glob("*") if path.is_dir())
        methods = {path.name: made for path in folders if (made := _method(path, seeds)) is not None}
        if not methods:
            continue
        found["tasks"][name] = {"facts": _facts(runs / name / "task.json", make_task(name)), "methods": methods}
        found["seconds"] += sum(_read(path)["seconds"] for folder in folders for path in folder.glob("*.json"))
    return found


def versions() -> dict[str, str]:
    """The versions of the peers that are installed."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _method(folder: Path, seeds: tuple[int, ...]) -> dict[str, Any] | None:
    if not list(folder.glob(f"*-{seeds[0]}.json")):
        return None
    setting = chosen(folder, seeds[0])
    paths = [folder / f"{setting:g}-{seed}.json" for seed in seeds]
    if not all(path.exists() for path in paths):
        return None
    results = [_read(path) for path in paths]
    values = {metric: [result["test"].get(metric) for result in results] for metric in TITLES}
    tried = [_read(path) for path in sorted(folder.glob(f"*-{seeds[0]}.json"))]
    return {
        "setting": setting,
        "test": values,
        "valid_auroc": {f"{result['setting']:g}": result["valid"].get("auroc") for result in tried},
        "diverged": sum("failed" in result for result in tried),
    }


def _facts(path: Path, make_task: Callable[[int], Any]) -> dict[str, Any]:
    if not path.exists():
        path.write_text(json.dumps(make_task(SEEDS[0]).facts(), indent=1) + "\n", encoding="utf-8")
    return _read(path)


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))
