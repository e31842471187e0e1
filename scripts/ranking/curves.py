"""Trainings that are looked at on the way: the curves of the figures, each with a tuned learning rate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from .harness import SEEDS, Trained, train
from .task import Part, network_scorer

#: From a scorer and a part, the number that a figure shows; larger is better.
Measure = Callable[[Callable[[Part], Any], Part], float]


def curve(
    task: Any, method: Trained, lr: float, seed: int, every: int, look: Callable[[nn.Module, Any], Any]
) -> dict[str, list[Any]]:
    """Train once; `look` at the model and the loss before the first step and after each `every` steps."""
    torch.manual_seed(seed)
    model = method.network(task)
    loss = method.make_loss(task)
    optimizer = method.make_optimizer(model, loss, lr)
    steps, values = [0], [look(model, loss)]
    for step in train(task, model, loss, optimizer, method.make_batches(task, seed), task.steps):
        if step % every == 0:
            steps.append(step)
            values.append(look(model, loss))
    return {"steps": steps, "values": values}


def tuned_curves(
    make_task: Callable[[int], Any], methods: Sequence[Trained], every: int, measure: Measure
) -> dict[str, dict[str, Any]]:
    """The test curve of each method for each seed, at the learning rate with the best last validation value on seed 0."""
    found: dict[str, dict[str, Any]] = {}
    for seed in SEEDS:
        task = make_task(seed)
        look = _looker(task.test, measure)
        for method in methods:
            if seed == SEEDS[0]:
                found[method.name] = {"lr": _best_rate(task, method, seed, measure), "steps": [], "values": []}
            entry = found[method.name]
            made = curve(task, method, entry["lr"], seed, every, look)
            entry["steps"] = made["steps"]
            entry["values"].append(made["values"])
    return found


def _best_rate(task: Any, method: Trained, seed: int, measure: Measure) -> float:
    look = _looker(task.valid, measure)
    last = {lr: curve(task, method, lr, seed, task.steps, look)["values"][-1] for lr in method.settings}
    return max(last, key=lambda lr: last[lr])


def _looker(part: Part, measure: Measure) -> Callable[[nn.Module, Any], float]:
    return lambda model, loss: measure(network_scorer(model), part)
