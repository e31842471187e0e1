"""Data that needs no file."""

from __future__ import annotations

from typing import Any

import numpy as np

from guidestar.data.arrays import ArraySplit


def read_digits(name: str) -> ArraySplit:
    """Scikit-learn's digits: 1,797 handwritten digits, 8 x 8 pixels with 17 shades, scaled to [0, 1].

    Args:
        name: "train" or "test".

    Raises:
        ImportError: scikit-learn (extra `demo`) is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError('`source: sklearn_digits` needs scikit-learn: pip install "guidestar[demo]"') from error
    bunch: Any = load_digits()
    return ArraySplit(bunch.images.astype(np.float32) / 16, bunch.target, name=name, num_classes=10)
