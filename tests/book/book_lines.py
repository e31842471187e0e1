"""What the tests of this folder share: a linear model whose gradients are written by hand, and batches of its data.

Nothing here calls the library or autograd: an algorithm is a loop of numpy over the book's lines, with the derivative
of each pair's loss multiplied out, and it is compared with the library inside an ordinary torch optimizer by the
weights that both arrive at.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Context, Decimal, localcontext

import numpy as np
import torch

from guidestar import surrogates

TIGHT = {"rtol": 1e-9, "atol": 1e-11}


@dataclass(frozen=True)
class Pair:
    """A surrogate of the library, and its value and slope at t = s_j - s_i as its table in the book has them."""

    library: Callable[[torch.Tensor], torch.Tensor]
    value: Callable[[float], float]
    slope: Callable[[float], float]


def _logistic_slope(t: float) -> float:
    return 1 / (1 + math.exp(-t)) if t > -500 else 0.0


PAIRS = {
    "squared_hinge": Pair(surrogates.squared_hinge, lambda t: max(1 + t, 0.0) ** 2, lambda t: 2 * max(1 + t, 0.0)),
    "hinge": Pair(surrogates.hinge, lambda t: max(1 + t, 0.0), lambda t: float(1 + t > 0)),
    "squared": Pair(surrogates.squared, lambda t: (1 + t) ** 2, lambda t: 2 * (1 + t)),
    "logistic": Pair(surrogates.logistic, lambda t: max(t, 0.0) + math.log1p(math.exp(-abs(t))), _logistic_slope),
    "sigmoid": Pair(surrogates.sigmoid, _logistic_slope, lambda t: _logistic_slope(t) * (1 - _logistic_slope(t))),
}


@dataclass(frozen=True)
class Batch:
    """Rows of the data, their features, labels and which of them count."""

    rows: list[int]
    x: np.ndarray
    y: list[float]
    mask: list[bool]

    def torch(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        return torch.tensor(self.x), torch.tensor(self.y), torch.tensor(self.rows), torch.tensor(self.mask)

    def kept(self, label: float) -> list[int]:
        """Places of the batch with this label that count; one without a label (NaN) is neither."""
        return [k for k, (y, on) in enumerate(zip(self.y, self.mask, strict=True)) if on and y == label]


class Data:
    """n rows of d features in [-1, 1] and labels; rows n/2 ... are near copies of the first, two are equal (ties)."""

    def __init__(self, n: int = 16, d: int = 3, *, positives: int = 6, missing: int = 1, scale: float = 1.0) -> None:
        rng = np.random.default_rng(7)
        self.x = scale * rng.uniform(-1, 1, (n, d))
        self.x[n - 1] = self.x[n - 2]
        self.x[1] = self.x[n - 2]
        self.y = np.zeros(n)
        self.y[:positives] = 1
        self.y[positives : positives + missing] = float("nan")
        self.w0 = rng.uniform(-1, 1, d)

    def batches(self, count: int, *, size: int = 8, masked: bool = True) -> Iterator[Batch]:
        """Batches of changing size, each with both classes; rows come again; one of three has masked rows."""
        rng = np.random.default_rng(11)
        for step in range(count):
            while True:
                rows = rng.permutation(len(self.x))[: size - step % 3]
                mask = np.ones(len(rows), dtype=bool)
                if masked and step % 3 == 1:
                    mask[:2] = False
                batch = Batch(rows.tolist(), self.x[rows], self.y[rows].tolist(), mask.tolist())
                if batch.kept(1.0) and batch.kept(0.0):
                    break
            yield batch


class Average:
    """u of each row, which begins with its first estimate."""

    def __init__(self, gamma: float) -> None:
        self.gamma, self.u = gamma, {}

    def __call__(self, row: object, estimate: float) -> float:
        old = self.u.get(row)
        self.u[row] = estimate if old is None else (1 - self.gamma) * old + self.gamma * estimate
        return self.u[row]


def linear(w: np.ndarray) -> torch.nn.Parameter:
    """The same weights for the library."""
    return torch.nn.Parameter(torch.tensor(w, dtype=torch.float64))


def close(found: object, expected: object, **tolerance: float) -> None:
    """Equal numbers, from tensors or arrays."""
    left = found.detach().numpy() if isinstance(found, torch.Tensor) else np.asarray(found, dtype=np.float64)
    np.testing.assert_allclose(left, np.asarray(expected, dtype=np.float64), **(tolerance or TIGHT))


def exactly(function: Callable[..., Decimal], *values: object) -> float:
    """A function of decimals with 60 digits and any exponent: no exp overflows, no difference is lost."""
    with localcontext(Context(prec=60, Emax=10**17, Emin=-(10**17))):
        return float(function(*values))


def decimals(values: object) -> list[Decimal]:
    """The numbers as they are stored, digit for digit."""
    return [Decimal(float(value)) for value in np.asarray(values, dtype=np.float64).reshape(-1)]
