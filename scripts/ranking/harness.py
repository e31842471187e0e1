"""One training loop for every loss, one budget of tuning for every method, one JSON file for every training.

A method is a name, a loss, an optimizer and a sampler (`Trained`), or anything else that turns a task and a setting
into a function from samples to scores. A task is anything with `arguments` (what its losses are called with), `judge`
(its metrics), `network`, `rows`, `steps` and `batch_size`; see `task.BinaryTask`.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

Scorer = Callable[..., Any]
SEEDS = (0, 1, 2)


class Task(Protocol):
    """What the harness asks of a task."""

    @property
    def name(self) -> str: ...

    @property
    def steps(self) -> int: ...

    @property
    def batch_size(self) -> int: ...

    @property
    def rows(self) -> int: ...

    @property
    def network(self) -> Callable[[], nn.Module]: ...

    def arguments(self, model: nn.Module, rows: Tensor) -> tuple[Tensor, ...]: ...

    def judge(self, scorer: Scorer) -> dict[str, dict[str, float]]: ...


class Method(Protocol):
    """What the harness asks of a method: its settings are the values of the one number that is tuned."""

    @property
    def name(self) -> str: ...

    @property
    def settings(self) -> Sequence[float]: ...

    def fit(self, task: Any, setting: float, seed: int) -> Scorer: ...


@dataclass(frozen=True)
class Trained:
    """A network that is trained with a loss.

    Args:
        name: of the files and tables.
        make_loss: the loss of a task; called with what `task.arguments` gives.
        make_optimizer: from the model, the loss and the learning rate.
        make_batches: rows of each step, endless, from the task and the seed.
        settings: learning rates to choose from.
        scorer: makes the function that `task.judge` asks for out of the trained model.
        wrap: what is trained instead of the network itself, around the same parameters; None: nothing around it.
    """

    name: str
    make_loss: Callable[[Any], Any]
    make_optimizer: Callable[[nn.Module, Any, float], torch.optim.Optimizer]
    make_batches: Callable[[Any, int], Iterator[Tensor]]
    settings: Sequence[float]
    scorer: Callable[[nn.Module], Scorer]
    wrap: Callable[[nn.Module], nn.Module] | None = None

    def network(self, task: Any) -> nn.Module:
        """A new network as it is trained."""
        model = task.network()
        return model if self.wrap is None else self.wrap(model)

    def fit(self, task: Any, setting: float, seed: int) -> Scorer:
        """Train a new network."""
        torch.manual_seed(seed)
        model = self.network(task)
        self.teach(task, model, setting, seed, task.steps)
        return self.scorer(model)

    def teach(self, task: Any, model: nn.Module, setting: float, seed: int, steps: int) -> None:
        """Take so many steps from where the network is."""
        loss = self.make_loss(task)
        optimizer = self.make_optimizer(model, loss, setting)
        for _ in train(task, model, loss, optimizer, self.make_batches(task, seed), steps):
            pass


@dataclass(frozen=True)
class TwoStage:
    """Half of the steps with one loss, then half with another, whose learning rate is tuned.

    Args:
        name: of the files and tables.
        first: the method of the first half.
        rate: its learning rate.
        between: done to the network between the halves.
        second: the method of the second half.
    """

    name: str
    first: Trained
    rate: float
    between: Callable[[nn.Module], None]
    second: Trained

    @property
    def settings(self) -> Sequence[float]:
        """The learning rates of the second half."""
        return self.second.settings

    def fit(self, task: Any, setting: float, seed: int) -> Scorer:
        """Train a new network with one loss and then with the other."""
        torch.manual_seed(seed)
        model = task.network()
        self.first.teach(task, model, self.rate, seed, task.steps // 2)
        self.between(model)
        self.second.teach(task, model, setting, seed + 1, task.steps - task.steps // 2)
        return self.second.scorer(model)


def train(
    task: Any, model: nn.Module, loss: Any, optimizer: torch.optim.Optimizer, batches: Iterator[Tensor], steps: int
) -> Iterator[int]:
    """Take so many steps with a cosine schedule; yields how many were taken after each of them."""
    rates = [group["lr"] for group in optimizer.param_groups]
    model.train()
    for step in range(steps):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * (1 + math.cos(math.pi * step / steps)) / 2
        value = loss(*task.arguments(model, next(batches)))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        yield step + 1
        model.train()


def run(
    make_task: Callable[[int], Any], name: str, methods: Sequence[Method], folder: Path, seeds: Sequence[int] = SEEDS
) -> None:
    """Train every method on a task; what has its file is not trained again.

    On the first seed a method is trained with each of its settings, and the one with the highest validation value of
    the task's criterion is used for the other seeds.
    """
    for seed in seeds:
        task = None
        for method in methods:
            tuning = seed == seeds[0]
            for setting in method.settings if tuning else [chosen(folder / name / method.name, seeds[0])]:
                path = folder / name / method.name / f"{setting:g}-{seed}.json"
                if path.exists():
                    continue
                task = task or make_task(seed)
                _save(path, _once(task, method, setting, seed))


def chosen(folder: Path, seed: int, criterion: str = "auroc") -> float:
    """The setting of the files of one seed with the highest validation value."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob(f"*-{seed}.json"))]
    return max(found, key=lambda result: result["valid"].get(criterion, -math.inf))["setting"]


def _once(task: Any, method: Method, setting: float, seed: int) -> dict[str, Any]:
    start = time.process_time()
    scorer = method.fit(task, setting, seed)
    seconds = round(time.process_time() - start, 3)
    result = {"task": task.name, "method": method.name, "setting": setting, "seed": seed, "seconds": seconds}
    try:
        result.update(task.judge(scorer))
    except ValueError as error:  # scores that are not finite: the setting is out, and the file says why
        result.update({"valid": {}, "test": {}, "failed": str(error)})
    print(f"{task.name:12} {method.name:22} {setting:<8g} seed {seed}  {seconds:6.1f} s  {result['test']}", flush=True)
    return result


def _save(path: Path, result: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)
