"""A small split, a small model, and the arguments that most tests of the store share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from guidestar.reference import Store, score
from reference.toy import ABOUT, ToySplit, make_model


@pytest.fixture
def split() -> ToySplit:
    return ToySplit()


@pytest.fixture
def model() -> nn.Module:
    return make_model()


@pytest.fixture
def make_store(tmp_path: Path) -> Callable[..., Store]:
    """A store of losses and three logits that is open for writing."""

    def make(rows: int = 20, **changes: Any) -> Store:
        arrays = {"loss": ((), None), "logits": ((3,), None)}
        arguments = {"kind": "classification", "rows": rows, "arrays": arrays, "block": 8} | ABOUT | changes
        return Store.create(tmp_path / "store", **arguments)

    return make


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Store]:
    """`score` with the arguments that do not matter here."""

    def score_it(model: nn.Module, split: ToySplit, path: Any = None, **changes: Any) -> Store:
        arguments = {"batch_size": 5, "device": "cpu", "reference_name": "toy", "weights_hash": "w0", "block": 16}
        arguments |= {"progress": False}
        return score(model, split, path or tmp_path / "store", **(arguments | changes))

    return score_it


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def numbers(rows: int) -> dict[str, np.ndarray]:
    """A loss and three logits a row that say which row they belong to; exact in float16."""
    row = np.arange(rows, dtype=np.float32)
    return {"loss": row + 0.5, "logits": np.stack([row, -row, row / 2], axis=1)}
