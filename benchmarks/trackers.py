"""Memory and step time of a `Tracker` against its number of rows.

    python benchmarks/trackers.py [--repeats 300]

A row costs 4 bytes, and a step costs the same however many rows there are. Two kinds of batches tell the algorithm from
the memory hardware: `close` rows lie within 10,000 neighbours (in the processor's cache whatever the number of rows),
`random` rows lie anywhere, so that with many rows each one is a cache miss. Ends with exit code 1 if a row costs more
than 4 bytes or the step on close rows grows with the number of rows by more than a fifth.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from interleaved import medians, publish
from torch import Tensor

import guidestar as gs

SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
BATCHES = (256, 4096)
BYTES, GROWTH = 4, 1.2
INNER = 3


def state_bytes(tracker: gs.Tracker) -> int:
    """Bytes of everything in the state dict."""
    return sum(value.numel() * value.element_size() for value in tracker.state_dict().values())


def step(tracker: gs.Tracker, batch: int, span: int) -> Callable[[], None]:
    """A call that tracks the next of 64 prepared batches of rows below `span`, forward and backward."""
    generator = torch.Generator().manual_seed(0)
    indices = [torch.randint(span, (batch,), generator=generator) for _ in range(64)]
    estimate: Tensor = torch.rand(batch, generator=generator).requires_grad_()
    turn = 0

    def call() -> None:
        nonlocal turn
        turn += 1
        estimate.grad = None
        tracker(estimate, indices[turn % len(indices)]).mean().backward()

    return call


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=300)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    small = gs.Tracker(SIZES[0], gamma=0.9)
    rows: list[list[str]] = []
    failed = False
    for size in SIZES:
        tracker = gs.Tracker(size, gamma=0.9)
        per_row = state_bytes(tracker) / size
        failed |= per_row > BYTES
        for batch in BATCHES:
            peer = step(small, batch, SIZES[0])
            base, close = medians(peer, step(tracker, batch, SIZES[0]), repeats=repeats, inner=INNER)
            other, scattered = medians(peer, step(tracker, batch, size), repeats=repeats, inner=INNER)
            failed |= close / base > GROWTH
            ratios = [f"{close / base:.2f}", f"{scattered / other:.2f}"]
            memory = [f"{state_bytes(tracker) / 1e6:.2f}", f"{per_row:g}"]
            rows.append([f"{size:,}", *memory, f"{batch:,}", f"{close:.0f}", *ratios])
    publish(
        "trackers_cpu",
        "A tracker's step (forward and backward) and memory against its number of rows",
        ["rows", "MB", "bytes a row", "batch", "microseconds", "ratio, close", "ratio, random"],
        rows,
        f"Medians of {repeats} repeats of {INNER} steps. A ratio is that to a tracker of {SIZES[0]:,} rows with which it "
        "takes turns in one process on one thread. Close rows: row numbers below 10,000, in cache for every size. Random "
        "rows: anywhere, so that with many rows each row read and written is a cache miss; that is the memory's cost, not "
        "the algorithm's.",
    )
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
