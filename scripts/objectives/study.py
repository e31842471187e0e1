"""A study: one data set, several methods, the same budget of tuning and the same seeds for each of them.

Every training is one JSON file, so a study that was interrupted continues where it stopped. What a training gives is
`valid` (one number, larger is better, by which the setting is chosen on the first seed; a study may have more of them),
`test` (metrics) and, if the study has a figure, `curve` (`steps`, and numbers at these steps).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

SEEDS = (0, 1, 2)


class Method(Protocol):
    """What a study asks of a method; `settings` are the values of the one number that is tuned."""

    @property
    def settings(self) -> Sequence[float]: ...

    def fit(self, task: Any, setting: float, seed: int) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Metric:
    """A column of a table.

    Args:
        title: of the column.
        higher: whether larger is better.
        percent: whether it is a share, to be shown in percent.
    """

    title: str
    higher: bool = True
    percent: bool = True


@dataclass(frozen=True)
class Study:
    """What is trained.

    Args:
        name: of the folder and of the files.
        load: the task of a seed, from the folder of data sets.
        methods: name -> method.
        facts: what the page says about the data, from the task of the first seed.
        criteria: the keys of a result by which a setting is chosen; the choice of each is trained on all seeds.
    """

    name: str
    load: Callable[[Path, int], Any]
    methods: Mapping[str, Method]
    facts: Callable[[Any], dict[str, float]]
    criteria: Sequence[str] = ("valid",)


def train(study: Study, runs: Path, data: Path, seeds: Sequence[int] = SEEDS) -> None:
    """Make the files that are missing: every setting on the first seed, what was chosen on the others."""
    for seed in seeds:
        task = None
        for name, method in study.methods.items():
            folder = runs / study.name / name
            found = method.settings
            if seed != seeds[0]:
                found = sorted({chosen(folder, seeds[0], criterion) for criterion in study.criteria})
            for setting in found:
                path = folder / f"{setting:g}-{seed}.json"
                if path.exists():
                    continue
                task = task if task is not None else study.load(data, seed)
                _save(path, _once(study.name, name, method, task, setting, seed))


def chosen(folder: Path, seed: int, criterion: str = "valid") -> float:
    """The setting with the largest validation value on a seed; one that is not finite is never chosen."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob(f"*-{seed}.json"))]
    return max(found, key=lambda result: _finite(result[criterion]))["setting"]


def gather(study: Study, runs: Path, seeds: Sequence[int] = SEEDS, criterion: str = "valid") -> dict[str, Any]:
    """method -> the chosen setting, and for each seed the test metrics, the seconds and the curve."""
    found = {}
    for name, method in study.methods.items():
        folder = runs / study.name / name
        setting = chosen(folder, seeds[0], criterion)
        results = [json.loads((folder / f"{setting:g}-{seed}.json").read_text(encoding="utf-8")) for seed in seeds]
        entry: dict[str, Any] = {
            "setting": setting,
            "settings": list(method.settings),
            "seconds": [result["seconds"] for result in results],
            "test": {key: [result["test"][key] for result in results] for key in results[0]["test"]},
        }
        if "curve" in results[0]:
            entry["curve"] = {key: [result["curve"][key] for result in results] for key in results[0]["curve"]}
        found[name] = entry
    return found


def _once(study: str, name: str, method: Method, task: Any, setting: float, seed: int) -> dict[str, Any]:
    start = time.process_time()
    result = method.fit(task, setting, seed)
    seconds = round(time.process_time() - start, 2)
    shown = {key: round(value, 4) for key, value in result["test"].items()}
    print(f"{study:10} {name:20} {setting:<8g} seed {seed} {seconds:6.1f} s {result['valid']:9.4f} {shown}", flush=True)
    return {"study": study, "method": name, "setting": setting, "seed": seed, "seconds": seconds, **result}


def _finite(value: float) -> float:
    return value if math.isfinite(value) else -math.inf


def _save(path: Path, result: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".partial")
    aside.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    aside.replace(path)
