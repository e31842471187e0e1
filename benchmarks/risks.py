"""A risk's forward and backward on 4,096 losses against `losses.mean()` with the same tensor.

    python benchmarks/risks.py [--repeats 400]

The budget of a risk is 1.5 times the mean's time plus 100 microseconds. One process, one thread, float32; each risk and the
mean take turns. Ends with exit code 1 if a risk is over its budget.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from interleaved import medians, publish
from rich.progress import track
from torch import Tensor

import guidestar as gs

COUNT = 4096
INNER = 5
FACTOR, EXTRA = 1.5, 100.0

Call = Callable[[], object]


def both_ways(risk: Callable[[Tensor], Tensor], losses: Tensor) -> Call:
    """A call that runs forward and backward of `risk(losses)`."""

    def call() -> None:
        losses.grad = None
        risk(losses).backward()

    return call


def candidates() -> dict[str, Callable[[Tensor], Tensor]]:
    """The risks by the expression that makes them."""
    generator = torch.Generator().manual_seed(1)
    reference = torch.rand(COUNT, generator=generator)
    steer = gs.DRRho(gs.KL(tau=1.0, gamma=0.9))
    return {
        "Mean()": gs.Mean(),
        "KL(tau=1, gamma=1)": gs.KL(tau=1.0),
        "KL(tau=1, gamma=0.9)": gs.KL(tau=1.0, gamma=0.9),
        "KLBall(rho=0.1, gamma=1)": gs.KLBall(rho=0.1),
        "KLBall(rho=0.1, gamma=0.9)": gs.KLBall(rho=0.1, gamma=0.9),
        "CVaR(alpha=0.1)": gs.CVaR(alpha=0.1),
        "CVaR(alpha=0.1, smoothing=0.1)": gs.CVaR(alpha=0.1, smoothing=0.1),
        "TopK(alpha=0.1)": gs.TopK(alpha=0.1),
        "ChiSquare(rho=0.1)": gs.ChiSquare(rho=0.1),
        "ChiSquare(rho=0.1, ball=False)": gs.ChiSquare(rho=0.1, ball=False),
        "ChiSquare(rho=0.1, gamma=0.9, lr=0.1)": gs.ChiSquare(rho=0.1, gamma=0.9, lr=0.1),
        "ChiSquare(rho=0.1, ball=False, lr=0.1)": gs.ChiSquare(rho=0.1, ball=False, lr=0.1),
        "DRRho(KL(tau=1, gamma=0.9))": lambda losses: steer(losses, reference),
    }


def main() -> None:
    """Time, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=400)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    losses = torch.empty(COUNT).exponential_(generator=torch.Generator().manual_seed(0)).requires_grad_()
    mean = both_ways(lambda values: values.mean(), losses)
    rows, over = [], 0
    for name, risk in track(candidates().items(), description="risks", transient=True):
        peer, taken = medians(mean, both_ways(risk, losses), repeats=repeats, inner=INNER)
        budget = FACTOR * peer + EXTRA
        over += taken > budget
        verdict = "yes" if taken <= budget else "NO"
        rows.append(
            [f"`{name}`", f"{taken:.0f}", f"{peer:.0f}", f"{taken / peer:.1f}", f"{taken / budget:.2f}", verdict]
        )
    publish(
        "risks_cpu",
        f"Forward and backward of a risk on {COUNT:,} float32 losses",
        ["risk", "microseconds", "`losses.mean()`", "ratio", "share of the budget", "within"],
        rows,
        f"Medians of {repeats} repeats of {INNER} calls; each risk takes turns with the mean, in one process on one "
        f"thread. The budget is {FACTOR} times the mean plus {EXTRA:.0f} microseconds.",
    )
    if over:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
