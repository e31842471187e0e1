"""Dual: projected steps of the inner variables."""

from __future__ import annotations

import math

import pytest
import torch

import guidestar as gs


def test_a_step_is_projected_gradient_descent() -> None:
    dual = gs.Dual(init=1.0, lr=0.25, minimum=0.0, maximum=1.5).double()
    y = 1.0
    for target in (3.0, 3.0, -8.0, 0.5):
        leaf = dual.rows()
        assert float(leaf.detach()) == pytest.approx(y, abs=1e-15)
        dual.step((leaf - target) ** 2)
        y = min(max(y - 0.25 * 2 * (y - target), 0.0), 1.5)
    assert float(dual.values()) == pytest.approx(y, abs=1e-15)


def test_maximise_ascends() -> None:
    dual = gs.Dual(init=0.0, lr=0.5, maximise=True)
    dual.step(dual.rows() * 3.0)
    assert float(dual.values()) == 1.5


def test_momentum_is_equation_6_2() -> None:
    dual = gs.Dual(3, init=0.5, lr=0.5, momentum=0.75).double()
    y, m = [0.5] * 3, [0.0] * 3
    for index in ([0, 2], [2, 1], [0, 2]):
        leaf = dual.rows(torch.tensor(index))
        dual.step((leaf**3).sum())
        for i in index:
            m[i] = 0.75 * m[i] + 0.25 * 3 * y[i] ** 2
            y[i] -= 0.5 * m[i]
    torch.testing.assert_close(dual.values(torch.arange(3)).tolist(), y, rtol=1e-14, atol=1e-14)


def test_alexr_v2_for_the_hinge() -> None:
    # y <- Proj_[0, 1][y + alpha g~]
    dual = gs.Dual(2, init=0.5, lr=0.25, maximise=True, minimum=0.0, maximum=1.0).double()
    y = [0.5, 0.5]
    for estimates in ([1.0, -1.0], [1.5, -3.0], [-0.25, 0.5]):
        leaf = dual.rows(torch.arange(2))
        dual.step(leaf * torch.tensor(estimates))
        y = [min(max(each + 0.25 * g, 0.0), 1.0) for each, g in zip(y, estimates, strict=True)]
    assert dual.values(torch.arange(2)).tolist() == y


def test_a_row_twice_moves_by_the_mean_gradient() -> None:
    dual = gs.Dual(2, lr=1.0)
    dual.step(dual.rows(torch.tensor([1, 1, 0])) * torch.tensor([1.0, 3.0, 5.0]))
    assert dual.values(torch.arange(2)).tolist() == [-5.0, -2.0]


def test_inactive_entries_do_not_count() -> None:
    dual = gs.Dual(2, lr=1.0, momentum=0.5)
    dual.move(torch.tensor([1.0, 3.0, 5.0]), torch.tensor([1, 1, 0]), torch.tensor([False, True, False]))
    assert dual.values(torch.arange(2)).tolist() == [0.0, -1.5]
    assert dual.velocity.values.tolist() == [0.0, 1.5]
    single = gs.Dual(lr=1.0)
    single.move(torch.tensor([1.0, 3.0]), active=torch.tensor([False, True]))
    assert float(single.values()) == -3.0
    single.move(torch.tensor([math.nan, 3.0]), active=torch.tensor([False, False]))
    single.move(torch.tensor([]))
    assert float(single.values()) == -3.0


def test_the_gradient_of_the_objective_stays_whole() -> None:
    dual, w = gs.Dual(init=2.0, lr=0.5), torch.tensor(3.0, requires_grad=True)
    objective = w * dual.rows()
    dual.step(objective)
    objective.backward()
    assert float(w.grad) == 2.0
    assert float(dual.values()) == 0.5


def test_it_moves_in_training_only() -> None:
    dual = gs.Dual(init=1.0, lr=0.5)
    with torch.no_grad():
        leaf = dual.rows()
        assert not leaf.requires_grad
        dual.step(leaf**2)
    dual.eval()
    dual.step(dual.rows() ** 2)
    dual.move(torch.tensor(1.0))
    assert float(dual.values()) == 1.0


def test_no_optimizer_sees_it() -> None:
    assert list(gs.Dual(3, lr=0.1, momentum=0.5).parameters()) == []


def test_state_is_one_float_a_row() -> None:
    assert {k: v.numel() for k, v in gs.Dual(5, lr=0.1).state_dict().items()} == {"memory.values": 5}
    assert set(gs.Dual(5, lr=0.1, momentum=0.5).state_dict()) == {"memory.values", "velocity.values"}


def test_bad_use() -> None:
    dual = gs.Dual(lr=0.1)
    with pytest.raises(RuntimeError, match="`step` needs the leaf that `rows` gives"):
        dual.step(torch.tensor(1.0, requires_grad=True))
    dual.rows()
    with pytest.raises(RuntimeError, match="`objective` does not depend on the tensor that `rows` gave"):
        dual.step(torch.tensor(1.0, requires_grad=True))
    with pytest.raises(ValueError, match="`index` is needed: there are 3 rows"):
        gs.Dual(3, lr=0.1).rows()
    with pytest.raises(IndexError, match="Found 3"):
        gs.Dual(3, lr=0.1).rows(torch.tensor([3]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": 0.0}, "`lr` must be positive and finite. Found 0.0"),
        ({"lr": math.nan}, "`lr` must be positive and finite. Found nan"),
        ({"lr": 1.0, "momentum": 1.0}, r"`momentum` must be in \[0, 1\). Found 1.0"),
        ({"lr": 1.0, "momentum": -0.1}, r"`momentum` must be in \[0, 1\)"),
        ({"lr": 1.0, "minimum": 1.0}, r"`init` must lie between .* \[1.0, inf\]. Found 0.0"),
        ({"lr": 1.0, "maximum": -1.0}, r"`init` must lie between .* \[-inf, -1.0\]. Found 0.0"),
        ({"lr": 1.0, "num_rows": 0}, "`num_rows` must be at least 1"),
    ],
)
def test_bad_settings(settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        gs.Dual(**settings)
