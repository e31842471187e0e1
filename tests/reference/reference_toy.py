"""A split and a model that need no files; run as a program, it scores them into a store, dying on request."""

import argparse
import os
import signal
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from guidestar.reference import arrays as array_files
from guidestar.reference import score

ABOUT = {
    "reference": {"name": "toy", "weights": "w0"},
    "dataset": {"name": "train", "fingerprint": "f0", "classes": 3},
}


class ToySplit:
    """Normal inputs and random labels, with keys that are not row numbers."""

    def __init__(self, rows: int = 100, features: int = 4, num_classes: int = 3, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.name = "train"
        self.num_classes = num_classes
        self.inputs = torch.randn(rows, features, generator=generator)
        self.labels = torch.randint(0, num_classes, (rows,), generator=generator)
        self.names = [f"sample-{row}" for row in range(rows)]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, rows: list[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        index = torch.tensor(rows)
        return self.inputs[index], self.labels[index], index

    def keys(self, rows: list[int]) -> list[str]:
        return [self.names[row] for row in rows]

    def fingerprint(self) -> str:
        return f"{hash((self.inputs.numpy().tobytes(), self.labels.numpy().tobytes())):x}"

    def subset(self, rows: list[int]) -> "ToySplit":
        part = ToySplit(1)
        part.num_classes = self.num_classes
        part.inputs, part.labels, _ = self.__getitems__(rows)
        part.names = self.keys(rows)
        return part

    def with_labels(self, labels: torch.Tensor) -> "ToySplit":
        copy = self.subset(list(range(len(self))))
        copy.labels = labels
        return copy


class FixedSplit(ToySplit):
    """A split whose fingerprint is the same in every process (Python's own hash is not)."""

    def fingerprint(self) -> str:
        return "f0"


def numbers(rows: int) -> dict[str, np.ndarray]:
    """A loss and three logits a row that say which row they belong to; exact in float16."""
    row = np.arange(rows, dtype=np.float32)
    return {"loss": row + 0.5, "logits": np.stack([row, -row, row / 2], axis=1)}


def make_model(features: int = 4, num_classes: int = 3) -> nn.Module:
    """A network with dropout, so that scoring in training mode would show."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(features, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, num_classes))


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _die_while_writing(call: int) -> None:
    """Die in the given call of `write_all`, when half of its bytes are in the file."""
    whole = array_files.write_all
    calls = 0

    def half(handle: array_files.FileIO, values: np.ndarray) -> None:
        nonlocal calls
        calls += 1
        if calls == call:
            whole(handle, values.reshape(-1).view(np.uint8)[: values.nbytes // 2])
            _die()
        whole(handle, values)

    array_files.write_all = half


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("path", type=Path)
    parser.add_argument("--rank", type=int, default=0)
    parser.add_argument("--world", type=int, default=1)
    parser.add_argument("--pause", type=float, default=0.0)
    parser.add_argument("--die-after-rows", type=int)
    parser.add_argument("--die-in-write", type=int)
    options = parser.parse_args()
    if options.die_in_write:
        _die_while_writing(options.die_in_write)

    def on_block(rows: int) -> None:
        print(rows, flush=True)
        time.sleep(options.pause)
        if options.die_after_rows is not None and rows >= options.die_after_rows:
            _die()

    torch.set_num_threads(1)
    score(
        make_model(),
        FixedSplit(rows=1003),
        options.path,
        batch_size=24,
        device="cpu",
        reference_name="toy",
        weights_hash="w0",
        rank=options.rank,
        world=options.world,
        progress=False,
        block=64,
        on_block=on_block,
    )


if __name__ == "__main__":
    main()
