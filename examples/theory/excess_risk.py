"""Excess risk against the sample size n: ERM, DRRho and its reference (section 6.9).

The theory says that DRRho needs n = O(sqrt m) samples to come as close to the best model as a reference that was
fitted to m samples, where ERM needs O(m). Here the reference is fitted by ERM to m = n^2 samples of its own, and ERM
and DRRho (Eq. 6.114, the chi-square ball of radius rho / n) get the same n samples. The task is logistic regression
in 10 dimensions: gaussian x, labels from the model itself, no regularization. Everything is exact but the draw of the
samples: the fits are converged in float64, and the risk of a model is an integral over one dimension.

Run from the root of the repository (a quarter of a minute on one core; `--quick` is a small version):

    python examples/theory/excess_risk.py

It writes `docs/figures/excess_risk.json` and `docs/figures/excess_risk.svg` and prints the table.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

import guidestar as gs

Objective = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Setting:
    """What is run: `norm` is that of the true weights, `residual` the largest gradient a fit may end with."""

    sizes: tuple[int, ...] = (80, 120, 160, 240, 320)
    rhos: tuple[float, ...] = (1.0, 4.0, 16.0)
    seeds: int = 20
    dimension: int = 10
    norm: float = 1.0
    residual: float = 1e-7


QUICK = Setting(sizes=(80, 160), seeds=3)


class Population:
    """The distribution x ~ N(0, I), P(y = 1 | x) = sigmoid(x . w*), and the exact risk of a linear model under it."""

    def __init__(self, dimension: int, norm: float) -> None:
        self.best = torch.full((dimension,), norm / math.sqrt(dimension), dtype=torch.float64)
        # The trapezoidal rule converges exponentially for a smooth function under the gaussian weight.
        self.z = torch.linspace(-12.0, 12.0, 4001, dtype=torch.float64)
        density = torch.exp(-self.z.square() / 2)
        self.density = density / density.sum()
        self.slope = (self.density * torch.sigmoid(norm * self.z) * torch.sigmoid(-norm * self.z)).sum()

    def draw(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """n samples: x `[n, d]` and y `[n]`, 0 or 1."""
        x = torch.randn(n, len(self.best), generator=generator, dtype=torch.float64)
        chance = torch.rand(n, generator=generator, dtype=torch.float64)
        return x, (chance < torch.sigmoid(x @ self.best)).to(x)

    def risk(self, w: Tensor) -> float:
        """R(w) = E log(1 + exp(x . w)) - E y (x . w); x . w is N(0, |w|^2), and Stein's lemma gives the second term."""
        softplus = (self.density * F.softplus(w.norm() * self.z)).sum()
        return float(softplus - self.slope * (w @ self.best))

    def excess(self, w: Tensor) -> float:
        """R(w) - R(w*)."""
        return self.risk(w) - self.risk(self.best)


def logistic_losses(w: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The loss of each sample, `[n]`."""
    return F.binary_cross_entropy_with_logits(x @ w, y, reduction="none")


def minimise(objective: Objective, start: Tensor) -> tuple[Tensor, float]:
    """The minimiser of a smooth convex objective by L-BFGS, and the largest entry of the gradient that is left."""
    w = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [w], max_iter=2000, tolerance_grad=1e-10, tolerance_change=0.0, history_size=20, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = objective(w)
        value.backward()
        return value

    optimizer.step(closure)
    (gradient,) = torch.autograd.grad(objective(w), w)
    return w.detach(), float(gradient.abs().max())


def smallest_divergence(gradients: Tensor) -> tuple[float, float]:
    """The smallest chi-square divergence of weights p for which sum_j p_j gradients_j = 0, and the residual of the fit.

    All RHO losses are 0 at the reference, so DRRho's objective has a kink there, and the reference is its minimiser iff
    the ball holds such a p. The p is [1 + nu + a . gradients_j]_+ / n, where (a, nu) minimises a smooth convex function.
    """
    columns = torch.cat([gradients, torch.ones_like(gradients[:, :1])], dim=1)

    def dual(a: Tensor) -> Tensor:
        return torch.relu(1.0 + columns @ a).square().mean() / 2 - a[-1]

    a, residual = minimise(dual, columns.new_zeros(columns.shape[1]))
    return float((torch.relu(1.0 + columns @ a) - 1.0).square().mean() / 2), residual


def fit_drrho(x: Tensor, y: Tensor, reference: Tensor, start: Tensor, rho: float) -> tuple[Tensor, float]:
    """The minimiser of DRRho's objective and the residual of its optimality condition."""
    at_reference = reference.clone().requires_grad_()
    reference_losses = logistic_losses(at_reference, x, y)
    per_sample = x * (torch.sigmoid(x @ reference) - y).unsqueeze(1)
    divergence, residual = smallest_divergence(per_sample)
    if divergence <= rho / len(y):
        return reference, residual
    risk = gs.DRRho(gs.ChiSquare(rho / len(y)))
    return minimise(lambda w: risk(logistic_losses(w, x, y), reference_losses.detach()), start)


def identity_gap(rho_losses: Tensor, rho: float) -> float | None:
    """|ball - (mean + sqrt(2 rho Var / n))| of RHO losses; None where a weight is cut at 0 and it need not hold."""
    n = len(rho_losses)
    risk = gs.ChiSquare(rho / n)
    if not bool((risk.weights(rho_losses) > 0).all()):
        return None
    formula = rho_losses.mean() + (2 * rho * rho_losses.var(unbiased=False) / n).sqrt()
    return float((risk(rho_losses) - formula).abs())


@dataclass(frozen=True)
class Trial:
    """What one draw of the samples gave."""

    excess: dict[str, float]
    at_reference: dict[str, bool]
    residual: float
    gaps: list[float | None]


def run_trial(setting: Setting, n: int, seed: int) -> Trial:
    """Draw m = n^2 samples for the reference and n others, fit everything, and look at the RHO losses."""
    population = Population(setting.dimension, setting.norm)
    generator = torch.Generator().manual_seed(100_003 * seed + n)
    big_x, big_y = population.draw(n * n, generator)
    x, y = population.draw(n, generator)
    zero = torch.zeros(setting.dimension, dtype=torch.float64)
    reference, worst = minimise(lambda w: logistic_losses(w, big_x, big_y).mean(), zero)
    erm, residual = minimise(lambda w: logistic_losses(w, x, y).mean(), zero)
    worst = max(worst, residual)
    excess = {"reference": population.excess(reference), "erm": population.excess(erm)}
    at_reference, gaps = {}, []
    for rho in setting.rhos:
        steered, residual = fit_drrho(x, y, reference, erm, rho)
        worst = max(worst, residual)
        name = f"drrho {rho:g}"
        excess[name] = population.excess(steered)
        at_reference[name] = bool(torch.equal(steered, reference))
        for w in (erm, *(() if at_reference[name] else (steered,))):
            gaps.append(identity_gap(logistic_losses(w, x, y) - logistic_losses(reference, x, y), rho))
    if worst > setting.residual:
        raise RuntimeError(
            f"A fit did not converge (n = {n}, seed {seed}): residual {worst:.1e}, allowed {setting.residual:.0e}. "
            "Separable samples have no ERM solution: use more samples or a smaller norm."
        )
    return Trial(excess, at_reference, worst, gaps)


def slope(sizes: tuple[int, ...], values: list[float]) -> float:
    """Least-squares slope of log values against log sizes.

    Example:
        >>> round(slope((10, 100), [1.0, 0.01]), 6)
        -2.0
    """
    log_n = torch.tensor(sizes, dtype=torch.float64).log()
    log_v = torch.tensor(values, dtype=torch.float64).log()
    centred = log_n - log_n.mean()
    return float((centred * log_v).sum() / centred.square().sum())


def run(setting: Setting) -> dict[str, Any]:
    """All trials; what the JSON file holds."""
    start = time.perf_counter()
    jobs = [(n, seed) for n in setting.sizes for seed in range(setting.seeds)]
    trials = {job: run_trial(setting, *job) for job in track(jobs, description="fits", transient=True)}
    curves: dict[str, Any] = {}
    for name in next(iter(trials.values())).excess:
        values = [[trials[n, seed].excess[name] for seed in range(setting.seeds)] for n in setting.sizes]
        grid = torch.tensor(values, dtype=torch.float64)
        means = grid.mean(1).tolist()
        curves[name] = {
            "mean": means,
            "standard_error": (grid.std(1) / math.sqrt(setting.seeds)).tolist(),
            "median": grid.median(1).values.tolist(),
            "slope": slope(setting.sizes, means),
        }
        if name in next(iter(trials.values())).at_reference:
            curves[name]["equals_reference"] = [
                sum(trials[n, seed].at_reference[name] for seed in range(setting.seeds)) for n in setting.sizes
            ]
    gaps = [gap for trial in trials.values() for gap in trial.gaps]
    held = [gap for gap in gaps if gap is not None]
    return {
        "setting": asdict(setting),
        "excess_risk": curves,
        "variance_identity": {"checked": len(held), "cut_at_zero": len(gaps) - len(held), "largest_gap": max(held)},
        "largest_residual": max(trial.residual for trial in trials.values()),
        "environment": environment(),
        "seconds": round(time.perf_counter() - start, 1),
    }


def environment() -> dict[str, Any]:
    """What the numbers were made with."""
    return {
        "guidestar": gs.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "device": "cpu",
        "threads": torch.get_num_threads(),
        "date": datetime.date.today().isoformat(),
    }


def label(name: str) -> str:
    """The name of a curve for people."""
    names = {"erm": "ERM", "reference": "reference (n²)"}
    return names.get(name, name.replace("drrho", "DRRho, \N{GREEK SMALL LETTER RHO} ="))


def draw(result: dict[str, Any], path: Path) -> None:
    """The figure, log-log, with standard errors and the fitted slopes."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot as plt

    style = {
        "erm": ("#b3401e", "o", "-"),
        "drrho 1": ("#d18f00", "s", "-"),
        "drrho 4": ("#2b8a5c", "^", "-"),
        "drrho 16": ("#2060b0", "D", "-"),
        "reference": ("#111111", "", (0, (4, 3))),
    }
    order = [name for name in style if name in result["excess_risk"]]
    with plt.rc_context({"svg.hashsalt": "excess_risk", "font.size": 12, "axes.grid": True, "grid.color": "#dddddd"}):
        figure, axes = plt.subplots(figsize=(7.5, 5.2), layout="constrained", facecolor="white")
        sizes = result["setting"]["sizes"]
        for name in order:
            curve, (colour, marker, line) = result["excess_risk"][name], style[name]
            axes.errorbar(
                sizes, curve["mean"], yerr=curve["standard_error"], color=colour, marker=marker or None, linestyle=line,
                linewidth=2, markersize=7, capsize=3, label=f"{label(name)}  (slope {curve['slope']:.1f})",
            )  # fmt: skip
        axes.set(xscale="log", yscale="log", xlabel="n, samples that the model is fitted to", ylabel="excess risk")
        axes.set_xticks(sizes, [str(n) for n in sizes])
        axes.minorticks_off()
        axes.legend(fontsize=11, loc="lower left")
        axes.set_ylim(bottom=min(result["excess_risk"]["reference"]["mean"]) / 40)
        axes.set_title(
            f"Logistic regression, mean of {result['setting']['seeds']} draws and its standard error", fontsize=13
        )
        figure.savefig(path, metadata={"Date": None, "Creator": None})
        plt.close(figure)


def table(result: dict[str, Any]) -> Table:
    """The means (and standard errors) for the terminal."""
    out = Table(title="Excess risk, mean over seeds (standard error)")
    out.add_column("fitted by", no_wrap=True)
    for n in result["setting"]["sizes"]:
        out.add_column(f"n = {n}", justify="right", no_wrap=True)
    out.add_column("slope", justify="right")
    for name, curve in result["excess_risk"].items():
        cells = [f"{v:.1e}\n({e:.0e})" for v, e in zip(curve["mean"], curve["standard_error"], strict=True)]
        out.add_row(label(name), *cells, f"{curve['slope']:.2f}")
    return out


def main() -> None:
    """Run, write, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small version: two sizes, three seeds")
    parser.add_argument("--out", type=Path, default=Path("docs/figures"), help="folder for the JSON and the figure")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    result = run(QUICK if arguments.quick else Setting())
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "excess_risk.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    draw(result, arguments.out / "excess_risk.svg")
    console = Console()
    console.print(table(result))
    for name, curve in result["excess_risk"].items():
        if "equals_reference" in curve:
            shares = ", ".join(str(k) for k in curve["equals_reference"])
            console.print(f"{label(name)}: is the reference itself in {shares} of {result['setting']['seeds']} draws")
    identity = result["variance_identity"]
    console.print(
        f"Variance identity: {identity['checked']} sets of RHO losses with non-negative weights, largest difference "
        f"{identity['largest_gap']:.1e}; {identity['cut_at_zero']} sets had a weight cut at 0."
    )
    console.print(f"Largest residual of a fit {result['largest_residual']:.0e}; {result['seconds']} seconds.")


if __name__ == "__main__":
    main()
