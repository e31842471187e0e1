"""ALDRLoss: one temperature a sample, by alternating maximisation."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from guidestar.losses import ALDRLoss, LDRLoss

TIGHT = {"rtol": 1e-10, "atol": 1e-10}
LAM0, ALPHA, MARGIN, CLASSES = 0.75, 1.5, 0.1, 4


def example(seed: int, rows: list[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    logits = 2.0 * torch.randn(len(rows), CLASSES, generator=rng, dtype=torch.float64)
    return logits.requires_grad_(), torch.randint(CLASSES, (len(rows),), generator=rng), torch.tensor(rows)


def errors_of(f: torch.Tensor, y: int) -> torch.Tensor:
    return torch.stack([f[k] - f[y] + MARGIN * (k != y) for k in range(CLASSES)])


def objective(z: torch.Tensor, p: torch.Tensor, lam: float) -> torch.Tensor:
    """The function that p and lambda maximise."""
    divergence = (p * (p * CLASSES).log()).sum()
    return (p * z).sum() - lam * divergence - ALPHA * math.log(CLASSES) / (2 * LAM0) * (lam - LAM0) ** 2


def best_lam(z: torch.Tensor, lam: float) -> float:
    p = torch.softmax(z / lam, 0)
    return LAM0 - LAM0 * float((p * (p * CLASSES).log()).sum()) / (ALPHA * math.log(CLASSES))


def test_one_pair_of_steps_a_visit_and_a_memory_a_sample() -> None:
    loss = ALDRLoss(8, LAM0, ALPHA, MARGIN).double()
    lam = dict.fromkeys(range(8), LAM0)
    for step, rows in enumerate([[0, 3, 5], [3, 1, 7], [0, 3, 7], [5, 6, 3]]):
        logits, labels, index = example(step, rows)
        terms = []
        for f, y, i in zip(logits, labels.tolist(), rows, strict=True):
            z = errors_of(f, y)
            lam[i] = best_lam(z.detach(), lam[i])
            terms.append(objective(z, torch.softmax(z.detach() / lam[i], 0), lam[i]))
        output = loss(logits, labels, index)
        expected = sum(terms) / len(rows)
        torch.testing.assert_close(output, expected, **TIGHT)
        torch.testing.assert_close(*(torch.autograd.grad(x, logits)[0] for x in (output, expected)), **TIGHT)
        kept = loss.dual.memory.values.tolist()
        assert kept == [pytest.approx(lam[i], rel=1e-10) for i in range(8)]


def test_a_visit_never_lowers_the_objective_and_ends_at_a_stationary_point() -> None:
    loss = ALDRLoss(3, LAM0, ALPHA, MARGIN).double()
    logits, labels, index = example(5, [0, 1, 2])
    values = [float(loss(logits, labels, index).detach()) for _ in range(60)]
    assert all(later >= earlier - 1e-12 for earlier, later in pairwise(values))
    for f, y, lam in zip(logits.detach(), labels.tolist(), loss.dual.memory.values.tolist(), strict=True):
        z = errors_of(f, y)
        assert best_lam(z, lam) == pytest.approx(lam, rel=1e-6)
        # Stationary: the derivative of max_p of the objective by lambda vanishes.
        step = 1e-6
        up, down = (objective(z, torch.softmax(z / x, 0), x) for x in (lam + step, lam - step))
        assert float(up - down) / (2 * step) == pytest.approx(0.0, abs=1e-5)


def test_lambda_stays_within_its_bounds() -> None:
    loss = ALDRLoss(2, LAM0, ALPHA, MARGIN)
    sure = torch.tensor([[1e4, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    for _ in range(5):
        loss(sure.requires_grad_(), torch.tensor([1, 0]), torch.tensor([0, 1]))
    least, near = loss.dual.memory.values.tolist()
    assert least == pytest.approx(LAM0 * (1 - 1 / ALPHA), rel=1e-6)
    assert 0.95 * LAM0 < near <= LAM0


def test_a_large_alpha_is_ldr() -> None:
    logits, labels, index = example(6, [0, 1, 2])
    left, right = ALDRLoss(3, LAM0, 1e9, MARGIN)(logits, labels, index), LDRLoss(LAM0, MARGIN)(logits, labels)
    torch.testing.assert_close(left, right, rtol=1e-6, atol=1e-6)


def test_evaluation_starts_from_lam0_and_needs_no_index() -> None:
    loss = ALDRLoss(3, LAM0, ALPHA, MARGIN).double()
    logits, labels, index = example(7, [0, 1, 2])
    first = loss(logits, labels, index)
    loss(logits, labels, index)
    loss.eval()
    torch.testing.assert_close(loss(logits, labels), first, rtol=1e-7, atol=1e-7)


def test_a_sample_twice_is_remembered_with_the_mean() -> None:
    loss = ALDRLoss(3, LAM0, ALPHA, MARGIN).double()
    logits, labels, _ = example(8, [0, 1])
    loss(logits, labels, torch.tensor([2, 2]))
    expected = sum(best_lam(errors_of(f.detach(), y), LAM0) for f, y in zip(logits, labels.tolist(), strict=True)) / 2
    assert float(loss.dual.memory.values[2]) == pytest.approx(expected, rel=1e-7)


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"`alpha` must be larger than 1, or lambda could become 0. Found 1"):
        ALDRLoss(3, 1.0, 1.0)
    with pytest.raises(ValueError, match=r"`lam0` must be a positive number"):
        ALDRLoss(3, -1.0)
    with pytest.raises(ValueError, match=r"`num_rows` must be at least 1"):
        ALDRLoss(0)
    loss, logits, labels = ALDRLoss(3), torch.zeros(2, 3, requires_grad=True), torch.tensor([0, 1])
    with pytest.raises(ValueError, match=r"`index` is needed: there are 3 rows"):
        loss(logits, labels)
    with pytest.raises(ValueError, match=r"`index` must have one row number for each sample, shape \(2,\)"):
        loss(logits, labels, torch.tensor([0]))
    with pytest.raises(IndexError, match=r"`index` must lie in \[0, 3\).*Found 3"):
        loss(logits, labels, torch.tensor([0, 3]))
    with pytest.raises(ValueError, match=r"`labels` must lie in \[0, 3\)"):
        loss(logits, torch.tensor([0, 3]), torch.tensor([0, 1]))
