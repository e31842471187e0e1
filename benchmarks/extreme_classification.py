"""A step of extreme classification with 10 thousand, 100 thousand and 1 million classes: the time does not depend on it.

    python benchmarks/extreme_classification.py [--repeats 15] [--device cpu] [--folder DIR]

B = 1024 samples, d = 256, float32: features from the CPU or the accelerator, class weights in host memory (with `--folder`:
also in memory-mapped files there), SCENT, forward and backward by features and weights, update of the weights. One process,
the sizes take turns; the labels of the timed steps are drawn anew from all classes. The dense head is what the step would
cost otherwise, at the smallest size. Ends with exit code 1 if a step at the largest size takes over 1.5 times as long as at
the smallest.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from interleaved import publish
from torch import Tensor, nn

import guidestar as gs
from guidestar.networks import ClassWeights

BATCH, WIDTH, SAMPLES = 1024, 256, 1_000_000
SIZES = (10_000, 100_000, 1_000_000)
LIMIT = 1.5
Step = Callable[[Tensor, Tensor, Tensor], None]


def sparse(classes: int, device: str, path: Path | None = None) -> Step:
    """A step with `ClassWeights`."""
    weights, loss = ClassWeights(classes, WIDTH, path=path), gs.losses.ExtremeClassificationLoss(SAMPLES).to(device)

    def step(features: Tensor, labels: Tensor, index: Tensor) -> None:
        logits, columns = weights(features, labels)
        loss(logits, columns, index).backward()
        weights.step()

    return step


def dense(classes: int, device: str) -> Step:
    """A step with a head of all classes and cross-entropy."""
    head = nn.Linear(WIDTH, classes, bias=False).to(device)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)

    def step(features: Tensor, labels: Tensor, index: Tensor) -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(head(features), labels.to(device)).backward()
        optimizer.step()

    return step


def interleaved(steps: dict[str, tuple[Step, int]], repeats: int, device: str) -> dict[str, float]:
    """The median milliseconds of a step; CPU time of the process on the CPU, so that others' load counts little."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    rng = torch.Generator().manual_seed(0)
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repeats + 3):
        for name, (step, classes) in steps.items():
            features = torch.randn(BATCH, WIDTH, generator=rng).to(device).requires_grad_()
            labels = torch.randint(classes, (BATCH,), generator=rng)
            index = torch.randint(SAMPLES, (BATCH,), generator=rng)
            start = clock()
            step(features, labels, index)
            if device != "cpu":
                torch.cuda.synchronize()
            taken[name].append(clock() - start)
    return {name: 1e3 * statistics.median(values[3:]) for name, values in taken.items()}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--folder", type=Path, help="also with memory-mapped files in this (new) folder")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    steps: dict[str, tuple[Step, int]] = {}
    for classes in SIZES:
        steps[f"{classes:,}"] = (sparse(classes, arguments.device), classes)
    for classes in SIZES if arguments.folder else ():
        steps[f"{classes:,}, memory-mapped"] = (
            sparse(classes, arguments.device, arguments.folder / str(classes)),
            classes,
        )
    steps[f"{SIZES[0]:,}, dense head, cross-entropy"] = (dense(SIZES[0], arguments.device), SIZES[0])
    times = interleaved(steps, arguments.repeats, arguments.device)
    base = times[f"{SIZES[0]:,}"]
    rows = [[name, f"{taken:.1f}", f"{taken / base:.2f}"] for name, taken in times.items()]
    publish(
        f"extreme_classification_{arguments.device}",
        f"A step of extreme classification, B = {BATCH}, d = {WIDTH}: forward, backward, update",
        ["classes", "ms", "to the fewest classes"],
        rows,
        f"Medians of {arguments.repeats} steps that take turns, each with labels drawn anew from all classes. The time is the "
        "process's CPU time on one thread, on a GPU the wall clock with the class weights in host memory; the files of the "
        "memory-mapped runs are in the page cache. The dense head moves all its classes in each step. Target: at most "
        f"{LIMIT} times the time of {SIZES[0]:,} classes at {SIZES[-1]:,}.",
    )
    if times[f"{SIZES[-1]:,}"] > LIMIT * base:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
