"""What the benchmarks share: alternating timing, the environment, and a table for the terminal and for a file."""

from __future__ import annotations

import datetime
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

import guidestar as gs

RESULTS = Path(__file__).parent / "results"


def medians(
    first: Callable[[], object], second: Callable[[], object], *, repeats: int, inner: int
) -> tuple[float, float]:
    """The median time of one call of each of two functions, in microseconds.

    They take turns: every repeat times `inner` calls of the first, then of the second, so that a disturbance of the
    machine meets both alike and their ratio stays comparable.
    """
    for _ in range(100):
        first()
        second()
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for call, taken in zip((first, second), seconds, strict=True):
            start = time.perf_counter()
            for _ in range(inner):
                call()
            taken.append((time.perf_counter() - start) / inner)
    return 1e6 * statistics.median(seconds[0]), 1e6 * statistics.median(seconds[1])


def environment() -> str:
    """What the numbers were made with, in a line."""
    return (
        f"guidestar {gs.__version__}, torch {torch.__version__}, Python {platform.python_version()}, "
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} thread, "
        f"load {os.getloadavg()[0]:.1f}, {datetime.date.today().isoformat()}"
    )


def publish(name: str, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], notes: str) -> Path:
    """Print the table, and write it with the environment to `results/DATE_NAME.md`."""
    table = Table(title=title)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    for row in rows:
        table.add_row(*row)
    console = Console()
    console.print(table)
    console.print(notes)
    lines = [f"# {title}", "", f"Environment: {environment()}.", "", f"| {' | '.join(columns)} |"]
    lines += ["|---|" + "---:|" * (len(columns) - 1), *(f"| {' | '.join(row)} |" for row in rows), "", notes, ""]
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{datetime.date.today().isoformat()}_{name}.md"
    path.write_text("\n".join(lines), encoding="utf-8")
    console.print(f"written: {path.name}")
    return path
