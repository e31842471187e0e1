"""TempNetLoss: Eq. 6.50 with the networks' gradients."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from written_out import TIGHT, features, robust, same_value_and_gradients, two_towers

from guidestar.losses import TempNetLoss
from guidestar.networks import TempNet

both_paths = pytest.mark.parametrize("tiled", [False, True], ids=["eager", "tiled"])


def nets(seed: int = 0, width: int = 3) -> list[TempNet]:
    torch.manual_seed(seed)
    made = [TempNet(width, hidden=4, tau_min=0.1, tau_max=0.6, tau=0.3).double() for _ in range(2)]
    for net in made:
        torch.nn.init.normal_(net.last.weight)
    return made


def predicted(net: TempNet, values: torch.Tensor) -> torch.Tensor:
    """0.1 + 0.5 sigmoid(MLP), row by row."""
    one, other = net.first, net.last
    rows = [other.weight[0] @ torch.clamp(one.weight @ x + one.bias, min=0) + other.bias[0] for x in values.detach()]
    return 0.1 + 0.5 / (1 + torch.exp(-torch.stack(rows)))


@both_paths
@pytest.mark.parametrize("steered", [False, True], ids=["", "reference"])
@pytest.mark.parametrize("mask", [None, [True, True, True, False, True]], ids=["", "mask"])
@pytest.mark.parametrize("option", [{}, {"eps": 0.2}, {"negatives_only": True}], ids=["plain", "eps", "negatives"])
def test_equals_the_objective(tiled, steered, mask, option) -> None:
    image, text, *reference = features(0)
    one, other = nets()
    loss = TempNetLoss(one, other, 0.7, tiled=tiled, **option)
    given = {"reference_image": reference[0], "reference_text": reference[1]} if steered else {}
    given |= {} if mask is None else {"mask": torch.tensor(mask)}
    taus = predicted(one, image), predicted(other, text)
    sides = two_towers(image, text, tuple(reference) if steered else None, None, mask)
    expected = sum(robust(side, tau, rho=0.7, **option) for side, tau in zip(sides, taus, strict=True))
    same_value_and_gradients(loss(image, text, **given), expected, [image, text, *loss.parameters()])


@both_paths
def test_with_memory_the_gradient_is_the_estimator_of_algorithm_35(tiled) -> None:
    one, other = nets()
    loss = TempNetLoss(one, other, 0.7, num_rows=5, gamma=0.25, eps=0.1, negatives_only=True, tiled=tiled).double()
    u: dict[int, torch.Tensor] = {}
    for step in range(3):
        image, text, *_ = features(step)
        found = loss(image, text, torch.arange(5))
        total = torch.zeros((), dtype=torch.float64)
        sides = zip(two_towers(image, text), (predicted(one, image), predicted(other, text)), strict=True)
        for way, (side, tau) in enumerate(sides):
            for i in range(5):
                g = torch.stack(
                    [torch.exp((side.similarity[i, j] - side.positive(i)) / tau[i]) for j in side.negatives[i]]
                ).mean()
                row = 5 * way + i
                u[row] = g.detach() if row not in u else 0.75 * u[row] + 0.25 * g.detach()
                # value tau log(eps + u) + tau rho; its derivatives take d u for d g, as z_t and z_{i,t} do
                total = total + tau[i] * (torch.log(0.1 + u[row]) + (g - g.detach()) / (0.1 + u[row]) + 0.7) / 5
        same_value_and_gradients(found, total, [image, text, *loss.parameters()])


@both_paths
def test_a_nan_that_is_masked_reaches_no_parameter(tiled) -> None:
    image, text, *_ = (each.detach() for each in features(0))
    mask = torch.tensor([True, True, True, False, True])
    gradients = []
    for poison in (0.0, math.nan):
        image[3] = text[3] = poison
        loss = TempNetLoss(*nets(), 0.7, tiled=tiled)
        leaf = image.clone().requires_grad_()
        value = loss(leaf, text, mask=mask)
        gradients.append(torch.autograd.grad(value, [leaf, *loss.parameters()]))
    for left, right in zip(*gradients, strict=True):
        torch.testing.assert_close(left, right, **TIGHT)


@both_paths
def test_a_masked_pair_in_float32_leaves_finite_gradients(tiled) -> None:
    image, text, *_ = features(1, size=40, dtype=torch.float32)
    loss = TempNetLoss(TempNet(3), TempNet(3), 0.7, tiled=tiled)
    mask = torch.ones(40, dtype=torch.bool)
    mask[[0, 7]] = False
    loss(image, text, mask=mask).backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in [image, text, *loss.parameters()])


def test_training_the_networks_lowers_the_objective() -> None:
    image, text, *_ = (each.detach() for each in features(2))
    loss = TempNetLoss(*nets(), 0.3)
    optimizer = torch.optim.SGD(loss.parameters(), lr=0.1)
    values = []
    for _ in range(50):
        optimizer.zero_grad()
        values.append(loss(image, text))
        values[-1].backward()
        optimizer.step()
    assert all(later < earlier for earlier, later in itertools.pairwise(values))


def test_metrics_have_no_temperature_that_is_not_used() -> None:
    assert set(TempNetLoss(*nets(), 0.3).metrics()) == {"empty"}


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: TempNetLoss(*nets(), -1.0), ValueError, "`rho` is the radius of a ball"),
        (lambda x: TempNetLoss(*nets(), 1.0)(x, x[:2]), ValueError, "`image` and `text` must be features"),
        (lambda x: TempNetLoss(*nets(), 1.0)(x, x, mask=torch.ones(4)), TypeError, "`mask` must be a bool tensor"),
        (lambda x: TempNetLoss(*nets(), 1.0, num_rows=9, gamma=0.5)(x, x), ValueError, "`index` is needed"),
    ],
)
def test_errors(call, error, message) -> None:
    with pytest.raises(error, match=message):
        call(torch.ones(4, 3))
