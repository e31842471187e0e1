"""DRRhoContrastiveLoss: Eq. 6.42, 6.47 and, with a reference, 6.121 for one tower with two views."""

from __future__ import annotations

import math

import pytest
import torch
from written_out import TIGHT, Track, estimator, features, one_tower, robust, same_value_and_gradients

import guidestar as gs
from guidestar.losses import DRRhoContrastiveLoss

GROUPS, MASK = [0, 1, 0, 2, 3], [True, True, True, False, True]
both_paths = pytest.mark.parametrize("tiled", [False, True], ids=["eager", "tiled"])


def given(reference=None, groups=None, mask=None) -> dict[str, torch.Tensor]:
    made = {} if reference is None else {"reference_first": reference[0], "reference_second": reference[1]}
    made |= {} if groups is None else {"groups": torch.tensor(groups)}
    return made if mask is None else {**made, "mask": torch.tensor(mask)}


@both_paths
@pytest.mark.parametrize("eps", [0.0, 0.3])
@pytest.mark.parametrize("shifted", [True, False])
@pytest.mark.parametrize("steered", [False, True], ids=["", "reference"])
@pytest.mark.parametrize(("groups", "several"), [(None, False), (GROUPS, False), (GROUPS, True)])
@pytest.mark.parametrize("mask", [None, MASK], ids=["", "mask"])
def test_equals_the_objective(tiled, eps, shifted, steered, groups, several, mask) -> None:
    first, second, *reference = features(0)
    reference = tuple(reference) if steered else None
    loss = DRRhoContrastiveLoss(gs.KL(0.3), tiled=tiled, eps=eps, shifted=shifted, several_positives=several)
    found = loss(first, second, **given(reference, groups, mask))
    side = one_tower(first, second, reference, groups, mask, several)
    expected = robust(side, 0.3, eps=eps, negatives_only=True, shifted=shifted)
    same_value_and_gradients(found, expected, [first, second])


@both_paths
@pytest.mark.parametrize("shifted", [True, False])
@pytest.mark.parametrize("mask", [None, MASK], ids=["", "mask"])
def test_the_slope_of_a_learnt_temperature(tiled, shifted, mask) -> None:
    first, second, *reference = features(1)
    risk = gs.KLBall(0.5, tau=0.25, lr=2.0**-10)
    loss = DRRhoContrastiveLoss(risk, tiled=tiled, eps=0.1, shifted=shifted).double()
    tau = torch.tensor(0.25, dtype=torch.float64, requires_grad=True)
    side = one_tower(first, second, tuple(reference), None, mask)
    expected = robust(side, tau, rho=0.5, eps=0.1, negatives_only=True, shifted=shifted)
    before = risk.dual.memory.values.clone()
    same_value_and_gradients(loss(first, second, **given(reference, None, mask)), expected, [first, second])
    (slope,) = torch.autograd.grad(expected, tau)
    torch.testing.assert_close((before - risk.dual.memory.values)[0] * 2**10, slope, rtol=1e-9, atol=1e-10)


@both_paths
@pytest.mark.parametrize("shifted", [True, False], ids=["Alg. 35", "Alg. 34"])
@pytest.mark.parametrize("steered", [False, True], ids=["", "reference"])
def test_the_algorithm_with_rows_seen_and_not_seen(tiled, shifted, steered) -> None:
    loss = DRRhoContrastiveLoss(gs.KL(0.3, 9, gamma=0.25), tiled=tiled, eps=0.1, shifted=shifted).double()
    track = Track(0.25, {})
    for step, index in enumerate(([0, 1, 2, 3, 4], [3, 8, 0, 5, 1], [8, 4, 3, 2, 7])):
        first, second, *reference = features(step)
        reference = tuple(reference) if steered else None
        side = one_tower(first, second, reference)
        value, gradient, _ = estimator(side, 0.3, track, index * 2, eps=0.1, shifted=shifted)
        found = loss(first, second, torch.tensor(index), **given(reference))
        assert float(found.detach()) == pytest.approx(value, rel=1e-10)
        for left, right in zip(
            torch.autograd.grad(found, [first, second]), torch.autograd.grad(gradient, [first, second]), strict=True
        ):
            torch.testing.assert_close(left, right, **TIGHT)
        memory, seen = loss.risk.tracker.remembered()
        assert {row for row in range(9) if seen[row]} == set(track.u)
        for row, u in track.u.items():
            assert math.exp(memory[row]) == pytest.approx(u, rel=1e-10)


@both_paths
def test_closed_expression(tiled) -> None:
    # Orthonormal samples, both views alike: l = -1 for all six negatives.
    one = torch.eye(4, dtype=torch.float64)
    for tau in (1.0, 0.01):
        assert float(DRRhoContrastiveLoss(gs.KL(tau), tiled=tiled)(one, one)) == pytest.approx(-1.0, rel=1e-10)
        expected = tau * math.log(0.5 + math.exp(-1 / tau))
        value = DRRhoContrastiveLoss(gs.KL(tau), tiled=tiled, eps=0.5)(one, one)
        assert float(value) == pytest.approx(expected, rel=1e-10)


@both_paths
def test_one_sample_and_all_rows_masked(tiled) -> None:
    loss = DRRhoContrastiveLoss(gs.KLBall(0.5, num_rows=9, gamma=0.5, per_row=True), tiled=tiled)
    before = {name: value.clone() for name, value in loss.state_dict().items() if not name.endswith("count")}
    first, second, *_ = features(2, dtype=torch.float32)
    one = loss(first[:1], second[:1], torch.tensor([3]))
    none = loss(first, second, torch.arange(5), mask=torch.zeros(5, dtype=torch.bool))
    alike = loss(first, second, torch.arange(5), groups=torch.zeros(5, dtype=torch.int64))
    for value in (one, none, alike):
        assert value == 0
        assert not any(gradient.any() for gradient in torch.autograd.grad(value, [first, second]))
    assert loss.metrics()["empty"] == 2 + 10 + 10
    assert all(torch.equal(loss.state_dict()[name], value) for name, value in before.items())


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: DRRhoContrastiveLoss(gs.CVaR(0.5)), TypeError, "`risk` must be a KL or KLBall risk. Found CVaR"),
        (lambda x: DRRhoContrastiveLoss(gs.KL), TypeError, "an object and not a class. Found KL"),
        (
            lambda x: DRRhoContrastiveLoss(gs.KL(1.0), eps=-1.0),
            ValueError,
            r"`eps` must be at least 0 and finite. Found -1\.0",
        ),
        (lambda x: DRRhoContrastiveLoss(gs.KL(1.0))(x, x[:1]), ValueError, "`first` and `second` must be features"),
        (
            lambda x: DRRhoContrastiveLoss(gs.KL(1.0))(x, x, reference_first=x),
            ValueError,
            "`reference_second` is missing beside `reference_first`",
        ),
        (
            lambda x: DRRhoContrastiveLoss(gs.KL(1.0, 9, gamma=0.5))(x, x),
            ValueError,
            "`index` is needed: the tracker has 9 rows",
        ),
        (
            lambda x: DRRhoContrastiveLoss(gs.KL(1.0, 4, gamma=0.5))(x, x, torch.tensor([0, 1, 2, 4])),
            IndexError,
            r"`index` must lie in \[0, 4\).*Found 4",
        ),
        (
            lambda x: DRRhoContrastiveLoss(gs.KLBall(1.0, per_row=True, num_rows=9))(x, x),
            ValueError,
            "`index` is needed: every row has its own temperature",
        ),
    ],
)
def test_errors(call, error, message) -> None:
    with pytest.raises(error, match=message):
        call(torch.ones(4, 2))
