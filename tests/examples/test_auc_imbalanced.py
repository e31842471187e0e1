"""The script of imbalanced classification, on the digits and on a small file in the layout of Fashion-MNIST."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from rich.console import Console

pytest.importorskip("sklearn")

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("auc_imbalanced", ROOT / "examples" / "auc_imbalanced.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["auc_imbalanced"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Noise, with a bright square in the images of the classes 5 to 9."""
    random = np.random.default_rng(0)

    def draw(count: int) -> tuple[np.ndarray, np.ndarray]:
        labels = random.integers(0, 10, count)
        images = random.integers(0, 150, (count, 28, 28))
        images[labels >= 5, 10:16, 10:16] += 60
        return images.astype(np.uint8), labels.astype(np.uint8)

    path = tmp_path / "squares.npz"
    (x_train, y_train), (x_test, y_test) = draw(2000), draw(1000)
    np.savez(path, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    return path


def test_positives_are_dropped_until_they_have_the_rate(script: ModuleType, archive: Path) -> None:
    setting = dataclasses.replace(script.Setting(), images=1500, rate=0.1)
    train, test = script.load(archive, setting, seed=0)
    for data, negatives in ((train, 750), (test, 500)):
        labels = data.tensors[1]
        assert abs(int((labels == 0).sum()) - negatives) < 60
        assert float(labels.float().mean()) == pytest.approx(0.1, abs=0.002)
    assert train.tensors[0].shape[1] == 784
    other = script.load(archive, setting, seed=1)[0]
    assert not torch.equal(train.tensors[0][:5], other.tensors[0][:5])


def test_every_loss_learns_the_order(script: ModuleType, archive: Path) -> None:
    setting = dataclasses.replace(script.Setting(), images=2000, rate=0.1, steps=60, seeds=1)
    found = script.run(archive, setting)
    assert list(found) == list(script.METHODS)
    for method, values in found.items():
        assert values.shape == (1, 3)
        if method != "cross-entropy, shuffled":
            assert values[0, 0] > 0.8, method


def test_digits_without_a_file_and_the_table(script: ModuleType, tmp_path: Path) -> None:
    setting = dataclasses.replace(script.Setting(), steps=20, seeds=2)
    train, _ = script.load(tmp_path / "missing.npz", setting, seed=0)
    assert train.tensors[0].shape[1] == 64
    assert float(train.tensors[1].float().mean()) == pytest.approx(0.05, abs=0.002)
    found = {"SOPALoss": np.array([[0.9, 0.5, 0.7], [0.8, 0.5, 0.7]])}
    console = Console(record=True, width=120)
    console.print(script.table(found, "title", setting))
    assert "85.0 ± 7.1" in console.export_text()
