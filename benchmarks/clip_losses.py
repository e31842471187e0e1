"""DRRho-CLIP with a reference against plain two-way cross-entropy on the same features: time and peak memory.

    python benchmarks/clip_losses.py [--repeats 7] [--large 8192] [--device cuda]

Eager: at most 1.6 times the time and 1.3 times the peak memory of cross-entropy at B = 1024 and 2048. Tiled, at the large
size: at most 5 % of the eager path's extra memory and 1.5 times its time. One process; the losses take turns. Ends with
exit code 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from interleaved import publish
from torch import Tensor
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

import guidestar as gs

WIDTH = 512
Call = Callable[[], object]


def features(count: int, device: str) -> list[Tensor]:
    """Unit-norm features of the two towers, and of the reference's."""
    generator = torch.Generator().manual_seed(0)
    made = (torch.randn(count, WIDTH, generator=generator) for _ in range(4))
    return [functional.normalize(values, dim=1).to(device) for values in made]


def cross_entropy(given: list[Tensor]) -> Call:
    """Plain two-way cross-entropy, as open_clip's loss computes it."""
    one, other = (values.clone().requires_grad_() for values in given[:2])
    labels = torch.arange(len(one), device=one.device)

    def call() -> None:
        one.grad = other.grad = None
        logits = 20.0 * one @ other.T
        (functional.cross_entropy(logits, labels) + functional.cross_entropy(logits.T, labels)).backward()

    return call


def steered(given: list[Tensor], loss: gs.losses.DRRhoCLIPLoss) -> Call:
    """DRRho-CLIP with the reference's features."""
    one, other = (values.clone().requires_grad_() for values in given[:2])
    reference_image, reference_text = given[2:]
    index = torch.arange(len(one))
    loss = loss.to(one.device)

    def call() -> None:
        one.grad = other.grad = None
        loss(one, other, index, reference_image=reference_image, reference_text=reference_text).backward()

    return call


def variants(count: int) -> dict[str, Callable[[bool], gs.losses.DRRhoCLIPLoss]]:
    """The losses by their temperatures; the argument says whether they are tiled."""
    clip = gs.losses.DRRhoCLIPLoss
    return {
        "KL(0.05)": lambda tiled: clip(gs.KL(0.05), tiled=tiled),
        "KL(0.05, n, gamma=0.5)": lambda tiled: clip(gs.KL(0.05, count, 0.5), tiled=tiled),
        "KLBall(2), one tau": lambda tiled: clip(gs.KLBall(2.0, tau=0.05), joint_temperature=True, tiled=tiled),
        "KLBall(2), tau a sample": lambda tiled: clip(
            gs.KLBall(2.0, tau=0.05, per_row=True, num_rows=count, gamma=0.5), tiled=tiled
        ),
    }


def peak(call: Call, device: str) -> float:
    """The most memory that is allocated at a time within the call, in MB, beyond what there was before."""
    if device != "cpu":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    call()  # so that what is freed at the start is what the last call left, as in training
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        call()
    now = least = most = 0
    for event in recorded.profiler.kineto_results.events():  # in the order of time
        if event.name() == "[memory]":
            now += event.nbytes()
            least, most = min(least, now), max(most, now)
    return (most - least) / 1e6


def interleaved(calls: dict[str, Call], repeats: int, device: str) -> dict[str, float]:
    """The median milliseconds of each call; CPU time of the process on the CPU, so that others' load counts little."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats + 1):
        for name, call in calls.items():
            start = clock()
            call()
            if device != "cpu":
                torch.cuda.synchronize()
            taken[name].append(clock() - start)
    return {name: 1e3 * sorted(values[1:])[repeats // 2] for name, values in taken.items()}


def measure(count: int, repeats: int, device: str, *, tiled: bool) -> tuple[list[list[str]], bool]:
    """The rows of a size, and whether all targets are met."""
    given = features(count, device)
    calls = {"cross-entropy": cross_entropy(given)} if not tiled else {}
    for name, make in list(variants(count).items())[:: 3 if tiled else 1]:  # large: the cheapest and the dearest
        calls[name] = steered(given, make(False))
        if tiled:
            calls[f"{name}, tiled"] = steered(given, make(True))
    times = interleaved(calls, repeats, device)
    memory = {name: peak(call, device) for name, call in calls.items()}
    rows, good = [], True
    for name in calls:
        base = name.removesuffix(", tiled") if tiled else "cross-entropy"
        time_ratio, memory_ratio = times[name] / times[base], memory[name] / memory[base]
        limits = (1.5, 0.05) if tiled else (1.6, 1.3)
        within = name == base or (time_ratio <= limits[0] and memory_ratio <= limits[1])
        good &= within
        numbers = [f"{times[name]:.0f}", f"{time_ratio:.2f}", f"{memory[name]:.0f}", f"{memory_ratio:.3f}"]
        rows.append([f"{count}: {name}", *numbers, "yes" if within else "NO"])
    return rows, good


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--large", type=int, default=8192)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows, good = [], True
    for count in (1024, 2048):
        more, met = measure(count, arguments.repeats, arguments.device, tiled=False)
        rows, good = rows + more, good and met
    more, met = measure(arguments.large, max(3, arguments.repeats // 3), arguments.device, tiled=True)
    publish(
        f"clip_losses_{arguments.device}",
        f"DRRho-CLIP with a reference, d = d' = {WIDTH}, forward and backward",
        ["batch and loss", "ms", "time ratio", "peak MB", "memory ratio", "within"],
        rows + more,
        "Ratios are to cross-entropy at the small sizes and to the eager path of the same risk at the large one; medians of "
        f"{arguments.repeats} repeats (large: {max(3, arguments.repeats // 3)}) that take turns. Time is the process's CPU "
        "time on one thread, on a GPU the wall clock. Memory is the peak within a call, beyond the features themselves; the "
        "gradients are in it. Targets: eager 1.6 and 1.3, tiled 1.5 and 0.05.",
    )
    if not (good and met):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
