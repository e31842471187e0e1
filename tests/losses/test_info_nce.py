"""InfoNCELoss: Eq. 6.38 over both views."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional
from written_out import features, info_nce, one_tower, same_value_and_gradients

from guidestar.losses import InfoNCELoss

GROUPS, MASK = [0, 1, 0, 2, 3], [True, True, True, False, True]
both_paths = pytest.mark.parametrize("tiled", [False, True], ids=["eager", "tiled"])


@both_paths
@pytest.mark.parametrize("groups", [None, GROUPS], ids=["", "groups"])
@pytest.mark.parametrize("mask", [None, MASK], ids=["", "mask"])
@pytest.mark.parametrize("several", [False, True], ids=["", "several"])
def test_equals_the_equation(tiled, groups, mask, several) -> None:
    first, second, *_ = features(0)
    tau = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    extra = {"groups": None if groups is None else torch.tensor(groups)}
    extra["mask"] = None if mask is None else torch.tensor(mask)
    found = InfoNCELoss(tiled=tiled, several_positives=several)(first, second, tau=tau, **extra)
    side = one_tower(first, second, None, groups, mask, several=several and groups is not None)
    same_value_and_gradients(found, info_nce(side, tau), [first, second, tau])


@both_paths
def test_is_simclrs_cross_entropy(tiled) -> None:
    # NT-Xent as it is usually written: the other view is the class, the anchor itself is left out.
    first, second, *_ = features(1)
    h = torch.cat([first, second])
    logits = (h @ h.T / 0.2).fill_diagonal_(-float("inf"))
    expected = functional.cross_entropy(logits, (torch.arange(10) + 5) % 10)
    same_value_and_gradients(InfoNCELoss(0.2, tiled=tiled)(first, second), expected, [first, second])


@both_paths
def test_closed_expression(tiled) -> None:
    one = torch.eye(4, dtype=torch.float64)
    for tau in (1.0, 0.01):
        expected = math.log1p(6 * math.exp(-1 / tau))
        assert float(InfoNCELoss(tau, tiled=tiled)(one, one)) == pytest.approx(expected, rel=1e-10, abs=1e-14)


@both_paths
def test_one_sample_has_no_negative(tiled) -> None:
    first, second, *_ = features(2, size=1)
    loss = InfoNCELoss(tiled=tiled)
    value = loss(first, second)
    assert value == 0
    value.backward()
    assert not first.grad.any()
    assert loss.metrics()["empty"] == 2


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: InfoNCELoss(-1.0), ValueError, r"`tau` must be a positive number. Found -1\.0"),
        (
            lambda x: InfoNCELoss()(x, x[:, :1]),
            ValueError,
            r"`first` and `second` must be features \[B, d\] of one shape",
        ),
        (lambda x: InfoNCELoss()(x, x.long()), TypeError, "floating-point tensors. Found torch.int64"),
        (
            lambda x: InfoNCELoss()(x, x, tau=torch.ones(1)),
            ValueError,
            r"`tau` must be a scalar tensor, \[\]. Found \(1,\)",
        ),
        (lambda x: InfoNCELoss()(x, x, torch.arange(3)), ValueError, r"`index` must have one row number a pair, \[4\]"),
        (lambda x: InfoNCELoss()(x, x, [0, 1, 2, 3]), TypeError, "`index` must be a tensor or None. Found list"),
    ],
)
def test_errors(call, error, message) -> None:
    with pytest.raises(error, match=message):
        call(torch.ones(4, 2))
