"""FastCLIPLoss: the four published versions, the cosine of gamma over the epochs, and the cut of the step size."""

from __future__ import annotations

import math

import pytest
import torch
from written_out import TIGHT, Track, estimator, features, two_towers

from guidestar.losses import FastCLIPLoss

STEPS = [[0, 1, 2, 3, 4], [3, 8, 0, 5, 1], [8, 4, 3, 2, 7], [1, 2, 6, 0, 8]]
both_paths = pytest.mark.parametrize("tiled", [False, True], ids=["eager", "tiled"])
TAU, RHO, LR, EPS = 0.3, 0.6, 0.01, 0.05


def cosine(epoch: int, decay: int, low: float) -> float:
    return low if epoch >= decay else 0.5 * (1 + math.cos(math.pi * epoch / decay)) * (1 - low) + low


@both_paths
@pytest.mark.parametrize("version", [0, 1, 2, 3])
@pytest.mark.parametrize("joint", [True, False])
def test_each_version_over_four_epochs(tiled, version, joint) -> None:
    loss = FastCLIPLoss(
        9, 6, version=version, tau=TAU, rho=RHO, lr=LR, lr_cut=None, eps=EPS, joint_temperature=joint, tiled=tiled
    ).double()
    risks = (loss.loss.image_risk, loss.loss.text_risk)
    learnt = version != 1
    for risk in risks if learnt else ():
        risk.dual.memory.values.fill_(TAU)
    taus, tracks = [[TAU] * 9, [TAU] * 9], [Track(1.0, {}), Track(1.0, {})]
    for epoch, index in enumerate(STEPS):
        loss.set_epoch(epoch)
        image, text, *_ = features(epoch)
        value, gradient, moves = 0.0, torch.zeros((), dtype=torch.float64), []
        for side, tau, track in zip(two_towers(image, text), taus, tracks, strict=True):
            track.gamma = cosine(epoch, 3, 0.2)
            own = torch.tensor([tau[row] for row in index], dtype=torch.float64)
            rho = 0.0 if version in (0, 1) else RHO
            one, z, slopes = estimator(side, own, track, index, eps=EPS, shifted=True, rho=rho, scaled=version > 0)
            value, gradient = value + one, gradient + z
            moves.append(slopes)
        if version == 2:
            for tau, slopes in zip(taus, moves, strict=True):
                for row, slope in zip(index, slopes, strict=True):
                    tau[row] -= LR * slope
        elif version != 1:
            means = [sum(slopes) / 5 for slopes in moves]
            means = [sum(means) / 2] * 2 if joint else means
            taus = [[tau[0] - LR * slope] * 9 for tau, slope in zip(taus, means, strict=True)]
        found = loss(image, text, torch.tensor(index))
        assert float(found.detach()) == pytest.approx(value, rel=1e-10)
        expected = torch.autograd.grad(gradient, [image, text])
        for left, right in zip(torch.autograd.grad(found, [image, text]), expected, strict=True):
            torch.testing.assert_close(left, right, **TIGHT)
        for risk, tau in zip(risks, taus, strict=True):
            if learnt:
                kept = risk.dual.memory.values.tolist()
                assert kept == pytest.approx(tau[: len(kept)], rel=1e-10)


def test_gamma_falls_over_the_first_half_of_the_epochs() -> None:
    loss = FastCLIPLoss(9, 10, gamma_min=0.2)
    tracker = loss.loss.image_risk.tracker
    for epoch in range(10):
        loss.set_epoch(epoch)
        rate = tracker.schedule.rate(torch.zeros(()), tracker.epoch.number, log_space=True)
        assert float(rate) == pytest.approx(cosine(epoch, 5, 0.2), rel=1e-12)


@pytest.mark.parametrize(("start", "factor"), [(0.031, 1.0), (0.03, 1 / 3), (0.02, 1 / 3)])
def test_the_step_is_cut_at_and_below_the_threshold(start, factor) -> None:
    image, text, *_ = features(0)
    moved = []
    for cut in ((0.03, 1 / 3), None):
        loss = FastCLIPLoss(5, 4, tau=start, rho=RHO, lr=1e-6, lr_cut=cut).double()
        loss.loss.image_risk.dual.memory.values.fill_(start)
        loss(image, text, torch.arange(5))
        moved.append(float(loss.loss.image_risk.dual.memory.values) - start)
    assert moved[1] != 0
    assert moved[0] == pytest.approx(factor * moved[1], rel=1e-6)


def test_the_temperature_stays_at_its_bound() -> None:
    image, text, *_ = features(0)
    loss = FastCLIPLoss(5, 4, tau=0.02, rho=50.0, lr=1.0)
    loss(image, text, torch.arange(5))
    assert loss.metrics()["image_tau"] == pytest.approx(0.01)


def test_state_of_the_versions() -> None:
    def size(**settings) -> int:
        names = loss = FastCLIPLoss(100, 4, **settings)
        held = {t.data_ptr(): t for n, t in names.named_buffers() if not n.endswith(("count", "number"))}
        assert loss.state_dict()
        return sum(t.numel() * t.element_size() for t in held.values())

    assert size(version=1) == 800
    assert size(version=2) == 1600
    assert size(version=3) == size(version=0) == 804
    assert size(version=3, joint_temperature=False) == 808
    assert size(version=3, gamma_min=1.0) == 4


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: FastCLIPLoss(9, 4, version=4), "`version` must be 0, 1, 2 or 3. Found 4"),
        (lambda: FastCLIPLoss(9, 4, gamma_min=0.0), r"`gamma_min` must be in \(0, 1\]. Found 0\.0"),
        (
            lambda: FastCLIPLoss(9, 4, lr_cut=(0.03, 2.0)),
            r"`lr_cut` must be \(threshold, factor\).*Found \(0\.03, 2\.0\)",
        ),
        (lambda: FastCLIPLoss(9, 4, lr=0.0), "`lr` must be positive and finite"),
        (lambda: FastCLIPLoss(9, 4)(torch.eye(4), torch.eye(4)), "`index` is needed: the tracker has 9 rows"),
    ],
)
def test_errors(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()
