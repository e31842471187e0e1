"""Which binary tasks there are, and which methods run on each."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from . import data_images, data_molecules, data_tables, methods, peers
from .harness import Method
from .task import BinaryTask

#: Name of a task -> its kind.
TASKS = {
    **dict.fromkeys(data_tables.SETS, "table"),
    **dict.fromkeys(data_molecules.SETS, "molecules"),
    **{f"{name}-{rate}": "images" for name in data_images.SETS for rate in data_images.RATES},
}


def task_maker(name: str, data: Path, cache: Path) -> Callable[[int], BinaryTask]:
    """What makes the task of a seed."""
    kind = TASKS[name]
    if kind == "table":
        return partial(data_tables.load_table, name, data=data)
    if kind == "molecules":
        return partial(data_molecules.load_molecules, name, data=data, cache=cache)
    images, _, rate = name.partition("-")
    return partial(_images, images, data_images.RATES[rate], data, cache)


def _images(name: str, rate: float, data: Path, cache: Path, seed: int) -> BinaryTask:
    return data_images.load_images(name, rate, seed, data, cache)


#: Left out of the images, whose trainings take longest: each has a sibling that is there.
NOT_ON_IMAGES = ("ce_weighted", "chi_square", "libauc_comp", "libauc_sopa")


def methods_of(name: str) -> tuple[Method, ...]:
    """The methods of a task, without those whose package is not installed."""
    networks = (*methods.BASELINES, *methods.OURS, *peers.installed(("libauc", peers.LIBAUC)))
    if TASKS[name] == "images":
        return tuple(method for method in networks if method.name not in NOT_ON_IMAGES)
    trees = peers.installed(("lightgbm", (peers.Trees("lightgbm"),)), ("xgboost", (peers.Trees("xgboost"),)))
    if TASKS[name] == "molecules":
        return (*networks, *trees)
    return (*networks, *trees, *peers.installed(("dro", (peers.LinearChiSquare(),))))
