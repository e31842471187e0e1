"""DRRhoCLIPLoss: what it remembers, what it survives, and what it refuses."""

from __future__ import annotations

import math

import pytest
import torch
from written_out import TIGHT, Track, estimator, features, inner, robust, two_towers

import guidestar as gs
from guidestar.losses import DRRhoCLIPLoss

both_paths = pytest.mark.parametrize("tiled", [False, True], ids=["eager", "tiled"])


@both_paths
@pytest.mark.parametrize("steered", [False, True], ids=["", "reference"])
def test_algorithm_35_with_one_temperature(tiled, steered) -> None:
    # Eq. 6.49 and 6.121: slopes of the rows count with their mean; rows that were seen and new ones.
    ball = gs.KLBall(0.4, tau=0.3, tau_min=0.1, num_rows=9, gamma=0.25, lr=0.05)
    loss = DRRhoCLIPLoss(ball, eps=0.1, negatives_only=True, tiled=tiled).double()
    risks, taus, tracks = (loss.image_risk, loss.text_risk), [0.3, 0.3], [Track(0.25, {}), Track(0.25, {})]
    for risk in risks:
        risk.dual.memory.values.fill_(0.3)
    for step, index in enumerate(([0, 1, 2, 3, 4], [3, 8, 0, 5, 1], [8, 4, 3, 2, 7])):
        image, text, *reference = features(step)
        given = {"reference_image": reference[0], "reference_text": reference[1]} if steered else {}
        value, gradient = 0.0, torch.zeros((), dtype=torch.float64)
        for way, side in enumerate(two_towers(image, text, tuple(reference) if steered else None)):
            one, z, slopes = estimator(side, taus[way], tracks[way], index, eps=0.1, shifted=True, rho=0.4)
            value, gradient = value + one, gradient + z
            taus[way] -= 0.05 * sum(slopes) / 5
        found = loss(image, text, torch.tensor(index), **given)
        assert float(found.detach()) == pytest.approx(value, rel=1e-10)
        expected = torch.autograd.grad(gradient, [image, text])
        for left, right in zip(torch.autograd.grad(found, [image, text]), expected, strict=True):
            torch.testing.assert_close(left, right, **TIGHT)
        assert [float(risk.dual.memory.values) for risk in risks] == pytest.approx(taus, rel=1e-10)


@both_paths
def test_first_visit_sets_u_and_the_weights_are_those_of_the_batch(tiled) -> None:
    # traps.md, LibAUC 1: u that starts at 0 makes the first weights 1 / gamma too large.
    image, text, *_ = features(0)
    with_memory = DRRhoCLIPLoss(gs.KL(0.3, 5, gamma=0.1), tiled=tiled).double()
    without = DRRhoCLIPLoss(gs.KL(0.3), tiled=tiled)
    one, other = with_memory(image, text, torch.arange(5)), without(image, text)
    torch.testing.assert_close(one, other, **TIGHT)
    for left, right in zip(
        torch.autograd.grad(one, [image, text]), torch.autograd.grad(other, [image, text]), strict=True
    ):
        torch.testing.assert_close(left, right, **TIGHT)
    side, _ = two_towers(image, text)
    memory, seen = with_memory.image_risk.tracker.remembered()
    assert seen.all()
    for i in range(5):
        expected = math.log(float(inner(side, i, 0.3, own=True).detach()))
        assert float(memory[i]) == pytest.approx(expected, rel=1e-10)


@both_paths
def test_the_printed_value_is_the_objective(tiled) -> None:
    # traps.md, DRRho-CLIP 4: after many visits of the same features u is the mean, and the value is F.
    image, text, *reference = features(1)
    loss = DRRhoCLIPLoss(gs.KL(0.3, 5, gamma=0.5), tiled=tiled).double()
    expected = sum(robust(side, 0.3) for side in two_towers(image, text, tuple(reference)))
    given = {"reference_image": reference[0], "reference_text": reference[1]}
    for _ in range(3):
        torch.testing.assert_close(loss(image, text, torch.arange(5), **given), expected, **TIGHT)
    torch.testing.assert_close(loss.eval()(image, text, torch.arange(5), **given), expected, **TIGHT)


def test_the_diagonal_is_subtracted_once() -> None:
    # traps.md, DRRho-CLIP 3: u is the mean of e^{(s_ij - s_ii)/tau}, not of e^{(s_ij - 2 s_ii)/tau}.
    image = torch.eye(3, dtype=torch.float64)
    loss = DRRhoCLIPLoss(gs.KL(0.5, 3, gamma=0.5), negatives_only=True).double()
    loss(image.requires_grad_(), image.detach(), torch.arange(3))
    memory, _ = loss.image_risk.tracker.remembered()
    assert memory.tolist() == pytest.approx([-2.0] * 3, rel=1e-12)
    plain = DRRhoCLIPLoss(gs.KL(0.5, 3, gamma=0.5), negatives_only=True, shifted=False).double()
    plain(image, image.detach(), torch.arange(3))
    assert plain.image_risk.tracker.remembered()[0].tolist() == pytest.approx([0.0] * 3, abs=1e-12)


@both_paths
@pytest.mark.parametrize("shifted", [True, False])
def test_u_holds_logits_above_88(tiled, shifted) -> None:
    # traps.md, DRRho-CLIP 10: exp(100) overflows float32, its logarithm does not; 0 is no sentinel.
    image, text, *_ = features(2, dtype=torch.float32)
    loss = DRRhoCLIPLoss(gs.KL(0.01, 5, gamma=0.5), tiled=tiled, shifted=shifted)
    with torch.no_grad():
        text.copy_(-image * torch.linspace(1, 2, 5).unsqueeze(1))  # the own pair is the worst: large losses
    for _ in range(2):
        value = loss(image, text, torch.arange(5))
        gradients = torch.autograd.grad(value, [image, text])
        assert torch.isfinite(value)
        assert all(torch.isfinite(gradient).all() for gradient in gradients)
    memory, seen = loss.image_risk.tracker.remembered()
    assert torch.isfinite(memory).all()
    assert seen.all()
    assert memory.max() > 88


def test_a_hard_visit_is_forgotten() -> None:
    # traps.md, LibAUC 6: an offset that only grows keeps a sample's gradient at 1e-14 for ever.
    image, text, *_ = features(3)
    loss = DRRhoCLIPLoss(gs.KL(0.02, 5, gamma=0.9)).double()
    loss(image, -image.detach(), torch.arange(5))  # exponents up to 100
    for _ in range(120):
        found = torch.autograd.grad(loss(image, text, torch.arange(5)), [image, text])
    expected = torch.autograd.grad(DRRhoCLIPLoss(gs.KL(0.02))(image, text), [image, text])
    for left, right in zip(found, expected, strict=True):
        torch.testing.assert_close(left, right, **TIGHT)


@both_paths
def test_features_that_collapse(tiled) -> None:
    image = torch.ones(6, 4).div(2).requires_grad_()
    loss = DRRhoCLIPLoss(gs.KLBall(0.5, tau=0.01, num_rows=6, gamma=0.5), tiled=tiled)
    value = loss(image, image.detach(), torch.arange(6))
    assert float(value.detach()) == pytest.approx(2 * 0.01 * 0.5, rel=1e-4)
    assert torch.isfinite(torch.autograd.grad(value, image)[0]).all()
    assert math.isfinite(loss.metrics()["image_tau"])


def test_bytes_of_state() -> None:
    def size(risk: gs.KL | gs.KLBall) -> int:
        return sum(
            t.numel() * t.element_size()
            for name, t in DRRhoCLIPLoss(risk).state_dict().items()
            if not name.endswith("count")
        )

    assert size(gs.KL(0.5, 1000)) == 0
    assert size(gs.KL(0.5, 1000, gamma=0.5)) == 2 * 4 * 1000
    assert size(gs.KLBall(0.5, num_rows=1000)) == 2 * 4
    assert size(gs.KLBall(0.5, num_rows=1000, gamma=0.5)) == 2 * (4 * 1000 + 4)
    assert size(gs.KLBall(0.5, num_rows=1000, gamma=0.5, per_row=True)) == 2 * 2 * 4 * 1000


@both_paths
@pytest.mark.parametrize("option", [{}, {"eps": 1e-14}, {"negatives_only": True}], ids=["plain", "eps", "negatives"])
def test_nothing_to_learn_from(tiled, option) -> None:
    image, text, *_ = features(3, dtype=torch.float32)
    loss = DRRhoCLIPLoss(gs.KLBall(0.5, num_rows=9, gamma=0.5, per_row=True, momentum=0.5), tiled=tiled, **option)
    loss(image, text, torch.arange(5))
    before = {name: value.clone() for name, value in loss.state_dict().items() if not name.endswith("count")}
    one = loss(image[:1], text[:1], torch.tensor([3]))
    none = loss(image, text, torch.arange(5), mask=torch.zeros(5, dtype=torch.bool))
    alike = loss(image, text, torch.arange(5), groups=torch.ones(5, dtype=torch.int64))
    for value in (one, none, alike):
        assert value == 0
        assert not any(gradient.any() for gradient in torch.autograd.grad(value, [image, text]))
    assert loss.metrics()["empty"] == 2 * (1 + 5 + 5)
    assert all(torch.equal(loss.state_dict()[name], value) for name, value in before.items())


@both_paths
def test_bfloat16_and_autocast(tiled) -> None:
    image, text, *reference = features(4, dtype=torch.float32)
    rounded = [each.detach().bfloat16() for each in (image, text, *reference)]

    def run(values: list[torch.Tensor], autocast: bool) -> tuple[torch.Tensor, torch.Tensor]:
        loss = DRRhoCLIPLoss(gs.KLBall(0.5, tau=0.05, num_rows=5, gamma=0.5), tiled=tiled)
        leaf = values[0].clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            value = loss(leaf, values[1], torch.arange(5), reference_image=values[2], reference_text=values[3])
        (gradient,) = torch.autograd.grad(value, leaf)
        return value.detach(), gradient

    expected = run([each.float() for each in rounded], False)
    for autocast in (False, True):
        value, gradient = run(rounded, autocast)
        assert value.dtype == torch.float32
        assert gradient.dtype == torch.bfloat16
        assert torch.equal(value, expected[0])
        assert torch.equal(gradient, expected[1].bfloat16())


def test_a_shared_temperature_survives_saving_and_copying() -> None:
    made = [DRRhoCLIPLoss(gs.KLBall(0.5), joint_temperature=True) for _ in range(2)]
    image, text, *_ = features(5, dtype=torch.float32)
    made[0](image, text)
    made[1].load_state_dict(made[0].state_dict())
    assert made[1].text_risk.dual is made[1].image_risk.dual
    assert made[1].metrics() == made[0].metrics()
    assert made[1].metrics()["image_tau"] != 1.0


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: DRRhoCLIPLoss(3), TypeError, "`risk` must be a risk such as"),
        (lambda x: DRRhoCLIPLoss(gs.KL(1.0), gs.KL), TypeError, "an object and not a class. Found KL"),
        (
            lambda x: DRRhoCLIPLoss(gs.KL(1.0), eps=-1.0),
            ValueError,
            r"`eps` must be None, or at least 0 and finite. Found -1",
        ),
        (
            lambda x: DRRhoCLIPLoss(gs.CVaR(0.5), tiled=True),
            ValueError,
            "`tiled` needs a KL or KLBall risk.*Found CVaR",
        ),
        (lambda x: DRRhoCLIPLoss(gs.CVaR(0.5), eps=0.1), ValueError, "`eps` needs a KL or KLBall risk"),
        (
            lambda x: DRRhoCLIPLoss(gs.KL(1.0), gs.Mean(), shifted=False),
            ValueError,
            "`shifted=False` needs .*Found Mean",
        ),
        (lambda x: DRRhoCLIPLoss(*[gs.KLBall(1.0)] * 2), ValueError, "`text_risk` is the object `image_risk` itself"),
        (
            lambda x: DRRhoCLIPLoss(gs.KL(1.0), joint_temperature=True),
            ValueError,
            "`joint_temperature` needs two KLBall",
        ),
        (
            lambda x: DRRhoCLIPLoss(gs.KLBall(1.0, per_row=True, num_rows=4), joint_temperature=True),
            ValueError,
            r"with one temperature each \(per_row=False\)",
        ),
        (lambda x: DRRhoCLIPLoss(gs.KL(1.0))(x, x[:, :1]), ValueError, "`image` and `text` must be features"),
        (lambda x: DRRhoCLIPLoss(gs.KL(1.0))(x, x, reference_image=x), ValueError, "`reference_text` is missing"),
        (lambda x: DRRhoCLIPLoss(gs.KL(1.0, 9, gamma=0.5))(x, x), ValueError, "`index` is needed: the tracker has 9"),
        (
            lambda x: DRRhoCLIPLoss(gs.KL(1.0))(x, x, torch.arange(3)),
            ValueError,
            "`index` must have one row number a pair",
        ),
        (
            lambda x: DRRhoCLIPLoss(gs.KL(1.0))(x, x, image_tau=torch.ones(4)),
            ValueError,
            "Found KL, whose temperature is",
        ),
        (
            lambda x: DRRhoCLIPLoss(gs.CVaR(0.5))(x, x, text_tau=torch.ones(4)),
            ValueError,
            "need KLBall risks. Found another",
        ),
        (
            lambda x: DRRhoCLIPLoss(gs.KLBall(1.0))(x, x, image_tau=torch.ones(3)),
            ValueError,
            r"must be scalars or have one temperature a pair, \[4\]. Found \(3,\)",
        ),
        (
            lambda x: DRRhoCLIPLoss(gs.KLBall(1.0))(x, x, text_tau=-torch.ones(4)),
            ValueError,
            r"`text_tau` must be positive. Found -1\.0",
        ),
    ],
)
def test_errors(call, error, message) -> None:
    with pytest.raises(error, match=message):
        call(torch.ones(4, 2))
