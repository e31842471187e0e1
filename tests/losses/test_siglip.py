"""SigLIPLoss: one logistic loss a pair of the batch."""

from __future__ import annotations

import math

import pytest
import torch
from written_out import features, same_value_and_gradients

from guidestar.losses import SigLIPLoss

GROUPS, MASK = [0, 1, 0, 2, 3], [True, True, True, False, True]
both_paths = pytest.mark.parametrize("tiled", [False, True], ids=["eager", "tiled"])


def written(image, text, tau, bias, groups, mask, several):
    n, total = len(image), []
    valid = [True] * n if mask is None else mask
    for i in range(n):
        for j in range(n):
            alike = groups is not None and groups[i] == groups[j]
            if not (valid[i] and valid[j]) or (alike and i != j and not several):
                continue
            z = 1.0 if i == j or (alike and several) else -1.0
            total.append(-torch.log(1 / (1 + torch.exp(-z * (image[i] @ text[j] / tau + bias)))))
    return torch.stack(total).sum() / sum(valid)


@both_paths
@pytest.mark.parametrize("groups", [None, GROUPS], ids=["", "groups"])
@pytest.mark.parametrize("mask", [None, MASK], ids=["", "mask"])
@pytest.mark.parametrize("several", [False, True], ids=["", "several"])
def test_equals_the_sum(tiled, groups, mask, several) -> None:
    image, text, *_ = features(0)
    tau = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    bias = torch.tensor(-2.0, dtype=torch.float64, requires_grad=True)
    found = SigLIPLoss(tiled=tiled, several_positives=several)(
        image,
        text,
        tau=tau,
        bias=bias,
        groups=None if groups is None else torch.tensor(groups),
        mask=None if mask is None else torch.tensor(mask),
    )
    expected = written(image, text, tau, bias, groups, mask, several)
    same_value_and_gradients(found, expected, [image, text, tau, bias])


@both_paths
def test_the_constants_are_those_of_the_constructor(tiled) -> None:
    image, text, *_ = features(1)
    expected = written(image, text, 0.2, -1.0, None, None, False)
    same_value_and_gradients(SigLIPLoss(0.2, -1.0, tiled=tiled)(image, text), expected, [image, text])
    one = torch.ones(1, 1, dtype=torch.float64)
    assert float(SigLIPLoss(1.0, 0.0, tiled=tiled)(one, one)) == pytest.approx(math.log1p(math.exp(-1)), rel=1e-12)


@both_paths
def test_all_rows_masked(tiled) -> None:
    image, text, *_ = features(2)
    loss = SigLIPLoss(tiled=tiled)
    value = loss(image, text, mask=torch.zeros(5, dtype=torch.bool))
    assert value == 0
    value.backward()
    assert not image.grad.any()
    assert loss.metrics()["empty"] == 5


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: SigLIPLoss(0.0), ValueError, r"`tau` must be a positive number. Found 0\.0"),
        (lambda x: SigLIPLoss()(x, x[:2]), ValueError, r"`image` and `text` must be features \[B, d\]"),
        (lambda x: SigLIPLoss()(x.long(), x), TypeError, "floating-point tensors. Found torch.int64"),
        (
            lambda x: SigLIPLoss()(x, x, bias=torch.ones(4)),
            ValueError,
            r"`bias` must be a scalar tensor, \[\]. Found \(4,\)",
        ),
        (lambda x: SigLIPLoss()(x, x, bias=-10.0), TypeError, "floating-point tensors. Found float"),
        (lambda x: SigLIPLoss()(x, x, tau=torch.ones(4)), ValueError, r"`tau` must be a scalar tensor"),
    ],
)
def test_errors(call, error, message) -> None:
    with pytest.raises(error, match=message):
        call(torch.ones(4, 2))
