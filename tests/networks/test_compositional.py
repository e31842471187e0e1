"""CompositionalStep: F(w - tau grad L(w)) of section 6.4.1, against derivatives written out and the book's loop."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from guidestar.losses import AUCMarginLoss
from guidestar.networks import CompositionalStep

TIGHT = {"rtol": 1e-10, "atol": 1e-10}
TAU = 0.3


def data(seed: int, rows: int = 6, width: int = 3) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, width, generator=rng, dtype=torch.float64)
    return x, torch.tensor([1.0, 0.0, 0.0, 1.0, 0.0, 1.0], dtype=torch.float64)[:rows]


class Line(nn.Module):
    """h = x w."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([0.4, -0.2, 0.1], dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.w


def bce(outputs: Tensor, labels: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(outputs, labels)


def outer(outputs: Tensor) -> Tensor:
    return (outputs - torch.linspace(-1, 1, len(outputs), dtype=outputs.dtype)).square().mean()


def squares(outputs: Tensor, labels: Tensor) -> Tensor:
    return (outputs - labels).square().mean() / 2


def by_hand(w: Tensor, x: Tensor, y: Tensor, inner: str) -> tuple[Tensor, Tensor]:
    """Gradient and Hessian of the inner loss."""
    if inner == "squares":
        return x.T @ (x @ w - y) / len(y), x.T @ x / len(y)
    p = torch.sigmoid(x @ w)
    return x.T @ (p - y) / len(y), x.T @ ((p * (1 - p)).unsqueeze(1) * x) / len(y)


def outer_slope(u: Tensor, x: Tensor) -> Tensor:
    return 2 * x.T @ (x @ u - torch.linspace(-1, 1, len(x), dtype=torch.float64)) / len(x)


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize(("inner", "name"), [(squares, "squares"), (bce, "logistic")])
def test_value_and_gradient_written_out(inner, name, first_order) -> None:
    x, y = data(0)
    model = Line()
    stepped = CompositionalStep(model, inner, TAU, gamma=1.0, first_order=first_order)
    outputs = stepped(x, y)
    w = model.w.detach()
    slope, hessian = by_hand(w, x, y, name)
    u = w - TAU * slope
    torch.testing.assert_close(outputs, x @ u, **TIGHT)
    outer(outputs).backward()
    factor = torch.eye(3, dtype=torch.float64) - (0.0 if first_order else TAU) * hessian
    torch.testing.assert_close(model.w.grad, factor @ outer_slope(u, x), **TIGHT)


@pytest.mark.parametrize("gamma", [0.3, 0.9])
def test_the_loop_of_section_6_4_1(gamma) -> None:
    model = Line()
    stepped = CompositionalStep(model, bce, TAU, gamma=gamma).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    w, u = model.w.detach().clone(), None
    for t in range(5):
        x, y = data(t)
        optimizer.zero_grad()
        outputs = stepped(x, y)
        outer(outputs).backward()
        optimizer.step()

        slope, hessian = by_hand(w, x, y, "logistic")
        estimate = w - TAU * slope
        u = estimate if u is None else (1 - gamma) * u + gamma * estimate
        torch.testing.assert_close(outputs, x @ u, **TIGHT)
        w = w - 0.1 * (torch.eye(3, dtype=torch.float64) - TAU * hessian) @ outer_slope(u, x)
        torch.testing.assert_close(model.w.detach(), w, **TIGHT)
        torch.testing.assert_close(stepped.averages()["w"], u, **TIGHT)


def test_with_the_auc_margin_loss_it_is_f_at_the_step() -> None:
    x, y = data(1)
    model, loss = Line(), AUCMarginLoss(lr=0.5).double()
    loss.alpha.memory.values.fill_(0.7)
    value = loss(CompositionalStep(model, bce, TAU, gamma=1.0)(x, y), y)
    found = torch.autograd.grad(value, [model.w, loss.a])
    w, a = model.w.detach().clone().requires_grad_(), torch.zeros(1, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(bce(x @ w, y), w, create_graph=True)
    h = x @ (w - TAU * slope)
    pos, neg = h[y == 1], h[y == 0]
    spread = (pos - a).square().mean() + neg.square().mean()
    expected = spread + 0.7 * (1 + neg.mean() - pos.mean()) - 0.7**2 / 4
    torch.testing.assert_close(value, expected, **TIGHT)
    for left, right in zip(found, torch.autograd.grad(expected, [w, a]), strict=True):
        torch.testing.assert_close(left, right, **TIGHT)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 1), nn.Flatten(0)).double()


def test_buffers_are_those_of_the_model_itself() -> None:
    x, y = data(2)
    model, plain = network(), network()
    stepped = CompositionalStep(model, bce, TAU)
    for t in range(3):
        x, y = data(t)
        stepped(x, y)
        plain(x)
    for name, buffer in plain.named_buffers():
        assert torch.equal(dict(model.named_buffers())[name], buffer)
    assert int(model[1].num_batches_tracked) == 3


def test_the_gradient_through_a_network_is_that_of_numbers() -> None:
    x, y = data(3)
    model = network()
    stepped = CompositionalStep(model, bce, TAU, gamma=1.0)
    outer(stepped(x, y)).backward()

    def objective(weight: Tensor) -> float:
        with torch.no_grad():
            model[0].weight.copy_(weight)
        return float(outer(stepped(x, y)).detach())

    start, h = model[0].weight.detach().clone(), 1e-5
    for place in ((0, 0), (2, 1), (3, 2)):
        shift = torch.zeros_like(start)
        shift[place] = h
        slope = (objective(start + shift) - objective(start - shift)) / (2 * h)
        assert float(model[0].weight.grad[place]) == pytest.approx(slope, rel=1e-6, abs=1e-9)


def test_evaluation_is_the_model_itself_and_writes_nothing() -> None:
    x, y = data(4)
    model = network()
    stepped = CompositionalStep(model, bce, TAU, gamma=0.5)
    stepped(x, y)
    before = {name: value.clone() for name, value in stepped.state_dict().items()}
    stepped.eval()
    assert torch.equal(stepped(x), model(x))
    with torch.no_grad():
        assert torch.equal(stepped.eval()(x, y), model(x))
    assert all(torch.equal(value, before[name]) for name, value in stepped.state_dict().items())


def test_frozen_and_unused_parameters() -> None:
    x, y = data(5)
    model = network()
    model[0].weight.requires_grad_(False)
    model.spare = nn.Parameter(torch.ones(2, dtype=torch.float64))
    model.forward = lambda inputs: nn.Sequential.forward(nn.Sequential(*list(model)[:5]), inputs)
    stepped = CompositionalStep(model, bce, TAU)
    outer(stepped(x, y)).backward()
    assert model[0].weight.grad is None
    assert model[3].weight.grad.abs().sum() > 0
    assert "0.weight" not in stepped.names
    assert torch.equal(stepped.averages()["spare"], torch.ones(2))


def test_resumed_equals_uninterrupted(tmp_path) -> None:
    def run(stepped: CompositionalStep, steps: range) -> None:
        for t in steps:
            optimizer = torch.optim.SGD(stepped.model.parameters(), lr=0.1)
            outer(stepped(*data(t))).backward()
            optimizer.step()
            optimizer.zero_grad()

    straight, first, resumed = (CompositionalStep(network(), bce, TAU, gamma=0.4) for _ in range(3))
    run(straight, range(6))
    run(first, range(3))
    torch.save(first.state_dict(), tmp_path / "model.pt")
    resumed.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    run(resumed, range(3, 6))
    assert all(torch.equal(straight.state_dict()[name], value) for name, value in resumed.state_dict().items())
    resumed.reset()
    assert torch.equal(resumed.trackers[0].memory.values, CompositionalStep(network(), bce).trackers[0].memory.values)


def test_gamma_of_one_keeps_nothing_and_several_inputs_are_a_tuple() -> None:
    x, y = data(0)
    model = nn.Bilinear(3, 3, 1).double()
    stepped = CompositionalStep(model, lambda out, labels: bce(out.squeeze(1), labels), TAU, gamma=1.0)
    assert stepped((x, x), y).shape == (6, 1)
    assert set(stepped.state_dict()) == {"model.weight", "model.bias"}
    with pytest.raises(RuntimeError, match="keeps nothing because `gamma` is 1"):
        stepped.averages()


def test_half_precision_parameters() -> None:
    model = nn.Linear(3, 1).bfloat16()
    stepped = CompositionalStep(model, lambda out, y: out.float().square().mean(), TAU)
    x = torch.randn(4, 3).bfloat16()
    outputs = stepped(x, torch.zeros(4))
    outputs.float().sum().backward()
    assert outputs.dtype == model.weight.grad.dtype == torch.bfloat16
    assert stepped.averages()["weight"].dtype == torch.float32


def test_the_averages_are_a_model_to_evaluate() -> None:
    x, y = data(0)
    stepped = CompositionalStep(network(), bce, TAU, gamma=0.5).double()
    outputs = stepped(x, y)
    torch.testing.assert_close(functional_call(stepped.model, stepped.averages(), (x,)), outputs)


def test_errors() -> None:
    x, y = data(0)
    with pytest.raises(TypeError, match=r"`model` must be a torch.nn.Module. Found function"):
        CompositionalStep(bce, bce)
    with pytest.raises(TypeError, match=r"`inner_loss` must be a function of \(outputs, targets\). Found float"):
        CompositionalStep(Line(), 0.1)
    with pytest.raises(ValueError, match=r"`step` must be a positive number. Found 0"):
        CompositionalStep(Line(), bce, 0)
    with pytest.raises(ValueError, match=r"`gamma` must be in \(0, 1\]"):
        CompositionalStep(Line(), bce, gamma=0.0)
    with pytest.raises(ValueError, match=r"`model` must have parameters that require a gradient. Found none"):
        CompositionalStep(nn.ReLU(), bce)
    with pytest.raises(ValueError, match=r"`targets` are needed in training"):
        CompositionalStep(Line(), bce)(x)
    with pytest.raises(ValueError, match=r"`inner_loss` must give a scalar. Found \(6,\)"):
        CompositionalStep(Line(), lambda out, y: out - y)(x, y)
    with pytest.raises(RuntimeError, match="there is no average yet"):
        CompositionalStep(Line(), bce).averages()
    stepped = CompositionalStep(network(), bce)
    stepped.model[0].weight.requires_grad_(False)
    with pytest.raises(ValueError, match=r"`model` must train the parameters that it had when it was wrapped"):
        stepped(x, y)
