"""DRRhoCLIPLoss: Eq. 6.49 and 6.121 in value and in every gradient, for each of its options."""

from __future__ import annotations

import math

import pytest
import torch
from written_out import TIGHT, features, robust, same_value_and_gradients, slope_of_the_step, two_towers

import guidestar as gs
from guidestar.losses import DRRhoCLIPLoss

GROUPS, MASK = [0, 1, 0, 2, 3], [True, True, True, False, True]
both_paths = pytest.mark.parametrize("tiled", [False, True], ids=["eager", "tiled"])
OPTIONS = [
    {},
    {"eps": 1e-14},
    {"eps": 0.0},
    {"eps": 0.3},
    {"negatives_only": True},
    {"negatives_only": True, "eps": 0.3},
    {"shifted": False},
    {"shifted": False, "eps": 0.3},
    {"shifted": False, "negatives_only": True, "eps": 0.3},
]
options = pytest.mark.parametrize(
    "option", OPTIONS, ids=lambda o: " ".join(f"{k}={v}" for k, v in o.items()) or "plain"
)


def given(reference=None, groups=None, mask=None) -> dict[str, torch.Tensor]:
    made = {} if reference is None else {"reference_image": reference[0], "reference_text": reference[1]}
    made |= {} if groups is None else {"groups": torch.tensor(groups)}
    return made if mask is None else {**made, "mask": torch.tensor(mask)}


@both_paths
@options
@pytest.mark.parametrize("steered", [False, True], ids=["", "reference"])
@pytest.mark.parametrize(("groups", "several"), [(None, False), (GROUPS, False), (GROUPS, True)])
@pytest.mark.parametrize("mask", [None, MASK], ids=["", "mask"])
def test_equals_the_objective_at_a_constant_temperature(tiled, option, steered, groups, several, mask) -> None:
    image, text, *reference = features(0)
    reference = tuple(reference) if steered else None
    loss = DRRhoCLIPLoss(gs.KL(0.3), gs.KL(0.2), tiled=tiled, several_positives=several, **option)
    found = loss(image, text, **given(reference, groups, mask))
    one, other = two_towers(image, text, reference, groups, mask, several)
    same_value_and_gradients(found, robust(one, 0.3, **option) + robust(other, 0.2, **option), [image, text])


@both_paths
@options
@pytest.mark.parametrize("steered", [False, True], ids=["", "reference"])
def test_slopes_of_learnt_temperatures(tiled, option, steered) -> None:
    image, text, *reference = features(1)
    reference = tuple(reference) if steered else None
    ball = gs.KLBall(0.7, tau=0.3, lr=1e-3)
    loss = DRRhoCLIPLoss(ball, gs.KLBall(0.4, tau=0.2, lr=1e-3), tiled=tiled, **option).double()
    taus = [torch.tensor(tau, dtype=torch.float64, requires_grad=True) for tau in (0.3, 0.2)]
    for risk, tau in zip((loss.image_risk, loss.text_risk), taus, strict=True):
        risk.dual.memory.values.fill_(float(tau.detach()))  # not rounded to float32
    one, other = two_towers(image, text, reference)
    expected = robust(one, taus[0], rho=0.7, **option) + robust(other, taus[1], rho=0.4, **option)
    before = [risk.dual.memory.values.clone() for risk in (loss.image_risk, loss.text_risk)]
    same_value_and_gradients(loss(image, text, **given(reference)), expected, [image, text])
    slopes = torch.autograd.grad(expected, taus)
    for old, risk, slope in zip(before, (loss.image_risk, loss.text_risk), slopes, strict=True):
        torch.testing.assert_close((old - risk.dual.memory.values)[0] / 1e-3, slope, rtol=1e-9, atol=1e-10)


@both_paths
@pytest.mark.parametrize("steered", [False, True], ids=["", "reference"])
def test_the_slope_at_the_published_setting(tiled, steered) -> None:
    # traps.md, DRRho-CLIP 1: at tau = .05 and eps = 1e-14 the official slope's first term is twice (or half) as large.
    image, text, *reference = features(2, size=6)
    reference = tuple(reference) if steered else None
    loss = DRRhoCLIPLoss(
        gs.KLBall(0.0, tau=0.05, tau_min=1e-3, lr=1e-4), joint_temperature=True, eps=1e-14, tiled=tiled
    )
    loss.double()
    loss.image_risk.dual.memory.values.fill_(0.05)
    tau = torch.tensor(0.05, dtype=torch.float64, requires_grad=True)
    sides = two_towers(image, text, reference)
    (slope,) = torch.autograd.grad(sum(robust(side, tau, eps=1e-14) for side in sides) / 2, tau)
    found = slope_of_the_step(loss.image_risk, lambda: loss(image, text, **given(reference)))
    torch.testing.assert_close(found[0], slope, rtol=1e-9, atol=1e-10)


@both_paths
@pytest.mark.parametrize("mask", [None, MASK], ids=["", "mask"])
@pytest.mark.parametrize("groups", [None, GROUPS], ids=["", "groups"])
def test_a_joint_temperature_moves_by_the_mean_of_both_slopes(tiled, mask, groups) -> None:
    image, text, *reference = features(3)
    risk = gs.KLBall(0.5, tau=0.25, lr=2.0**-10)
    loss = DRRhoCLIPLoss(risk, joint_temperature=True, tiled=tiled).double()
    assert loss.text_risk.dual is loss.image_risk.dual
    tau = torch.tensor(0.25, dtype=torch.float64, requires_grad=True)
    sides = two_towers(image, text, tuple(reference), groups, mask)
    expected = sum(robust(side, tau, rho=0.5) for side in sides)
    (slope,) = torch.autograd.grad(expected / 2, tau, retain_graph=True)
    before = risk.dual.memory.values.clone()
    same_value_and_gradients(loss(image, text, **given(reference, groups, mask)), expected, [image, text])
    torch.testing.assert_close((before - risk.dual.memory.values)[0] * 2**10, slope, rtol=1e-9, atol=1e-10)
    assert loss.metrics()["image_tau"] == float(risk.dual.memory.values)


@both_paths
@options
def test_temperatures_of_the_rows(tiled, option) -> None:
    image, text, *reference = features(4)
    loss = DRRhoCLIPLoss(gs.KLBall(0.6, tau=0.25, per_row=True, num_rows=9, lr=2.0**-10), tiled=tiled, **option)
    loss.double()
    index, rng = torch.tensor([7, 2, 4, 0, 8]), torch.Generator().manual_seed(0)
    taus = []
    for risk in (loss.image_risk, loss.text_risk):
        risk.dual.memory.values += 0.2 * torch.rand(9, generator=rng, dtype=torch.float64)
        taus.append(risk.dual.memory.values[index].clone().requires_grad_())
    before = [risk.dual.memory.values.clone() for risk in (loss.image_risk, loss.text_risk)]
    sides = two_towers(image, text, tuple(reference))
    expected = sum(robust(side, tau, rho=0.6, **option) for side, tau in zip(sides, taus, strict=True))
    same_value_and_gradients(loss(image, text, index, **given(reference)), expected, [image, text])
    slopes = torch.autograd.grad(expected, taus)
    for old, risk, slope in zip(before, (loss.image_risk, loss.text_risk), slopes, strict=True):
        moved = torch.zeros(9, dtype=torch.float64)
        moved[index] = slope * 5  # each row's own slope, not its share of the mean
        torch.testing.assert_close((old - risk.dual.memory.values) * 2**10, moved, rtol=1e-9, atol=1e-9)


@both_paths
@options
@pytest.mark.parametrize("scalars", [False, True], ids=["rows", "scalars"])
@pytest.mark.parametrize("mask", [None, MASK], ids=["", "mask"])
def test_predicted_temperatures_have_the_exact_gradient(tiled, option, scalars, mask) -> None:
    image, text, *reference = features(5)
    rng = torch.Generator().manual_seed(1)
    shape = () if scalars else (5,)
    taus = [(0.2 + 0.3 * torch.rand(shape, generator=rng, dtype=torch.float64)).requires_grad_() for _ in range(2)]
    loss = DRRhoCLIPLoss(gs.KLBall(0.6), tiled=tiled, **option)
    state = {name: value.clone() for name, value in loss.state_dict().items() if not name.endswith("count")}
    found = loss(image, text, image_tau=taus[0], text_tau=taus[1], **given(tuple(reference), None, mask))
    sides = two_towers(image, text, tuple(reference), None, mask)
    expected = sum(robust(side, tau, rho=0.6, **option) for side, tau in zip(sides, taus, strict=True))
    same_value_and_gradients(found, expected, [image, text, *taus])
    assert all(torch.equal(loss.state_dict()[name], value) for name, value in state.items())


@both_paths
@pytest.mark.parametrize("gamma", [1.0, 0.25])
@pytest.mark.parametrize("steered", [False, True], ids=["", "reference"])
def test_eps_of_one_over_b_is_the_mean_over_all(tiled, gamma, steered) -> None:
    # traps.md, DRRho-CLIP 7: exactly, step after step, in value, gradients and temperature.
    made = [
        DRRhoCLIPLoss(gs.KLBall(0.5, tau=0.25, num_rows=5, gamma=gamma, lr=0.01), eps=eps, tiled=tiled).double()
        for eps in (None, 1 / 5)
    ]
    for step in range(3):
        image, text, *reference = features(step)
        values = [loss(image, text, torch.arange(5), **given(reference if steered else None)) for loss in made]
        same_value_and_gradients(values[1], values[0], [image, text])
        for one, other in ((made[0].image_risk, made[1].image_risk), (made[0].text_risk, made[1].text_risk)):
            torch.testing.assert_close(one.dual.memory.values, other.dual.memory.values, **TIGHT)


@both_paths
def test_closed_expressions(tiled) -> None:
    # Orthonormal pairs: l = -1 for the others, 0 for the own pair.
    one = torch.eye(4, dtype=torch.float64)
    for tau in (1.0, 0.1, 0.01):
        e = math.exp(-1 / tau)
        cases = {
            2 * tau * math.log((1 + 3 * e) / 4): {},
            2 * tau * math.log(0.5 + 3 * e / 4): {"eps": 0.5},
            2 * tau * math.log(0.5 + e): {"eps": 0.5, "negatives_only": True},
            -2.0: {"negatives_only": True},
        }
        for expected, option in cases.items():
            value = DRRhoCLIPLoss(gs.KL(tau), tiled=tiled, **option)(one, one)
            assert float(value) == pytest.approx(expected, rel=1e-10)


@both_paths
def test_against_itself_a_reference_leaves_nothing(tiled) -> None:
    image, text, *_ = features(6)
    loss = DRRhoCLIPLoss(gs.KL(0.1), tiled=tiled)
    value = loss(image, text, reference_image=image, reference_text=text)
    assert float(value.detach()) == pytest.approx(0.0, abs=1e-12)
    one = loss(image, text, reference_image=image.detach() * 0, reference_text=text.detach() * 0)
    torch.testing.assert_close(one, loss(image, text), **TIGHT)


@pytest.mark.parametrize(
    "risk", [gs.Mean(), gs.CVaR(0.5), gs.TopK(0.5), gs.ChiSquare(0.3)], ids=lambda r: type(r).__name__
)
@pytest.mark.parametrize("mask", [None, MASK], ids=["", "mask"])
@pytest.mark.parametrize("negatives_only", [False, True])
def test_any_other_risk_is_that_of_the_written_losses(risk, mask, negatives_only) -> None:
    image, text, *reference = features(7)
    loss = DRRhoCLIPLoss(risk, negatives_only=negatives_only).eval()
    found = loss(image, text, **given(tuple(reference), GROUPS, mask))
    expected = []
    for side in two_towers(image, text, tuple(reference), GROUPS, mask):
        rows = []
        for i in side.counted:
            columns = side.negatives[i] + ([] if negatives_only else [i])
            rows.append(risk(torch.stack([side.similarity[i, j] - side.positive(i) for j in sorted(columns)])))
        expected.append(torch.stack(rows).mean())
    same_value_and_gradients(found, expected[0] + expected[1], [image, text])
