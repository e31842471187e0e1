"""AUCMarginLoss: Eq. 6.20, 6.21 and Alg. 27, sample by sample."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from guidestar.losses import AUCMarginLoss
from guidestar.surrogates import hinge, squared, squared_hinge

TIGHT = {"rtol": 1e-10, "atol": 1e-10}


def binary(seed: int, size: int = 7) -> tuple[Tensor, Tensor]:
    """Scores of size samples and their labels, the first positive, the last negative."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.randint(2, (size,), generator=rng)
    labels[0], labels[-1] = 1, 0
    return torch.randn(size, generator=rng, dtype=torch.float64).requires_grad_(), labels


def written_out(scores: Tensor, labels: Tensor, a: Tensor, b: Tensor, alpha: Tensor | float, m: float) -> Tensor:
    """F of 6.21."""
    pos = [s for s, y in zip(scores, labels, strict=True) if y == 1]
    neg = [s for s, y in zip(scores, labels, strict=True) if y == 0]
    total = sum((s - a) ** 2 for s in pos) / len(pos) + sum((s - b) ** 2 for s in neg) / len(neg)
    return total + alpha * (m + sum(neg) / len(neg) - sum(pos) / len(pos)) - alpha**2 / 4


def at(loss: AUCMarginLoss, a: float, b: float, alpha: float) -> AUCMarginLoss:
    """The loss at these variables."""
    with torch.no_grad():
        loss.double().a.fill_(a)
        loss.b.fill_(b)
        loss.alpha.memory.values.fill_(alpha)
    return loss


@pytest.mark.parametrize("surrogate", [squared_hinge, squared])
@pytest.mark.parametrize("margin", [1.0, 0.3])
def test_value_and_gradients_are_those_of_6_21(surrogate, margin) -> None:
    for seed in range(3):
        scores, labels = binary(seed)
        loss = at(AUCMarginLoss(margin, surrogate=surrogate), 0.4, -0.7, 0.9)
        found = loss(scores, labels)
        a, b = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (0.4, -0.7))
        expected = written_out(scores, labels, a, b, 0.9, margin)
        torch.testing.assert_close(found, expected, **TIGHT)
        left = torch.autograd.grad(found, [scores, loss.a, loss.b])
        for mine, theirs in zip(left, torch.autograd.grad(expected, [scores, a, b]), strict=True):
            torch.testing.assert_close(mine.squeeze(), theirs, **TIGHT)


@pytest.mark.parametrize(("surrogate", "f"), [(squared_hinge, lambda t: max(t, 0.0) ** 2), (squared, lambda t: t**2)])
@pytest.mark.parametrize("shift", [-3.0, 0.0, 3.0])
def test_the_maximum_over_alpha_is_6_20(surrogate, f, shift) -> None:
    scores, labels = binary(5)
    scores = (scores + shift * labels).detach()
    loss = at(AUCMarginLoss(0.5, lr=0.5, surrogate=surrogate), 0.1, 0.2, 0.0)
    for _ in range(200):
        value = loss(scores, labels)
    pos, neg = scores[labels == 1], scores[labels == 0]
    expected = ((pos - 0.1) ** 2).mean() + ((neg - 0.2) ** 2).mean() + f(0.5 + float(neg.mean() - pos.mean()))
    torch.testing.assert_close(value.detach(), expected, **TIGHT)


def test_squared_is_the_mean_over_all_pairs_at_the_best_a_b_alpha() -> None:
    scores, labels = binary(2)
    pos, neg = scores[labels == 1].detach(), scores[labels == 0].detach()
    gap = float(neg.mean() - pos.mean())
    loss = at(AUCMarginLoss(0.8, surrogate=squared), float(pos.mean()), float(neg.mean()), 2 * (0.8 + gap))
    found = loss(scores, labels)
    expected = squared(neg.unsqueeze(0) - pos.unsqueeze(1), 0.8).mean()
    torch.testing.assert_close(found.detach(), expected, **TIGHT)
    leaf = scores.detach().requires_grad_()
    pairs = squared(leaf[labels == 0].unsqueeze(0) - leaf[labels == 1].unsqueeze(1), 0.8).mean()
    torch.testing.assert_close(torch.autograd.grad(found, scores)[0], torch.autograd.grad(pairs, leaf)[0], **TIGHT)


@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
@pytest.mark.parametrize("surrogate", [squared_hinge, squared])
def test_algorithm_27(optimizer, surrogate) -> None:
    inputs = torch.randn(4, 8, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    tau, m, start = 0.3, 0.6, torch.tensor([0.2, -0.1, 0.4], dtype=torch.float64)

    def make(parameters: list[Tensor]) -> torch.optim.Optimizer:
        if optimizer == "adam":
            return torch.optim.AdamW(parameters, lr=0.05)
        return torch.optim.SGD(parameters, lr=0.05, momentum=0.9)

    model, loss = nn.Linear(3, 1, bias=False).double(), AUCMarginLoss(m, lr=tau, surrogate=surrogate).double()
    w, alpha = start.clone().requires_grad_(), torch.tensor(0.0, dtype=torch.float64)
    a, b = (
        torch.zeros((), dtype=torch.float64, requires_grad=True),
        torch.zeros((), dtype=torch.float64, requires_grad=True),
    )
    with torch.no_grad():
        model.weight.copy_(start.unsqueeze(0))
    ours, book = make([*model.parameters(), *loss.parameters()]), make([w, a, b])
    seen = []
    for step in range(12):
        x, y = inputs[step % 4], torch.tensor([1, 0, 0, 1, 0, 1, 0, 0]).roll(step)
        ours.zero_grad()
        value = loss(model(x).squeeze(1), y)
        value.backward()
        ours.step()

        book.zero_grad()
        h = x @ w
        difference = (m + h[y == 0].mean() - h[y == 1].mean()).detach()
        after = (1 - tau / 2) * alpha + tau * difference  # step 4
        objective = written_out(h, y, a, b, alpha, m)
        objective.backward()  # step 5, at alpha_t
        book.step()
        torch.testing.assert_close(value.detach(), objective.detach(), **TIGHT)
        alpha = after.clamp(min=0) if surrogate is squared_hinge else after
        seen.append(float(alpha))
        torch.testing.assert_close(loss.alpha.memory.values[0], alpha, **TIGHT)
        torch.testing.assert_close(model.weight[0].detach(), w.detach(), **TIGHT)
        torch.testing.assert_close(torch.cat([loss.a, loss.b]).detach(), torch.stack([a, b]).detach(), **TIGHT)
    assert len(set(seen)) > 3


def test_alpha_stays_at_zero_for_what_is_ranked_well_and_goes_below_for_the_square() -> None:
    scores, labels = torch.tensor([9.0, -9.0]), torch.tensor([1, 0])
    for surrogate, expected in ((squared_hinge, 0.0), (squared, 0.1 * (1.0 - 18.0))):
        loss = AUCMarginLoss(lr=0.1, surrogate=surrogate)
        loss(scores, labels)
        assert float(loss.alpha.memory.values[0]) == pytest.approx(expected)


def test_logits_of_exactly_zero_count() -> None:
    # sum / count_nonzero is no mean: it leaves out logits of 0, and is NaN for a head that starts at 0.
    scores = torch.tensor([0.0, 2.0, 0.0, 0.0, 0.0, 1.0], dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([1, 1, 0, 0, 0, 0])
    found = at(AUCMarginLoss(), 0.0, 0.0, 1.0)(scores, labels)
    assert float(found.detach()) == pytest.approx((0 + 4) / 2 + 1 / 4 + (1 + 1 / 4 - 1) - 1 / 4)
    zero = torch.zeros(6, requires_grad=True)
    value = AUCMarginLoss()(zero, labels)
    assert float(value.detach()) == 0.0
    assert torch.isfinite(torch.autograd.grad(value, zero)[0]).all()


def test_the_mean_of_the_negatives_does_not_depend_on_how_many_positives_there_are() -> None:
    # Twice the positives in a batch is the same objective: class means, no weights p and 1 - p.
    scores, labels = binary(3)
    both = torch.cat([scores, scores[labels == 1]]), torch.cat([labels, torch.ones(int(labels.sum())).long()])
    loss = at(AUCMarginLoss(), 0.3, 0.1, 0.5).eval()
    torch.testing.assert_close(loss(scores, labels), loss(*both), **TIGHT)


def test_several_labels_are_so_many_losses() -> None:
    rng = torch.Generator().manual_seed(4)
    scores = torch.randn(3, 9, 4, generator=rng, dtype=torch.float64)
    labels = torch.randint(2, (3, 9, 4), generator=rng).double()
    labels[:, 0], labels[:, 1] = 1.0, 0.0
    labels[0, :, 2] = 1.0  # no negative in the first batch
    labels[1, 3, 0] = float("nan")
    joint, single = AUCMarginLoss(lr=0.4, num_labels=4).double(), [AUCMarginLoss(lr=0.4).double() for _ in range(4)]
    with torch.no_grad():
        joint.a.copy_(torch.arange(4.0))
        for number, loss in enumerate(single):
            loss.a.fill_(number)
    for step in range(3):
        leaf = scores[step].clone().requires_grad_()
        values = []
        for number, loss in enumerate(single):
            keep = ~labels[step, :, number].isnan()
            values.append(loss(leaf[keep, number], labels[step, keep, number]))
        counted = [0, 1, 3] if step == 0 else [0, 1, 2, 3]
        expected = torch.stack([values[number] for number in counted]).mean()
        found = joint(leaf, labels[step])
        torch.testing.assert_close(found, expected, **TIGHT)
        torch.testing.assert_close(torch.autograd.grad(found, leaf)[0], torch.autograd.grad(expected, leaf)[0], **TIGHT)
        for number, loss in enumerate(single):
            torch.testing.assert_close(joint.alpha.memory.values[number], loss.alpha.memory.values[0], **TIGHT)
    assert joint.metrics()["empty"] == 1.0


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_only_moves_nothing(label) -> None:
    loss, scores = at(AUCMarginLoss(), 0.3, 0.1, 0.5), torch.randn(4, requires_grad=True)
    value = loss(scores, torch.full((4,), label))
    value.backward()
    assert float(value.detach()) == 0.0
    assert not scores.grad.any()
    assert not loss.a.grad.any()
    assert float(loss.alpha.memory.values[0]) == 0.5
    assert loss.metrics() == {"empty": 1.0, "a": pytest.approx(0.3), "b": pytest.approx(0.1), "alpha": 0.5}


def test_reset_is_a_new_object() -> None:
    loss = at(AUCMarginLoss(), 0.3, 0.1, 0.5)
    loss.reset()
    assert loss.metrics() == {"empty": 0.0, "a": 0.0, "b": 0.0, "alpha": 0.0}


def test_errors() -> None:
    scores, labels = binary(0)
    with pytest.raises(
        TypeError, match=r"`surrogate` must be guidestar.surrogates.squared_hinge or squared.*Found hinge"
    ):
        AUCMarginLoss(surrogate=hinge)
    with pytest.raises(ValueError, match=r"`margin` must be a positive number. Found 0"):
        AUCMarginLoss(0.0)
    with pytest.raises(ValueError, match=r"`num_labels` must be at least 1. Found 0"):
        AUCMarginLoss(num_labels=0)
    with pytest.raises(ValueError, match=r"`lr` must be positive and finite. Found 0"):
        AUCMarginLoss(lr=0.0)
    with pytest.raises(ValueError, match=r"`scores` must have `num_labels`=2 columns, \[B, 2\].*Found \(7,\)"):
        AUCMarginLoss(num_labels=2)(scores, labels)
    with pytest.raises(ValueError, match="`labels` must be 0 or 1"):
        AUCMarginLoss()(scores, 2 * labels - 1)
    with pytest.raises(ValueError, match="`labels` must have the shape of `scores`"):
        AUCMarginLoss()(scores.unsqueeze(1), labels)
