"""UCI regressions: how fast spectral risks are minimised, as in the experiments of the Prospect paper.

Ridge regression on standardised features: half the square of the error, mu = 1/n, and the chi-square penalty.
The number is the suboptimality, (F(w) - F*) / (F(0) - F*), with F the risk of all samples and F* by L-BFGS on it. A pass is
n samples. Prospect keeps each sample's loss and gradient; the others take the risk of the mini-batch, which is biased.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import guidestar as gs
from guidestar.optim import Prospect
from guidestar.risks import spectra

from .optimize import shuffled
from .study import Study

SETS = ("yacht", "energy", "concrete")
SPECTRA: dict[str, spectra.Spectrum] = {
    "superquantile": spectra.superquantile(0.5),
    "extremile": spectra.extremile(2.0),
    "esrm": spectra.esrm(1.0),
}
#: With nu = 1, as in the paper, only few weights reach a bound of the superquantile or of the extremile at the optimum on
#: these sets, and their curves cannot be told apart.
NU, PASSES = 0.1, 30
SMALL, LARGE = 16, 128
RATES = (0.01, 0.03, 0.1, 0.3)
TITLES = {"prospect": f"Prospect, batches of {SMALL}", "small": f"SGD, batches of {SMALL}"}
TITLES["large"] = f"SGD, batches of {LARGE}"


@dataclass(frozen=True)
class Task:
    """Features with a column of ones `[n, d]`, targets `[n]`, float64."""

    x: Tensor
    y: Tensor
    spectrum: spectra.Spectrum

    @property
    def rows(self) -> int:
        """Samples."""
        return len(self.y)

    @property
    def l2(self) -> float:
        """mu."""
        return 1.0 / self.rows

    @property
    def risk(self) -> gs.Spectral:
        """The risk of the losses."""
        return gs.Spectral(self.spectrum, nu=NU)

    def losses(self, w: Tensor, index: Tensor | slice = slice(None)) -> Tensor:
        """Half the squared errors."""
        return (self.x[index] @ w - self.y[index]).square() / 2

    def objective(self, w: Tensor) -> Tensor:
        """F, over all samples."""
        return self.risk(self.losses(w)) + self.l2 / 2 * w.square().sum()

    @cached_property
    def bounds(self) -> tuple[float, float]:
        """F at 0, and at its minimum by L-BFGS."""
        w = torch.zeros(self.x.shape[1], dtype=torch.float64, requires_grad=True)
        start = float(self.objective(w).detach())
        solver = torch.optim.LBFGS(
            [w], max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-16, line_search_fn="strong_wolfe"
        )

        def closure() -> Tensor:
            solver.zero_grad()
            value = self.objective(w)
            value.backward()
            return value

        solver.step(closure)  # pyright: ignore[reportArgumentType]
        return start, float(self.objective(w).detach())

    @torch.no_grad()
    def suboptimality(self, w: Tensor) -> float:
        """The share of the way from the start to the optimum that is left, at least 1e-12, which is rounding."""
        start, best = self.bounds
        value = (float(self.objective(w)) - best) / (start - best)
        return max(value, 1e-12) if value == value else float("inf")


def loader(name: str, spectrum: str) -> Callable[[Path, int], Task]:
    """What loads a set; the data are the same for every seed, the order of the samples is not."""

    def load(data: Path, seed: int) -> Task:
        with np.load(data / "uci_regression" / "uci_regression.npz") as z:
            x, y = z[f"{name}_x"], z[f"{name}_y"].ravel()
        x = (x - x.mean(0)) / (x.std(0) + 1e-12)
        columns = torch.from_numpy(np.concatenate([x, np.ones((len(x), 1))], axis=1))
        return Task(columns, torch.from_numpy((y - y.mean()) / y.std()), SPECTRA[spectrum])

    return load


@dataclass(frozen=True)
class Descent:
    """Constant steps on the risk of the mini-batch."""

    batch: int
    settings: Sequence[float] = RATES

    def fit(self, task: Task, setting: float, seed: int, passes: int = PASSES) -> dict[str, Any]:
        """Start from zero."""
        w = torch.zeros(task.x.shape[1], dtype=torch.float64, requires_grad=True)
        risk, batches = task.risk, shuffled(task.rows, self.batch, seed)

        def step() -> None:
            (slope,) = torch.autograd.grad(risk(task.losses(w, next(batches))), w)
            with torch.no_grad():
                w.sub_(slope, alpha=setting).div_(1.0 + setting * task.l2)

        return _passes(task, w, step, self.batch, passes)


@dataclass(frozen=True)
class Reduced:
    """Constant steps of `Prospect`."""

    batch: int = SMALL
    settings: Sequence[float] = RATES

    def fit(self, task: Task, setting: float, seed: int, passes: int = PASSES) -> dict[str, Any]:
        """Start from zero."""
        w = nn.Parameter(torch.zeros(task.x.shape[1], dtype=torch.float64))
        prospect = Prospect([w], task.risk, num_rows=task.rows, lr=setting, l2=task.l2)
        prospect.fill(task.losses(w), torch.arange(task.rows))
        batches = shuffled(task.rows, self.batch, seed)

        def step() -> None:
            index = next(batches)
            prospect.step(task.losses(w, index), index)

        return _passes(task, w, step, self.batch, passes)


def _passes(task: Task, w: Tensor, step: Callable[[], None], batch: int, passes: int) -> dict[str, Any]:
    steps, values = [0], [task.suboptimality(w)]
    for number in range(passes):
        for _ in range(task.rows // batch):
            step()
        steps.append(number + 1)
        values.append(task.suboptimality(w))
    test = {"suboptimality": values[-1]}
    return {"valid": -values[-1], "test": test, "curve": {"steps": steps, "values": values}}


METHODS = {"prospect": Reduced(), "small": Descent(SMALL), "large": Descent(LARGE)}
STUDIES = [
    Study(f"{name}-{spectrum}", loader(name, spectrum), METHODS, lambda task: {"rows": task.rows})
    for name in SETS
    for spectrum in SPECTRA
]
