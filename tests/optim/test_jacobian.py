"""jacobian_backward: steps that raise no loss, through torchjd."""

from __future__ import annotations

import sys
from importlib.util import find_spec

import pytest
import torch
from torch import nn

from guidestar import GroupMean
from guidestar.optim.jacobian import jacobian_backward

torchjd = pytest.importorskip("torchjd")
quadprog = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("quadprog", "qpsolvers")),
    reason="UPGrad needs quadprog",
)


def conflicting(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Inputs, targets and groups: three groups with the same inputs, whose targets pull apart by different amounts."""
    rng = torch.Generator().manual_seed(seed)
    inputs = torch.randn(30, 5, generator=rng, dtype=torch.float64)
    group = torch.arange(30) % 3
    slopes = torch.tensor([[1.0, 0, 0, 0, 0], [-4.0, 1, 0, 0, 0], [0, 0, 1, 0, 0]], dtype=torch.float64)
    return inputs, (inputs * slopes[group]).sum(1), group


def losses_of(model: nn.Module, seed: int = 0) -> torch.Tensor:
    inputs, targets, group = conflicting(seed)
    return GroupMean(3, gamma=1.0)((model(inputs).squeeze(1) - targets).square(), group)[0]


def linear() -> nn.Linear:
    model = nn.Linear(5, 1).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.5, 0.3, -0.2, 0.1, 0.4]]))
        model.bias.zero_()
    return model


@quadprog
def test_a_small_step_lowers_every_groups_loss_where_that_of_the_mean_does_not() -> None:
    def after(jacobian: bool) -> torch.Tensor:
        model = linear()
        before = losses_of(model)
        if jacobian:
            jacobian_backward(before, model.parameters())
        else:
            before.mean().backward()
        torch.optim.SGD(model.parameters(), lr=1e-4).step()
        return losses_of(model).detach() - before.detach()

    assert (after(jacobian=True) < 0).all()
    assert (after(jacobian=False) > 0).any()


@quadprog
def test_the_gradient_is_the_weighted_sum_of_the_losses_gradients() -> None:
    model = linear()
    losses = losses_of(model)
    rows = [torch.autograd.grad(x, list(model.parameters()), retain_graph=True) for x in losses]
    weights = jacobian_backward(losses, model.parameters())
    for number, parameter in enumerate(model.parameters()):
        expected = sum(w * row[number] for w, row in zip(weights, rows, strict=True))
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-10, atol=1e-10)
    assert all(not hasattr(parameter, "jac") for parameter in model.parameters())


def test_losses_that_are_absent_are_left_out() -> None:
    # The row of an absent group is 0, and the least norm of all mixtures with it is that of 0: MGDA would not move.
    from torchjd.aggregation import MGDA

    model, other = linear(), linear()
    present = torch.tensor([True, False, True])
    losses = losses_of(model)
    weights = jacobian_backward(
        torch.where(present, losses, 0.0), model.parameters(), present=present, aggregator=MGDA()
    )
    expected = jacobian_backward(losses_of(other)[present], other.parameters(), aggregator=MGDA())
    torch.testing.assert_close(weights[present], expected)
    assert float(weights[1]) == 0.0
    assert model.weight.grad.abs().sum() > 0
    torch.testing.assert_close(model.weight.grad, other.weight.grad)

    third = linear()
    jacobian_backward(torch.where(present, losses_of(third), 0.0), third.parameters(), aggregator=MGDA())
    assert float(third.weight.grad.norm()) < 1e-3 * float(model.weight.grad.norm())


def test_with_no_loss_present_no_gradient_is_touched() -> None:
    model = linear()
    weights = jacobian_backward(losses_of(model), model.parameters(), present=torch.zeros(3, dtype=torch.bool))
    assert weights.tolist() == [0.0, 0.0, 0.0]
    assert model.weight.grad is None


def test_gradients_add_up_and_parameters_that_are_frozen_or_unused_are_fine() -> None:
    from torchjd.aggregation import Sum

    model, unused = linear(), torch.ones(2, dtype=torch.float64, requires_grad=True)
    model.bias.requires_grad_(False)
    for _ in range(2):
        jacobian_backward(losses_of(model), [*model.parameters(), unused], aggregator=Sum())
    twice = model.weight.grad.clone()
    model.weight.grad = None
    (2 * losses_of(model).sum()).backward()
    torch.testing.assert_close(twice, model.weight.grad)
    assert model.bias.grad is None
    assert not unused.grad.any()


def test_an_aggregator_without_weights_gives_none() -> None:
    from torchjd.aggregation import GradDrop

    model = linear()
    assert jacobian_backward(losses_of(model), model.parameters(), aggregator=GradDrop()) is None
    assert model.weight.grad is not None


def test_errors(monkeypatch) -> None:
    from torchjd.aggregation import Sum

    model = linear()
    with pytest.raises(ValueError, match=r"`losses` must be one-dimensional, one loss an objective. Found \(\)"):
        jacobian_backward(losses_of(model).sum(), model.parameters(), aggregator=Sum())
    with pytest.raises(ValueError, match=r"`present` must have the shape of `losses`, \(3,\). Found \(2,\)"):
        jacobian_backward(losses_of(model), model.parameters(), present=torch.tensor([True, False]), aggregator=Sum())
    with pytest.raises(TypeError, match=r"`present` must be a bool tensor"):
        jacobian_backward(losses_of(model), model.parameters(), present=torch.ones(3), aggregator=Sum())
    with pytest.raises(ValueError, match=r"`parameters` must hold a tensor that requires a gradient. Found none"):
        jacobian_backward(losses_of(model), [], aggregator=Sum())
    monkeypatch.setitem(sys.modules, "torchjd", None)
    with pytest.raises(ImportError, match=r"pip install 'guidestar\[jacobian\]'"):
        jacobian_backward(losses_of(model), model.parameters())
