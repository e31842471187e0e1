"""A small split, a small model, and the arguments that most tests of the store share."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import nn

# Test folders are not packages; the toy is also run as a program of its own.
sys.path.insert(0, str(Path(__file__).parent))

from reference_toy import ABOUT, ToySplit, make_model, numbers

from guidestar.reference import Store, score


@pytest.fixture
def split() -> ToySplit:
    return ToySplit()


@pytest.fixture
def model() -> nn.Module:
    return make_model()


@pytest.fixture
def make_store(tmp_path: Path) -> Callable[..., Store]:
    """A store of losses and three logits, open for writing."""

    def make(rows: int = 20, path: Path | None = None, **changes: Any) -> Store:
        arrays = {"loss": ((), None), "logits": ((3,), None)}
        arguments = {"kind": "classification", "rows": rows, "arrays": arrays, "block": 8} | ABOUT | changes
        return Store.create(path or tmp_path / "store", **arguments)

    return make


@pytest.fixture
def full(make_store: Callable[..., Store]) -> Store:
    with make_store() as store:
        store.write(0, **numbers(20))
    return Store.open(store.path)


@pytest.fixture
def score_toy(tmp_path: Path) -> Callable[..., Store]:
    """`score` with the arguments that do not matter here."""

    def score_it(model: nn.Module, split: ToySplit, path: Path | Store | None = None, **changes: Any) -> Store:
        arguments = {"batch_size": 5, "device": "cpu", "reference_name": "toy", "weights_hash": "w0", "block": 16}
        return score(model, split, path or tmp_path / "store", **(arguments | {"progress": False} | changes))

    return score_it
