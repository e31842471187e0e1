"""TempNet: tau_0 + (tau_1 - tau_0) sigmoid(MLP(x))."""

from __future__ import annotations

import pytest
import torch

from guidestar.networks import TempNet


def test_starts_at_one_temperature_for_all() -> None:
    net = TempNet(6, tau=0.05)
    values = net(torch.randn(7, 6))
    assert values.shape == (7,)
    torch.testing.assert_close(values, torch.full((7,), 0.05))


def test_equals_the_formula() -> None:
    net = TempNet(3, hidden=5, tau_min=0.1, tau_max=0.7, tau=0.2).double()
    torch.nn.init.normal_(net.last.weight)
    x = torch.randn(4, 3, dtype=torch.float64)
    one, other = net.first, net.last
    for i in range(4):
        hidden = torch.clamp(one.weight @ x[i] + one.bias, min=0)
        expected = 0.1 + 0.6 * torch.sigmoid(other.weight[0] @ hidden + other.bias[0])
        torch.testing.assert_close(net(x)[i], expected, rtol=1e-12, atol=0)


def test_stays_between_its_bounds() -> None:
    net = TempNet(3, tau_min=0.01, tau_max=0.5)
    for size in (1e6, -1e6):
        torch.nn.init.constant_(net.last.bias, size)
        values = net(torch.randn(5, 3))
        assert (values >= 0.01).all()
        assert (values <= 0.5).all()


def test_no_gradient_reaches_the_features() -> None:
    net, x = TempNet(3), torch.randn(4, 3, requires_grad=True)
    net(x).sum().backward()
    assert x.grad is None
    assert net.last.bias.grad.abs() > 0


def test_half_precision_features_and_autocast() -> None:
    net, x = TempNet(3), torch.randn(4, 3).bfloat16()
    torch.nn.init.normal_(net.last.weight)
    expected = net(x.float())
    assert torch.equal(net(x), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(net(x), expected)


@pytest.mark.parametrize("settings", [{"tau": 0.2}, {"tau_min": 0.0}, {"tau": 0.005}, {"tau_max": 0.01}])
def test_temperatures_out_of_order(settings) -> None:
    with pytest.raises(ValueError, match=r"must be in order, 0 < `tau_min` < `tau` < `tau_max`\. Found"):
        TempNet(3, **settings)
