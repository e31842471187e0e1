"""`two_ranks(function)`: runs `function(rank)` in two processes that form a gloo group, and gives back what they return."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import start_processes


def _worker(rank: int, function: Callable[[int], Any], folder: Path) -> None:
    torch.set_num_threads(1)
    # Ranks that wait for each other fail after the timeout instead of hanging.
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    try:
        torch.save(function(rank), folder / f"{rank}.pt")
        dist.barrier()
    finally:
        dist.destroy_process_group()


@pytest.fixture
def two_ranks(tmp_path: Path) -> Callable[[Callable[[int], Any]], list[Any]]:
    def run(function: Callable[[int], Any]) -> list[Any]:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # newer Pythons warn about any fork of a process that has threads
            start_processes(_worker, args=(function, folder), nprocs=2, start_method="fork")
        return [torch.load(folder / f"{rank}.pt") for rank in range(2)]

    return run
