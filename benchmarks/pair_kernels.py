"""The triton kernels of tiled contrastive losses against the tiles and the whole matrix, on a CUDA GPU.

   python benchmarks/pair_kernels.py [--width 512] [--repeats 20] [--precision highest]

A call is the statistics of rows and columns, and the gradients by both features, in float32; with a reference the matrix
is a difference of two. The three take turns. Ends with exit code 1 if the kernels take longer than the tiles at any batch
of 4,096 or more.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import torch
from interleaved import publish
from torch.nn import functional

from guidestar.pairwise import kernels, tiles
from guidestar.pairwise.mask import PairMask
from guidestar.pairwise.statistics import Features, pair_statistics

BATCHES = (1024, 4096, 8192, 16384, 32768)
#: The largest batch at which the whole matrix is made (several matrices of 4 B^2 bytes).
MATRIX = 16384
FROM = 4096

Call = Callable[[], object]


def calls(batch: int, width: int, reference: bool) -> dict[str, Call]:
    """What is compared, by name."""
    generator = torch.Generator(device="cuda").manual_seed(0)
    x, y, r, t = (
        functional.normalize(torch.randn(batch, width, generator=generator, device="cuda"), dim=1) for _ in range(4)
    )
    x.requires_grad_()
    y.requires_grad_()
    features = Features(x, y, r, t) if reference else Features(x, y)
    scale = torch.full((batch,), 20.0, device="cuda")
    mask = PairMask(batch, batch, hide_own=True)
    four = (features.x, features.y, features.reference_x, features.reference_y)

    def through(function: type[torch.autograd.Function]) -> Call:
        def call() -> None:
            made = function.apply(*four, scale, scale, mask)
            torch.autograd.grad(made[0].sum() + made[3].sum(), (x, y))

        return call

    def matrix() -> None:
        rows, columns = pair_statistics(features, scale, scale, mask)
        if columns is None:
            raise RuntimeError("no statistics of the columns")
        torch.autograd.grad(rows.log_sum.sum() + columns.log_sum.sum(), (x, y))

    found: dict[str, Call] = {"kernels": through(kernels.PairKernels), "tiles": through(tiles._Tiles)}
    return found | ({"matrix": matrix} if batch <= MATRIX else {})


def milliseconds(compared: dict[str, Call], repeats: int) -> dict[str, float]:
    """The median time of each, taking turns."""
    for call in compared.values():
        for _ in range(3):
            call()
    taken: dict[str, list[float]] = {name: [] for name in compared}
    for _ in range(repeats):
        for name, call in compared.items():
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            call()
            end.record()
            end.synchronize()
            taken[name].append(start.elapsed_time(end))
    return {name: statistics.median(values) for name, values in taken.items()}


def megabytes(call: Call) -> float:
    """The most memory during a call, beyond what was there before."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 1e6


def main() -> None:
    """Time, print, write."""
    parser = argparse.ArgumentParser(description="Triton kernels against tiles and the matrix.")
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--precision", choices=("highest", "high"), default="highest")
    options = parser.parse_args()
    if not torch.cuda.is_available() or not kernels.triton_works():
        raise SystemExit("This benchmark needs a CUDA GPU, triton and a C compiler.")
    torch.set_float32_matmul_precision(options.precision)
    rows, slow = [], 0
    for reference in (False, True):
        for batch in BATCHES:
            compared = calls(batch, options.width, reference)
            times = milliseconds(compared, options.repeats)
            memory = {name: megabytes(call) for name, call in compared.items()}
            ratio = times["kernels"] / times["tiles"]
            slow += batch >= FROM and ratio > 1
            cells = [f"{table[name]:.1f}" if name in table else "-" for table in (times, memory) for name in
                     ("kernels", "tiles", "matrix")]  # fmt: skip
            rows.append([f"{batch:,}{', reference' if reference else ''}", *cells, f"{ratio:.2f}"])
    publish(
        "pair_kernels_gpu",
        f"Statistics and gradients of all pairs of two towers, width {options.width}, float32",
        [
            "batch",
            "kernels, ms",
            "tiles, ms",
            "matrix, ms",
            "kernels, MB",
            "tiles, MB",
            "matrix, MB",
            "kernels / tiles",
        ],
        rows,
        f"{torch.cuda.get_device_name()}, matmul precision {options.precision!r}. Medians of {options.repeats} calls, the "
        "three taking turns. MB: the most memory during a call beyond the features.",
    )
    if slow:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
