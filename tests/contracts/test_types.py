"""Arguments of a wrong class raise a TypeError that names them (and impossible values a ValueError)."""

import pytest
import torch

import guidestar as gs


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gs.KL(1.0)([1.0, 2.0]), "losses and estimates must be floating-point tensors. Found list"),
        (lambda: gs.KL(1.0)(torch.ones(2), mask=[True, False]), "`mask` must be a tensor or None. Found list"),
        (lambda: gs.KL(1.0)(torch.ones(2, 2), [0, 1]), "`index` must be a tensor or None. Found list"),
        (lambda: gs.KL("a"), "`tau` must be a number. Found str"),
        (lambda: gs.CVaR("a"), "`alpha` must be a number. Found str"),
        (lambda: gs.Tracker()(1.0), "must be floating-point tensors. Found float"),
        (lambda: gs.DRRho(3), "`risk` must be a risk such as .*Found int"),
        (lambda: gs.DRRho(gs.KL), "an object and not a class. Found KL"),
        (lambda: gs.losses.DRRhoCrossEntropyLoss(gs.KL), "an object and not a class. Found KL"),
        (lambda: gs.DRRho(gs.KL(1.0))(torch.ones(2), [1.0, 2.0]), "must be floating-point tensors. Found list"),
        (lambda: gs.KLBall(0.1)(torch.ones(2), tau=1.0), "must be floating-point tensors. Found float"),
    ],
)
def test_a_wrong_class(call, message):
    with pytest.raises(TypeError, match=message):
        call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gs.GroupMean(0), "`num_groups` must be at least 1. Found 0"),
        (lambda: gs.schedules.Cosine(0.2, 2.5), r"`epochs` must be a whole number, at least 1. Found 2\.5"),
        (lambda: gs.set_epoch(gs.KL(1.0), 1.5), r"`epoch` must be 0 or more, a whole number. Found 1\.5"),
        (lambda: gs.Dual(lr=float("inf")), "`lr` must be positive and finite. Found inf"),
        (lambda: gs.KLBall(0.1)(torch.ones(2), tau=torch.tensor(-1.0)), r"`tau` must be positive. Found -1\.0"),
        (lambda: gs.KLBall(0.1)(torch.ones(2), tau=torch.ones(5)), r"one temperature a row, \(\). Found \(5,\)"),
    ],
)
def test_an_impossible_value(call, message):
    with pytest.raises(ValueError, match=message):
        call()
