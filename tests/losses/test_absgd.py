"""ABSGDLoss: Eq. 6.11 and 6.12 in closed form, Alg. 24 as a loop in linear space, and the two-stage temperature."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

import guidestar as gs
from guidestar.losses import ABSGDLoss, DRRhoCrossEntropyLoss

F64 = torch.float64


def batch(seed: int, size: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    logits = torch.randn(size, 3, generator=rng, dtype=F64).requires_grad_()
    return logits, torch.randint(3, (size,), generator=rng)


@pytest.mark.parametrize("tau", [0.1, 1.0, 20.0])
def test_the_full_batch_is_the_objective(tau) -> None:
    logits, labels = batch(0)
    losses = functional.cross_entropy(logits, labels, reduction="none")
    objective = tau * torch.log(torch.exp(losses / tau).mean())  # Eq. 6.11
    value = ABSGDLoss(tau, gamma=1.0)(logits, labels)
    torch.testing.assert_close(value, objective, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(
        torch.autograd.grad(value, logits)[0], torch.autograd.grad(objective, logits)[0], rtol=1e-10, atol=1e-10
    )


@pytest.mark.parametrize("gamma", [0.1, 0.9])
def test_it_does_the_lines_of_algorithm_24(gamma) -> None:
    tau, loss, u = 0.7, ABSGDLoss(0.7, gamma=gamma).double(), None
    for seed in range(5):
        logits, labels = batch(seed)
        losses = functional.cross_entropy(logits, labels, reduction="none")
        g = torch.exp(losses.detach() / tau).mean()  # step 3
        u = g if u is None else (1 - gamma) * u + gamma * g  # step 4
        p = (torch.exp(losses / tau) / u).detach()
        (z,) = torch.autograd.grad((p * losses).mean(), logits)  # step 5
        value = loss(logits, labels)
        torch.testing.assert_close(value, tau * torch.log(u), rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(torch.autograd.grad(value, logits)[0], z, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(loss.risk.tracker.memory.values[0], torch.log(u), rtol=1e-10, atol=1e-12)


def test_a_hard_sample_alone_weighs_more_than_its_batch_says() -> None:
    # With one sample a step, the normalisation within the batch gives every sample the weight 1.
    easy, hard = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 3.0]])
    labels = torch.tensor([0])
    tracked, in_batch = ABSGDLoss(1.0, gamma=0.5), ABSGDLoss(1.0, gamma=1.0)
    weights = []
    for loss in (tracked, in_batch):
        loss(easy.clone().requires_grad_(), labels)
        leaf = hard.clone().requires_grad_()
        loss(leaf, labels).backward()
        plain = hard.clone().requires_grad_()
        functional.cross_entropy(plain, labels).backward()
        weights.append(float(leaf.grad[0, 0] / plain.grad[0, 0]))
    assert weights[0] > 1.5
    assert weights[1] == pytest.approx(1.0)


def test_small_temperatures_and_large_losses_do_not_overflow() -> None:
    loss = ABSGDLoss(0.001)
    for seed in range(3):
        logits, labels = batch(seed)
        value = loss(logits.float().detach().mul(1e3).requires_grad_(), labels)
        assert torch.isfinite(value)


def test_scores_of_two_classes_are_the_logistic_loss() -> None:
    rng = torch.Generator().manual_seed(0)
    scores = torch.randn(6, generator=rng, dtype=F64).requires_grad_()
    positive = torch.tensor([True, False, False, True, False, False])
    two = torch.stack([torch.zeros_like(scores), scores], dim=1)
    expected = ABSGDLoss(0.5)(two, positive.long())
    for labels in (positive, positive.long(), positive.float(), positive.to(torch.uint8)):
        torch.testing.assert_close(ABSGDLoss(0.5)(scores, labels), expected, rtol=1e-10, atol=1e-10)


def test_reference_losses_make_it_drrho() -> None:
    logits, labels = batch(0)
    reference = torch.rand(8, dtype=F64)
    expected = DRRhoCrossEntropyLoss(gs.KL(0.5, gamma=0.9))(logits, labels, reference_losses=reference)
    torch.testing.assert_close(ABSGDLoss(0.5)(logits, labels, reference_losses=reference), expected)


@pytest.mark.parametrize("scores", [True, False])
def test_a_masked_nan_is_ignored(scores) -> None:
    logits = torch.randn(4, dtype=F64) if scores else torch.randn(4, 2, dtype=F64)
    labels, mask = torch.tensor([0, 1, 0, 1]), torch.tensor([True, True, False, True])
    keep = torch.tensor([0, 1, 3])
    expected = ABSGDLoss(1.0)(logits[keep], labels[keep])
    logits[2] = float("nan")
    logits.requires_grad_()
    value = ABSGDLoss(1.0)(logits, labels, mask=mask)
    torch.testing.assert_close(value, expected)
    value.backward()
    assert torch.isfinite(logits.grad).all()
    assert not logits.grad[2].any()


def test_two_stages() -> None:
    loss = ABSGDLoss(0.5, gamma=0.5, first_tau=100.0, first_epochs=2)
    first, then = ABSGDLoss(100.0, gamma=0.5), ABSGDLoss(0.5, gamma=0.5)
    for epoch in range(4):
        loss.set_epoch(epoch)
        for seed in (2 * epoch, 2 * epoch + 1):
            value = loss(*batch(seed))
            assert torch.equal(value, (first if epoch < 2 else then)(*batch(seed)))
    assert loss.risk.then_risk.tau == 0.5


def test_two_stages_resume_in_the_second_stage() -> None:
    def make() -> ABSGDLoss:
        return ABSGDLoss(0.5, gamma=0.5, first_tau=100.0, first_epochs=1)

    straight = make()
    straight(*batch(0))
    straight.set_epoch(1)
    straight(*batch(1))
    resumed = make()
    resumed.load_state_dict(straight.state_dict())
    assert torch.equal(resumed(*batch(2)), straight(*batch(2)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tau": 0.0}, "`tau` must be a positive number. Found 0.0"),
        ({"tau": 1.0, "gamma": 0.0}, r"`gamma` must be in \(0, 1\]"),
        ({"tau": 1.0, "first_tau": 5.0}, "belong together.*Found first_tau = 5.0 and first_epochs = None"),
        ({"tau": 1.0, "first_epochs": 5}, "belong together.*Found first_tau = None and first_epochs = 5"),
        ({"tau": 1.0, "first_tau": 5.0, "first_epochs": 0}, "`epochs` must be a whole number, at least 1. Found 0"),
        ({"tau": 1.0, "first_tau": -5.0, "first_epochs": 1}, "`tau` must be a positive number. Found -5.0"),
    ],
)
def test_bad_settings(settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        ABSGDLoss(**settings)


def test_bad_input() -> None:
    loss, labels = ABSGDLoss(1.0), torch.tensor([0, 1])
    with pytest.raises(ValueError, match=r"`logits` must be \[B, C\], or \[B\].*Found \(2, 2, 2\) and \(2,\)"):
        loss(torch.zeros(2, 2, 2), labels)
    with pytest.raises(ValueError, match=r"Found \(3, 2\) and \(2,\)"):
        loss(torch.zeros(3, 2), labels)
    with pytest.raises(ValueError, match=r"`labels` must be 0 or 1 for logits \[B\]. Found -1. For labels of -1 and 1"):
        loss(torch.zeros(2), torch.tensor([-1, 1]))
    with pytest.raises(ValueError, match="Found 2"):
        loss(torch.zeros(2), torch.tensor([2.0, 1.0]))
    for label in (
        2,
        -1,
        -100,
    ):  # -100 is what torch's cross-entropy ignores: a loss of 0 that would count as an easy sample
        with pytest.raises(ValueError, match=rf"`labels` must lie in \[0, 2\).*Found {label}. Mask out"):
            loss(torch.zeros(2, 2), torch.tensor([0, label]))
    with pytest.raises(TypeError, match="`labels` must hold the number of each sample's class, int64"):
        loss(torch.zeros(2, 2), torch.tensor([0.0, 1.0]))
    with pytest.raises(ValueError, match="`reference_losses` must have the shape of `losses`"):
        loss(torch.zeros(2), labels, reference_losses=torch.zeros(3))
