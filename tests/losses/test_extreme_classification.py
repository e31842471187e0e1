"""ExtremeClassificationLoss: section 6.3 and Alg. 26, class by class."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from guidestar import schedules
from guidestar.losses import ExtremeClassificationLoss
from guidestar.losses.extreme_classification import log_mean_ratio

TIGHT = {"rtol": 1e-10, "atol": 1e-10}
LABELS = [torch.tensor([0, 2, 2, 4, 0, 2]), torch.tensor([4, 4, 1, 3, 0, 1]), torch.tensor([2, 0, 1, 1, 4, 3])]
ROWS = [torch.tensor([3, 8, 0, 5, 1, 2]), torch.tensor([3, 4, 0, 7, 1, 6]), torch.tensor([8, 4, 3, 2, 7, 0])]


def logits(seed: int, rows: int = 6, classes: int = 5, scale: float = 1.0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(rows, classes, generator=rng, dtype=torch.float64)).requires_grad_()


def ratio(scores: Tensor, labels: Tensor, i: int) -> Tensor:
    """The mean of exp(R_ij) over the other samples j of the batch (the multiset Y_t without i's own label)."""
    terms = [torch.exp(scores[i, labels[j]] - scores[i, labels[i]]) for j in range(len(labels)) if j != i]
    return torch.stack(terms).sum() / (len(labels) - 1)


def test_the_mini_batch_objective() -> None:
    for seed, labels in enumerate(LABELS):
        scores = logits(seed)
        found = ExtremeClassificationLoss(9, gamma=1.0)(scores, labels)
        expected = torch.stack([ratio(scores, labels, i).log() for i in range(6)]).mean()
        torch.testing.assert_close(found, expected, **TIGHT)
        torch.testing.assert_close(
            torch.autograd.grad(found, scores)[0], torch.autograd.grad(expected, scores)[0], **TIGHT
        )


def test_gamma_of_one_is_the_books_bsgd_loss_less_a_constant() -> None:
    scores, labels = logits(3), torch.tensor([3, 1, 0, 4, 2])
    scores = scores[:5].detach().requires_grad_()  # five classes, each once: Y_t without y_i are the four others
    found = ExtremeClassificationLoss(9, gamma=1.0)(scores, labels)
    terms = []
    for i in range(5):
        others = torch.stack([scores[i, labels[j]].exp() for j in range(5) if j != i]).sum()
        terms.append(-torch.log(scores[i, labels[i]].exp() / others))
    expected = torch.stack(terms).mean()
    torch.testing.assert_close(found + math.log(4), expected, **TIGHT)
    torch.testing.assert_close(torch.autograd.grad(found, scores)[0], torch.autograd.grad(expected, scores)[0], **TIGHT)


def test_all_classes_drawn_once_is_cross_entropy_less_log_k() -> None:
    scores, labels = logits(4, classes=7), LABELS[0]
    found = ExtremeClassificationLoss(9, gamma=1.0)(scores, labels, counts=torch.ones(7))
    expected = functional.cross_entropy(scores, labels)
    torch.testing.assert_close(found + math.log(7), expected, **TIGHT)
    torch.testing.assert_close(torch.autograd.grad(found, scores)[0], torch.autograd.grad(expected, scores)[0], **TIGHT)


def test_classes_that_were_drawn_otherwise_count_as_often_as_they_were() -> None:
    scores, labels, counts = logits(5), LABELS[0], torch.tensor([0, 3, 1, 0, 2])
    found, active = log_mean_ratio(scores, labels, counts=counts)
    drawn = [1, 1, 1, 2, 4, 4]
    for i in range(6):
        terms = torch.stack([torch.exp(scores[i, k] - scores[i, labels[i]]) for k in drawn])
        torch.testing.assert_close(found[i], terms.mean().log(), **TIGHT)
    assert active.all()
    assert not log_mean_ratio(scores, labels, counts=torch.zeros(5))[1].any()


def test_another_sample_of_the_same_class_is_a_draw_with_ratio_one_and_no_gradient() -> None:
    scores = torch.tensor([[0.0, 2.0], [0.0, 2.0], [5.0, 1.0]], dtype=torch.float64, requires_grad=True)
    found, _ = log_mean_ratio(scores, torch.tensor([0, 0, 1]))
    assert float(found[0].detach()) == pytest.approx(math.log((1.0 + math.exp(2.0)) / 2))
    same = logits(0)
    loss = ExtremeClassificationLoss(9)(same, torch.full((6,), 3), ROWS[0])
    assert float(loss.detach()) == 0.0
    assert not torch.autograd.grad(loss, same)[0].any()


def test_classes_that_nobody_drew_are_ignored_whatever_their_logits_and_weighted_draws_are_exact() -> None:
    scores, labels = logits(6).detach(), LABELS[0]
    for counts in (None, torch.tensor([2.0, 0.0, 0.25, 0.0, 1.5], dtype=torch.float64)):
        bad = scores.clone()
        bad[:, [1, 3]] = math.nan
        bad.requires_grad_()
        found, active = log_mean_ratio(bad, labels, counts=counts)
        clean = scores.clone().requires_grad_()
        drawn = torch.bincount(labels, minlength=5).double().repeat(6, 1) if counts is None else counts.repeat(6, 1)
        if counts is None:
            drawn[range(6), labels] -= 1
        own = clean.gather(1, labels.unsqueeze(1))
        expected = ((drawn * torch.exp(clean - own)).sum(1) / drawn.sum(1)).log()
        torch.testing.assert_close(found, expected, **TIGHT)
        (gradient,), (right,) = (torch.autograd.grad((v**2).sum(), s) for v, s in ((found, bad), (expected, clean)))
        torch.testing.assert_close(gradient, right, **TIGHT)
        assert active.all()


def test_rows_without_a_draw_have_no_gradient() -> None:
    scores = logits(7)
    for found, active in (
        log_mean_ratio(scores, LABELS[0], counts=torch.zeros(5)),
        log_mean_ratio(scores[:1], LABELS[0][:1]),
    ):
        assert not active.any()
        assert not torch.autograd.grad(found.sum(), scores)[0].any()


def test_an_infinite_ratio_is_an_infinite_value() -> None:
    scores = logits(8).detach()
    scores[0, 2] = math.inf
    found, _ = log_mean_ratio(scores, LABELS[0])
    assert found[0] == math.inf
    assert torch.isfinite(found[3:5]).all()


def run(loss: ExtremeClassificationLoss, scale: float = 1.0, steps: int = 3) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Logits, value and gradient of each step."""
    out = []
    for step in range(steps):
        scores = logits(10 + step, scale=scale)
        value = loss(scores, LABELS[step], ROWS[step])
        out.append((scores.detach().requires_grad_(), value.detach(), torch.autograd.grad(value, scores)[0]))
    return out


def check_steps(loss: ExtremeClassificationLoss, update, memory, start: dict[int, Tensor] | None = None) -> None:
    """The algorithm's loop: v by `update(v, estimate)`, then step 8's loss with v fixed."""
    v = start or {}
    for step, (scores, value, gradient) in enumerate(run(loss)):
        labels, total = LABELS[step], torch.zeros((), dtype=torch.float64)
        for i, row in enumerate(ROWS[step].tolist()):
            g = ratio(scores, labels, i)
            v[row] = update(v[row], g.detach()) if row in v else g.detach().log()
            total = total + g * torch.exp(-v[row]) / 6
        torch.testing.assert_close(gradient, torch.autograd.grad(total, scores)[0], **TIGHT)
        if loss.dual is None:
            expected = torch.stack([v[row] for row in ROWS[step].tolist()]).mean()
        else:
            expected = total.detach() + torch.stack([v[row] - 1 for row in ROWS[step].tolist()]).mean()
        torch.testing.assert_close(value, expected, **TIGHT)
    for row, expected in v.items():
        torch.testing.assert_close(memory.values[row], expected, **TIGHT)


@pytest.mark.parametrize("alpha", [0.3, 40.0])
def test_algorithm_26(alpha) -> None:
    loss = ExtremeClassificationLoss(9, gamma=schedules.Scent(alpha)).double()

    def step_6(v: Tensor, g: Tensor) -> Tensor:
        return v + torch.log(1 + alpha * g) - torch.log(1 + alpha * torch.exp(v))

    check_steps(loss, step_6, loss.risk.tracker.memory)


def test_step_6_is_the_minimum_that_it_is_defined_by() -> None:
    # g e^-nu + nu + D(nu, v) / alpha with the divergence of phi = e^-nu; its slope at the new nu is zero.
    alpha, loss = 0.7, ExtremeClassificationLoss(9, gamma=schedules.Scent(0.7)).double()
    (_, _, _), (scores, _, _) = run(loss, steps=2)
    before = ExtremeClassificationLoss(9, gamma=schedules.Scent(0.7)).double()
    run(before, steps=1)
    g, v, row = ratio(scores, LABELS[1], 0).detach(), before.risk.tracker.memory.values[3], 3
    nu = loss.risk.tracker.memory.values[row].clone().requires_grad_()
    divergence = torch.exp(-nu) - torch.exp(-v) + torch.exp(-v) * (nu - v)
    (slope,) = torch.autograd.grad(g * torch.exp(-nu) + nu + divergence / alpha, nu)
    assert abs(float(slope)) < 1e-12


@pytest.mark.parametrize("gamma", [0.25, 0.9])
def test_sox(gamma) -> None:
    # The book: Alg. 26 with alpha = c e^-v is an average with the rate c / (1 + c).
    loss = ExtremeClassificationLoss(9, gamma=gamma).double()
    c = gamma / (1 - gamma)

    def step_6(v: Tensor, g: Tensor) -> Tensor:
        alpha = c * torch.exp(-v)
        return v + torch.log(1 + alpha * g) - torch.log(1 + alpha * torch.exp(v))

    check_steps(loss, step_6, loss.risk.tracker.memory)


def test_asgd() -> None:
    loss = ExtremeClassificationLoss(9, dual_lr=0.2).double()
    start = {row: torch.zeros((), dtype=torch.float64) for row in range(9)}
    check_steps(loss, lambda v, g: v - 0.2 * (1 - g * torch.exp(-v)), loss.dual.memory, start)


def test_asgd_in_evaluation_is_the_mini_batch_estimate() -> None:
    loss, scores = ExtremeClassificationLoss(9, dual_lr=0.2).double(), logits(0)
    run(loss)
    found = loss.eval()(scores, LABELS[0])
    torch.testing.assert_close(found, ExtremeClassificationLoss(9, gamma=1.0)(scores, LABELS[0]), **TIGHT)


@pytest.mark.parametrize("size", [100.0, 1e4, -100.0, -1e4])
def test_logits_above_88_and_large_nu(size) -> None:
    # exp overflows float32 at 88, where a loss in linear space returns inf, NaN or a silent 0.
    loss = ExtremeClassificationLoss(2, gamma=schedules.Scent(0.5))
    scores = torch.tensor([[0.0, 1.0], [0.0, 0.0]]) * size
    scores.requires_grad_()
    labels, index = torch.tensor([0, 1]), torch.tensor([0, 1])
    expected = float(loss(scores, labels, index).detach())
    assert expected == pytest.approx(size / 2)
    v = torch.tensor(size, dtype=torch.float64)
    g = torch.tensor(size + 3.0, dtype=torch.float64)  # the next estimate, log g
    shifted = torch.tensor([[0.0, 1.0], [0.0, 0.0]]) * (size + 3.0)
    value = loss(shifted.requires_grad_(), labels, index)
    (gradient,) = torch.autograd.grad(value, shifted)
    # The printed update by the book's own identities, log(1 + a e^x) = x + log(e^-x + a) for large x.
    log_term = {name: _log1p_alpha_exp(0.5, x) for name, x in (("v", v), ("g", g))}
    after = v + log_term["g"] - log_term["v"]
    assert float(loss.risk.tracker.memory.values[0]) == pytest.approx(float(after), rel=1e-6)
    assert torch.isfinite(gradient).all()
    assert float(gradient[0, 1]) == pytest.approx(0.5 * min(math.exp(min(float(g - after), 80)), 1e38), rel=2e-2)


def _log1p_alpha_exp(alpha: float, x: Tensor) -> Tensor:
    return x + torch.log(torch.exp(-x) + alpha) if x > 0 else torch.log1p(alpha * torch.exp(x))


def test_works_over_a_head_of_all_classes_and_over_those_of_the_batch() -> None:
    # The columns of classes that nobody in the batch has are not there for the loss, as Z_t[C_t] says.
    features, weights = logits(1, 6, 3), logits(2, 40, 3)
    labels = torch.tensor([31, 2, 2, 17, 31, 8])
    whole = ExtremeClassificationLoss(9, gamma=1.0)(features @ weights.T, labels)
    classes, columns = torch.unique(labels, return_inverse=True)
    few = ExtremeClassificationLoss(9, gamma=1.0)(features @ weights[classes].T, columns)
    torch.testing.assert_close(whole, few, **TIGHT)
    (gradient,) = torch.autograd.grad(whole, weights)
    assert gradient[classes].abs().sum(1).all()
    gradient[classes] = 0
    assert not gradient.any()


def test_small_batches_reach_the_optimum_of_all_classes_and_the_mini_batch_loss_does_not() -> None:
    # One weight x, scores x A, six samples of a class each; batches of three see two other classes at a time.
    slopes = 2.0 * torch.randn(6, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    everyone = torch.arange(6)

    def objective(x: Tensor) -> Tensor:
        return torch.stack([ratio(x * slopes, everyone, i).log() for i in range(6)]).mean()

    def descend(gamma: float, size: int, steps: int = 1500) -> float:
        rng = torch.Generator().manual_seed(0)
        loss, x, total = ExtremeClassificationLoss(6, gamma=gamma).double(), torch.zeros((), dtype=torch.float64), 0.0
        for step in range(steps):
            rows = torch.randperm(6, generator=rng)[:size]
            x = x.detach().requires_grad_()
            x = x - 0.01 * torch.autograd.grad(loss(x * slopes[rows], rows, rows), x)[0]
            total += float(x.detach()) * (2 * step >= steps)
        return float(objective(torch.tensor(total / (steps / 2), dtype=torch.float64)))

    best = descend(1.0, 6)
    tracked, mini_batch = descend(0.05, 3), descend(1.0, 3)
    assert 0 <= tracked - best < (mini_batch - best) / 10


def test_a_batch_of_one_has_nothing_to_learn_from() -> None:
    loss, scores = ExtremeClassificationLoss(9), logits(0, rows=1)
    value = loss(scores, torch.tensor([2]), torch.tensor([4]))
    assert float(value.detach()) == 0.0
    assert not torch.autograd.grad(value, scores)[0].any()
    assert loss.metrics() == {"empty": 1.0}
    assert not loss.risk.tracker.memory.seen().any()


def test_errors() -> None:
    loss, scores = ExtremeClassificationLoss(9), logits(0)
    with pytest.raises(ValueError, match=r"`logits` must be \[B, C\].*Found \(6, 5\) and \(5,\)"):
        loss(scores, LABELS[0][:5], ROWS[0])
    with pytest.raises(
        TypeError, match=r"`labels` must be an int64 tensor of column numbers. Found dtype torch.float32"
    ):
        loss(scores, LABELS[0].float(), ROWS[0])
    with pytest.raises(IndexError, match=r"`labels` must be columns of `logits`, in \[0, 5\). Found 5"):
        loss(scores, LABELS[0] + 1, ROWS[0])
    with pytest.raises(IndexError, match="Found -1"):
        loss(scores, LABELS[0] - 1, ROWS[0])
    with pytest.raises(ValueError, match=r"`counts` must have one number for each column.*\(5,\). Found \(4,\)"):
        loss(scores, LABELS[0], ROWS[0], counts=torch.ones(4))
    with pytest.raises(ValueError, match=r"`counts` must be 0 or more. Found -1"):
        loss(scores, LABELS[0], ROWS[0], counts=-torch.ones(5))
    with pytest.raises(ValueError, match="`index` is needed"):
        loss(scores, LABELS[0])
    with pytest.raises(ValueError, match=r"`index` must have the row number of each sample, shape \(6,\). Found None"):
        ExtremeClassificationLoss(9, dual_lr=0.1)(scores, LABELS[0])
    with pytest.raises(IndexError, match=r"`index` must lie in \[0, 9\)"):
        loss(scores, LABELS[0], ROWS[0] + 4)
    with pytest.raises(ValueError, match=r"`gamma` is the rate of a running mean, and with `dual_lr` there is none"):
        ExtremeClassificationLoss(9, gamma=0.5, dual_lr=0.1)
