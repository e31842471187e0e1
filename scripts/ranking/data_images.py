"""Imbalanced binary tasks of Fashion-MNIST and CIFAR-10, made as the book's section 6.4 does.

The classes are split into two halves by their number: 0 to 4 are negative, 5 to 9 positive. Of the training images,
24,000 negatives are drawn and as many positives as the positive rate asks for; the validation part (other training
images) and the test part (all test images) are balanced. CIFAR-10's images are halved to 16 x 16 pixels.
"""

from __future__ import annotations

import io
import itertools
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from .task import BinaryTask, Part

NEGATIVES = 24_000
VALIDATION = 1_000
BATCH_SIZE = 64
RATES = {"01": 0.01, "02": 0.02, "10": 0.10}
#: Name -> the title and the optimizer steps.
SETS = {"fashion": ("Fashion-MNIST", 300), "cifar": ("CIFAR-10", 600)}


class Convolutions(nn.Sequential):
    """Three strided convolutions and a linear layer: small enough for one core, without batch statistics."""

    def __init__(self, shape: tuple[int, int, int], width: int = 16) -> None:
        side = shape[1]
        for _ in range(3):
            side = (side + 1) // 2
        super().__init__(
            nn.Conv2d(shape[0], width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(2 * width, 4 * width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(4 * width * side**2, 1),
        )


def load_images(name: str, rate: float, seed: int, data: Path, cache: Path) -> BinaryTask:
    """The task `fashion` or `cifar` at a positive rate; each seed draws its own training and validation images."""
    images, classes, test_images, test_classes = _read(name, data, cache)
    generator = np.random.default_rng(seed)
    labels = (classes >= 5).astype(np.int64)
    drawn = {value: generator.permutation(np.flatnonzero(labels == value)) for value in (0, 1)}
    positives = round(NEGATIVES * rate / (1 - rate))
    train = np.concatenate([drawn[0][:NEGATIVES], drawn[1][:positives]])
    valid = np.concatenate([drawn[value][-VALIDATION:] for value in (0, 1)])
    if len(np.intersect1d(train, valid)):
        raise ValueError(f"{name} has too few images for {NEGATIVES} negatives and a validation part.")
    title, steps = SETS[name]
    pixels = _halved if name == "cifar" else _pixels
    test = Part(pixels(test_images), torch.from_numpy((test_classes >= 5).astype(np.int64)))
    shape = (test.x.shape[1], test.x.shape[2], test.x.shape[3])
    return BinaryTask(
        name=f"{name}-{round(100 * rate):02d}",
        title=f"{title}, {100 * rate:g} % positive",
        train=Part(pixels(images[train]), torch.from_numpy(labels[train])),
        valid=Part(pixels(images[valid]), torch.from_numpy(labels[valid])),
        test=test,
        network=lambda: Convolutions(shape),
        steps=steps,
        batch_size=BATCH_SIZE,
    )


def _pixels(images: np.ndarray) -> Tensor:
    """uint8 `[n, C, H, W]` to floats around 0."""
    return torch.from_numpy(np.ascontiguousarray(images)).float().div_(127.5).sub_(1.0)


def _halved(images: np.ndarray) -> Tensor:
    """The same at half the size, by the mean of four pixels."""
    return functional.avg_pool2d(_pixels(images), 2)


def _read(name: str, data: Path, cache: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Images `[n, C, H, W]` uint8 and classes of the training and of the test part."""
    if name == "fashion":
        with np.load(data / "fashion_mnist" / "fashion_mnist.npz") as archive:
            x, y = archive["x_train"][:, None], archive["y_train"]
            return x, y, archive["x_test"][:, None], archive["y_test"]
    with np.load(data / "cifar10" / "cifar10_jpeg.npz") as archive:
        labels, test = archive["label"], archive["split"] == 1
        decoded = cache / "cifar10.npy"
        if not decoded.exists():
            cache.mkdir(parents=True, exist_ok=True)
            np.save(decoded, _decode(archive["jpeg"], archive["offsets"]))
    images = np.load(decoded, mmap_mode="r")
    return images[~test], labels[~test], images[test], labels[test]


def _decode(jpeg: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    from PIL import Image

    pictures = [
        np.asarray(Image.open(io.BytesIO(jpeg[start:end].tobytes()))) for start, end in itertools.pairwise(offsets)
    ]
    return np.stack(pictures).transpose(0, 3, 1, 2)
