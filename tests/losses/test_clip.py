"""CLIPLoss: Eq. 6.39 plus Eq. 6.40."""

from __future__ import annotations

import math

import pytest
import torch
from written_out import features, info_nce, same_value_and_gradients, two_towers

from guidestar.losses import CLIPLoss

GROUPS, MASK = [0, 1, 0, 2, 3], [True, True, True, False, True]
both_paths = pytest.mark.parametrize("tiled", [False, True], ids=["eager", "tiled"])


def extra(groups, mask) -> dict[str, torch.Tensor]:
    made = {} if groups is None else {"groups": torch.tensor(groups)}
    return made if mask is None else {**made, "mask": torch.tensor(mask)}


@both_paths
@pytest.mark.parametrize("groups", [None, GROUPS], ids=["", "groups"])
@pytest.mark.parametrize("mask", [None, MASK], ids=["", "mask"])
@pytest.mark.parametrize("several", [False, True], ids=["", "several"])
def test_equals_the_equations(tiled, groups, mask, several) -> None:
    image, text, *_ = features(0)
    tau = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    found = CLIPLoss(tiled=tiled, several_positives=several)(image, text, tau=tau, **extra(groups, mask))
    if several:  # all others of a group are positives, whose mean is the logit, and stay in the denominator
        sides = two_towers(image, text, None, groups, mask, several=True)
    else:
        sides = two_towers(image, text, None, groups, mask)
    same_value_and_gradients(found, sum(info_nce(s, tau, own_positive=not several) for s in sides), [image, text, tau])


@both_paths
def test_closed_expression(tiled) -> None:
    # Orthonormal pairs: each row has one 1 / tau and n - 1 zeros.
    one = torch.eye(4, dtype=torch.float64)
    for tau in (1.0, 0.1, 0.01):
        expected = 2 * math.log1p(3 * math.exp(-1 / tau))
        assert float(CLIPLoss(tau, tiled=tiled)(one, one)) == pytest.approx(expected, rel=1e-10, abs=1e-14)


def test_a_tensor_is_the_constant() -> None:
    image, text, *_ = features(1)
    given = CLIPLoss(0.5)(image, text, tau=torch.tensor(0.07))
    torch.testing.assert_close(given, CLIPLoss(0.07)(image, text), rtol=1e-6, atol=0)


@both_paths
def test_pairs_without_a_negative_are_counted_and_give_nothing(tiled) -> None:
    image, text, *_ = features(2, size=3)
    loss = CLIPLoss(tiled=tiled)
    value = loss(image, text, groups=torch.tensor([4, 4, 4]))
    value.backward()
    assert value == 0
    assert not image.grad.any()
    assert loss.metrics()["empty"] == 6  # three a direction
    assert loss(image[:1], text[:1]) == 0
    mixed = loss(image, text, groups=torch.tensor([4, 4, 5]))
    sides = two_towers(image, text, groups=[4, 4, 5])
    torch.testing.assert_close(mixed, sum(info_nce(side, 0.07) for side in sides))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: CLIPLoss(0.0), ValueError, r"`tau` must be a positive number. Found 0\.0"),
        (lambda x: CLIPLoss()(x, x[:3]), ValueError, r"`image` and `text` must be features \[B, d\].*\(4, 2\) and \(3"),
        (lambda x: CLIPLoss()(x[0], x[0]), ValueError, r"`image` and `text` must be features \[B, d\]"),
        (lambda x: CLIPLoss()(x.long(), x), TypeError, "floating-point tensors. Found torch.int64"),
        (lambda x: CLIPLoss()(x, x.long()), TypeError, "floating-point tensors. Found torch.int64"),
        (
            lambda x: CLIPLoss()(x, x, tau=torch.ones(4)),
            ValueError,
            r"`tau` must be a scalar tensor, \[\]. Found \(4,\)",
        ),
        (lambda x: CLIPLoss()(x, x, tau=torch.tensor(-1.0)), ValueError, r"`tau` must be positive. Found -1\.0"),
        (lambda x: CLIPLoss()(x, x, tau=0.1), TypeError, "floating-point tensors. Found float"),
        (lambda x: CLIPLoss()(x, x, groups=torch.zeros(4)), TypeError, "`groups` must be an int64 tensor"),
        (
            lambda x: CLIPLoss()(x, x, groups=torch.zeros(3).long()),
            ValueError,
            r"`groups` must have one entry a pair, \[4\]",
        ),
        (lambda x: CLIPLoss()(x, x, mask=torch.ones(4)), TypeError, "`mask` must be a bool tensor"),
        (
            lambda x: CLIPLoss()(x, x, mask=torch.ones(3).bool()),
            ValueError,
            r"`mask` must have one entry a pair, \[4\]",
        ),
    ],
)
def test_errors(call, error, message) -> None:
    with pytest.raises(error, match=message):
        call(torch.ones(4, 2))
