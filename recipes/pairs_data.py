"""The image-text pairs of `fashion_products.yaml` and `flickr8k.yaml`, read from the files beside a checkout."""

from __future__ import annotations

import gzip
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
SPLITS = {"train": 0, "dev": 1, "test": 2}


def fashion_products(folder: str = "../../shared/data/fashion_products") -> dict[str, Any]:
    """Product photos of 72 x 72 pixels with their titles; the labels are the article types."""
    images, _ = _pictures(HERE / folder / "fashion_products_72px.npz")
    products = _lines(HERE / folder / "products.jsonl.gz")
    return {
        "images": images,
        "captions": [product["title"] for product in products],
        "labels": [product["articleType"] for product in products],
        "keys": [str(product["id"]) for product in products],
    }


def flickr8k(split: str, folder: str = "../../shared/data/flickr8k") -> dict[str, Any]:
    """Photos of 96 x 96 pixels with five captions each, of the official split "train", "dev" or "test"."""
    images, splits = _pictures(HERE / folder / "flickr8k_96px.npz")
    photos = _lines(HERE / folder / "captions.jsonl.gz")
    rows = [row for row, number in enumerate(splits) if number == SPLITS[split]]
    return {
        "images": [images[row] for row in rows],
        "captions": [photos[row]["captions"] for row in rows],
        "keys": [photos[row]["name"] for row in rows],
    }


def _pictures(path: Path) -> tuple[list[bytes], list[int]]:
    """The JPEG files in an archive, and the split of each, if it says so."""
    with np.load(path) as archive:
        jpeg, ends = archive["jpeg"], archive["offsets"].tolist()
        splits = archive["split"].tolist() if "split" in archive.files else []
    return [jpeg[start:end].tobytes() for start, end in pairwise(ends)], splits


def _lines(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        return [json.loads(line) for line in stream]
