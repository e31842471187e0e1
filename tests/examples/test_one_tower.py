"""The script of self-supervised pre-training, on drawn images."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
METHODS = {"untrained", "reference", "simclr", "simclr_large", "sogclr", "isogclr", "robust", "drrho"}


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("one_tower", ROOT / "examples" / "one_tower.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["one_tower"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Bars of four directions on noise, in the layout of Fashion-MNIST."""
    random = np.random.default_rng(0)

    def draw(count: int) -> tuple[np.ndarray, np.ndarray]:
        labels = random.integers(0, 4, count)
        images = random.integers(0, 60, (count, 28, 28))
        for image, label in zip(images, labels, strict=True):
            at = int(random.integers(8, 20))
            rows = np.arange(28)
            places = [(at, slice(None)), (slice(None), at), (rows, rows), (rows, 27 - rows)]
            image[places[label]] = 255
        return images.astype(np.uint8), labels.astype(np.uint8)

    path = tmp_path / "bars.npz"
    (x_train, y_train), (x_test, y_test) = draw(300), draw(100)
    np.savez(path, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    return path


@pytest.fixture
def small(script: ModuleType):
    return script.Setting(
        images=96, reference_images=64, test_images=100, seeds=1, epochs=1, reference_passes=1,
        large_batch=64,
    )  # fmt: skip


def test_every_method_is_trained_and_judged(script: ModuleType, small, archive: Path) -> None:
    pytest.importorskip("sklearn")
    result = script.run(small, script.fashion_mnist(archive, small))
    assert set(result["results"]) == METHODS == set(script.names(result["setting"]))
    for name, metrics in result["results"].items():
        assert set(metrics) == {"linear_probe", "knn"}, name
        assert all(0 <= value <= 1 for values in metrics.values() for value in values)
    assert result["results"]["untrained"]["linear_probe"][0] > 0.3  # four classes that are easy to tell apart
    assert len({str(metrics) for metrics in result["results"].values()}) > 1  # they are different encoders
    assert script.table(result).row_count == len(METHODS)


def test_the_reference_changes_what_is_learnt_and_nothing_else_does(script: ModuleType, small, archive: Path) -> None:
    data = script.fashion_mnist(archive, small)(0)
    build = script.losses(small)
    arguments = {"batch_size": small.batch_size, "epochs": 1}
    once, again = (script.train(data.train, build["robust"](), small, 0, **arguments) for _ in range(2))
    steered = script.train(data.train, build["drrho"](), small, 0, reference=script.Encoder().eval(), **arguments)
    first = [next(encoder.parameters()) for encoder in (once, again, steered)]
    assert torch.equal(first[0], first[1])
    assert not torch.equal(first[0], first[2])


def test_the_images_of_target_and_reference_are_different_ones(script: ModuleType, small, archive: Path) -> None:
    data = script.fashion_mnist(archive, small)(0)
    mine = {image.numpy().tobytes() for image in data.train}
    others = {image.numpy().tobytes() for image in data.reference}
    assert len(mine) == small.images
    assert len(others) == small.reference_images
    assert not mine & others


def test_views_are_random_and_keep_their_shape(script: ModuleType) -> None:
    images = torch.rand(5, 1, 28, 28)
    generator = torch.Generator().manual_seed(0)
    first, second = script.view(images, generator), script.view(images, generator)
    assert first.shape == images.shape
    assert not torch.equal(first, second)
    assert torch.equal(first, script.view(images, torch.Generator().manual_seed(0)))


def test_the_guide_quotes_what_was_measured(script: ModuleType) -> None:
    result = json.loads((ROOT / "docs" / "figures" / "one_tower.json").read_text(encoding="utf-8"))
    assert result["setting"] == dataclasses.asdict(script.Setting())
    page = (ROOT / "docs" / "contrastive.md").read_text(encoding="utf-8")
    for name, text in script.names(result["setting"]).items():
        cells = [script.cell(result["results"][name][metric]) for metric in ("linear_probe", "knn")]
        assert f"| {text} | {' | '.join(cells)} |" in page
