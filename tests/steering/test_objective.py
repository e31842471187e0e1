"""The objective of each strategy equals the written-out formula; selection and candidates."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import guidestar as gs
from guidestar.losses.distillation import DistillationLoss
from guidestar.steering.objective import StrategyObjective, candidates, select_top
from guidestar.training.job import build_objective
from guidestar.training.recipe_io import check_recipe

TAU, TEMPERATURE, WEIGHT = 0.7, 3.0, 0.25
B, C = 6, 4


def batch() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    logits, teacher = torch.randn(2, B, C, generator=generator, dtype=torch.float64)
    labels = torch.randint(C, (B,), generator=generator)
    return logits.requires_grad_(), labels, torch.rand(B, generator=generator, dtype=torch.float64), teacher


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return torch.stack([torch.log(row.exp().sum()) - row[label] for row, label in zip(logits, labels, strict=True)])


def kl(losses: Tensor) -> Tensor:
    return TAU * torch.log(torch.exp(losses / TAU).mean())


def distillation(logits: Tensor, teacher: Tensor) -> Tensor:
    p, q = torch.softmax(teacher / TEMPERATURE, 1), torch.softmax(logits / TEMPERATURE, 1)
    return TEMPERATURE**2 * (p * (p / q).log()).sum(1).mean()


FORMULAS = {
    "erm": lambda f, y, ref, r: cross_entropy(f, y).mean(),
    "finetune": lambda f, y, ref, r: cross_entropy(f, y).mean(),
    "select": lambda f, y, ref, r: cross_entropy(f, y).mean(),
    "dro": lambda f, y, ref, r: kl(cross_entropy(f, y)),
    "steer": lambda f, y, ref, r: kl(cross_entropy(f, y) - ref),
    "distill": lambda f, y, ref, r: (1 - WEIGHT) * cross_entropy(f, y).mean() + WEIGHT * distillation(f, r),
    "steer+distill": lambda f, y, ref, r: (1 - WEIGHT) * kl(cross_entropy(f, y) - ref) + WEIGHT * distillation(f, r),
}


@pytest.mark.parametrize("strategy", FORMULAS)
def test_each_strategy_is_its_formula(strategy: str) -> None:
    recipe = check_recipe(
        {
            "name": "a",
            "data": {"train": {"source": "sklearn_digits"}, "test_fraction": 0.5},
            "model": {"name": "mlp"},
            "reference": {"model": {"name": "mlp"}, "fit": {"samples": 10}},
            "steer": {"risk": {"kind": "kl", "tau": TAU, "gamma": 1.0}},
            "distill": {"temperature": TEMPERATURE, "weight": WEIGHT},
        }
    )
    objective = build_objective(recipe, strategy)  # type: ignore[arg-type]
    logits, labels, reference, teacher = batch()
    found = objective(logits, labels, reference_losses=reference, teacher_logits=teacher)
    expected = FORMULAS[strategy](logits, labels, reference, teacher)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    found_gradient, expected_gradient = (torch.autograd.grad(value, logits)[0] for value in (found, expected))
    torch.testing.assert_close(found_gradient, expected_gradient, rtol=1e-10, atol=1e-12)
    assert objective.needs_losses == ("steer" in strategy)
    assert objective.needs_logits == ("distill" in strategy)


def test_weights_are_relative_to_erm_and_leave_the_state() -> None:
    logits, labels, reference, _ = batch()
    objective = StrategyObjective(gs.KL(TAU, gamma=0.5), steered=True)
    objective(logits, labels, reference_losses=reference * 0)
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    weights, rho = objective.weights(logits, labels, reference)
    assert all(torch.equal(value, before[name]) for name, value in objective.state_dict().items())
    excess = (cross_entropy(logits, labels) - reference).detach()
    torch.testing.assert_close(rho, excess, rtol=1e-12, atol=1e-12)
    # One step of the tracker by hand: u = (u + mean exp) / 2, weight = exp(excess / tau) / u.
    u0 = torch.exp(cross_entropy(logits, labels).detach() / TAU).mean()
    u1 = 0.5 * u0 + 0.5 * torch.exp(excess / TAU).mean()
    torch.testing.assert_close(weights, torch.exp(excess / TAU) / u1, rtol=1e-5, atol=1e-6)  # the memory is float32
    erm, losses = StrategyObjective(gs.Mean()).weights(logits, labels, None)
    torch.testing.assert_close(erm, torch.ones(B, dtype=torch.float64))
    torch.testing.assert_close(losses, cross_entropy(logits, labels).detach())


def test_the_weights_are_those_of_the_gradient() -> None:
    logits, labels, reference, _ = batch()
    objective = StrategyObjective(gs.ChiSquare(0.3), steered=True)
    weights, _ = objective.weights(logits, labels, reference)
    (gradient,) = torch.autograd.grad(objective(logits, labels, reference_losses=reference), logits)
    expected = (torch.softmax(logits, 1) - torch.nn.functional.one_hot(labels, C)) * (weights / B).unsqueeze(1)
    torch.testing.assert_close(gradient, expected.detach(), rtol=1e-9, atol=1e-12)


def test_what_is_missing_is_named() -> None:
    logits, labels, reference, _ = batch()
    with pytest.raises(ValueError, match=r"`reference_losses` must be given to a steered objective"):
        StrategyObjective(gs.Mean(), steered=True)(logits, labels)
    both = StrategyObjective(gs.Mean(), steered=True, distillation=DistillationLoss(), weight=0.5)
    with pytest.raises(ValueError, match=r"`teacher_logits` must be given to an objective with distillation"):
        both(logits, labels, reference_losses=reference)
    with pytest.raises(ValueError, match=r"`weight` must be in \[0, 1\]. Found 1.5"):
        StrategyObjective(gs.Mean(), distillation=DistillationLoss(), weight=1.5)


def test_select_top_is_the_corner_of_top_k() -> None:
    rho = torch.tensor([0.3, -1.0, 2.0, 0.5, 2.5])
    chosen = select_top(rho, 2)
    assert chosen.tolist() == [4, 2]
    weights = gs.TopK(2 / 5).weights(rho)
    assert sorted(weights.nonzero().flatten().tolist()) == sorted(chosen.tolist())
    assert sorted(select_top(rho, 5).tolist()) == [0, 1, 2, 3, 4]


def test_a_nan_is_selected_and_not_hidden() -> None:
    assert select_top(torch.tensor([1.0, float("nan"), 2.0]), 1).tolist() == [1]


@pytest.mark.parametrize("keep", [0, 4])
def test_select_top_out_of_range(keep: int) -> None:
    with pytest.raises(ValueError, match=rf"`keep` must be in \[1, 3\], the number of losses. Found {keep}"):
        select_top(torch.zeros(3), keep)


def test_candidates() -> None:
    assert candidates(32, 0.1, 50_000) == 320
    assert candidates(32, 1.0, 50_000) == 32
    assert candidates(32, 0.1, 100) == 100
    assert candidates(64, 0.3, 10_000) == 213
    with pytest.raises(ValueError, match=r"`fraction` is a share and must be in \(0, 1\]. Found 0"):
        candidates(32, 0.0, 100)
