"""The script of the theory figure, on two small sizes."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

import guidestar as gs

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "theory" / "excess_risk.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("excess_risk", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["excess_risk"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def result(script: ModuleType) -> dict[str, Any]:
    return script.run(script.Setting(sizes=(60, 120), seeds=3, dimension=5))


def test_a_reference_brings_drrho_below_erm(result: dict[str, Any]) -> None:
    curves = result["excess_risk"]
    for i in range(2):
        reference, erm = curves["reference"]["mean"][i], curves["erm"]["mean"][i]
        small, middle, large = (curves[f"drrho {rho}"]["mean"][i] for rho in (1, 4, 16))
        assert 0 < reference <= large <= middle < small < erm


def test_excess_risk_falls_with_n(result: dict[str, Any]) -> None:
    assert all(curve["slope"] < 0 for curve in result["excess_risk"].values())
    assert result["excess_risk"]["reference"]["slope"] < result["excess_risk"]["erm"]["slope"]


def test_a_large_ball_holds_the_reference_exactly(result: dict[str, Any]) -> None:
    assert result["excess_risk"]["drrho 16"]["equals_reference"] == [3, 3]
    assert result["excess_risk"]["drrho 16"]["mean"] == result["excess_risk"]["reference"]["mean"]
    assert sum(result["excess_risk"]["drrho 1"]["equals_reference"]) < 6


def test_variance_identity_holds_on_the_rho_losses(result: dict[str, Any]) -> None:
    assert result["variance_identity"]["checked"] > 10
    assert result["variance_identity"]["largest_gap"] < 1e-12


def test_risk_is_that_of_a_large_sample(script: ModuleType) -> None:
    population = script.Population(3, 1.5)
    x, y = population.draw(400_000, torch.Generator().manual_seed(0))
    w = torch.tensor([0.3, -0.5, 1.0], dtype=torch.float64)
    losses = script.logistic_losses(w, x, y)
    error = 4 * float(losses.std()) / math.sqrt(len(losses))
    assert population.risk(w) == pytest.approx(float(losses.mean()), abs=error)
    assert population.excess(population.best) == 0.0
    assert population.excess(w) > 0.0


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_the_reference_is_the_minimiser_iff_the_ball_is_large_enough(script: ModuleType, factor: float) -> None:
    population = script.Population(2, 1.0)
    x, y = population.draw(50, torch.Generator().manual_seed(3))
    reference = population.best
    divergence, _ = script.smallest_divergence(x * (torch.sigmoid(x @ reference) - y).unsqueeze(1))
    reference_losses = script.logistic_losses(reference, x, y)
    risk = gs.DRRho(gs.ChiSquare(factor * divergence))

    def objective(w: Tensor) -> float:
        return float(risk(script.logistic_losses(w, x, y), reference_losses))

    angles = torch.linspace(0, 2 * math.pi, 200, dtype=torch.float64)
    around = [reference + 1e-4 * torch.stack([a.cos(), a.sin()]) for a in angles]
    assert objective(reference) == 0.0
    assert (min(objective(w) for w in around) > 0.0) == (factor > 1)


def test_the_figure_does_not_change_from_run_to_run(script: ModuleType, result: dict[str, Any], tmp_path: Path) -> None:
    for name in ("a.svg", "b.svg"):
        script.draw(result, tmp_path / name)
    first = (tmp_path / "a.svg").read_text(encoding="utf-8")
    assert first == (tmp_path / "b.svg").read_text(encoding="utf-8")
    assert "<dc:date>" not in first


def test_separable_samples_are_refused(script: ModuleType) -> None:
    setting = script.Setting(sizes=(6,), seeds=1, dimension=5, norm=4.0)
    with pytest.raises(RuntimeError, match="did not converge"):
        script.run_trial(setting, 6, 0)
