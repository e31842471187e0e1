"""Tracker: the estimators of chapters 4 and 5 as loops (part 1 of the methods' notes)."""

from __future__ import annotations

import math

import pytest
import torch

import guidestar as gs


def batches(steps: int, rows: int, size: int, *shape: int):
    """Index and estimate of each step; every third batch holds an index twice."""
    rng = torch.Generator().manual_seed(0)
    for step in range(steps):
        index = torch.randperm(rows, generator=rng)[:size]
        if step % 3 == 2 and size > 1:
            index[1] = index[0]
        yield index, torch.randn(size, *shape, generator=rng, dtype=torch.float64)


def test_scgd() -> None:
    tracker, u = gs.Tracker(gamma=0.25).double(), None
    for _, estimate in batches(6, 1, 1):
        g = float(estimate)
        u = g if u is None else 0.75 * u + 0.25 * g
        leaf = estimate[0].requires_grad_()
        value = tracker(leaf)
        assert float(value.detach()) == pytest.approx(u, abs=1e-15)
        # d/dw of exp(u) is exp(u_t) times the gradient of the estimate, not of the average.
        assert float(torch.autograd.grad(value.exp(), leaf)[0]) == pytest.approx(math.exp(u), abs=1e-14)


@pytest.mark.parametrize("shape", [(), (2,)])
def test_sox_touches_the_rows_of_the_batch_only(shape) -> None:
    tracker = gs.Tracker(6, shape=shape, gamma=0.25).double()
    u: dict[int, torch.Tensor] = {}
    for index, estimate in batches(9, 6, 3, *shape):
        for i in set(index.tolist()):
            g = estimate[index == i].mean(0)
            u[i] = 0.75 * u[i] + 0.25 * g if i in u else g
        value = tracker(estimate.requires_grad_(), index)
        torch.testing.assert_close(value.detach(), torch.stack([u[i] for i in index.tolist()]), rtol=0, atol=1e-14)
        assert torch.equal(torch.autograd.grad(value.sum(), estimate)[0], torch.ones_like(estimate))
        for i in range(6):
            assert bool(tracker.memory.seen()[i]) == (i in u)
            if i in u:
                torch.testing.assert_close(tracker.memory.values[i], u[i], rtol=0, atol=1e-14)


@pytest.mark.parametrize("gamma_prime", [None, 0.5, 0.9])
def test_msvr_and_scst(gamma_prime) -> None:
    tracker = gs.Tracker(6, gamma=0.25, gamma_prime=gamma_prime).double()
    correction, u = 0.75 if gamma_prime is None else gamma_prime, {}
    for index, estimate in batches(9, 6, 3):
        before = estimate.sin()
        for i in set(index.tolist()):
            g, g_before = estimate[index == i].mean(), before[index == i].mean()
            u[i] = 0.75 * u[i] + 0.25 * g + correction * (g - g_before) if i in u else g
        value = tracker(estimate, index, before)
        torch.testing.assert_close(value, torch.stack([u[i] for i in index.tolist()]), rtol=0, atol=1e-14)


def test_scst_on_a_single_row() -> None:
    tracker = gs.Tracker(gamma=0.25).double()
    tracker(torch.tensor(2.0, dtype=torch.float64))
    value = tracker(torch.tensor(3.0, dtype=torch.float64), None, torch.tensor(2.5, dtype=torch.float64))
    assert float(value) == 0.75 * 2.0 + 0.25 * 3.0 + 0.75 * 0.5


def test_alexr_v1() -> None:
    # u <- u / (1 + alpha) + alpha g~ / (1 + alpha) with g~ = g + theta (g - g_before).
    alpha, theta = 0.5, 0.75
    gamma = alpha / (1 + alpha)
    tracker = gs.Tracker(4, gamma=gamma, gamma_prime=gamma * theta).double()
    u: dict[int, float] = {}
    for index, estimate in batches(2, 4, 3):
        before = estimate.cos()
        for position, i in enumerate(index.tolist()):
            g = float(estimate[position])
            extrapolated = g + theta * (g - float(before[position]))
            u[i] = u[i] / (1 + alpha) + alpha * extrapolated / (1 + alpha) if i in u else g
        torch.testing.assert_close(tracker(estimate, index, before).tolist(), [u[i] for i in index.tolist()])


@pytest.mark.parametrize("scale", [1.0, 30.0, 400.0])
@pytest.mark.parametrize("alpha", [1e-3, 1.0])
def test_scent(scale, alpha) -> None:
    # y = e^-nu: y <- (y + alpha) / (1 + alpha e^s), with nu and s far apart too.
    tracker, log_y = gs.Tracker(3, gamma=gs.schedules.Scent(alpha), log_space=True).double(), {}
    for index, s in batches(8, 3, 2):
        s, twin = scale * s, index[0] == index[1]
        value = tracker(s, index)
        for i in set(index.tolist()):
            own = s[index == i]
            merged = float(torch.logsumexp(own, 0)) - math.log(len(own))
            if i in log_y:
                step = torch.tensor([math.log(alpha) + merged, 0.0], dtype=torch.float64).logsumexp(0)
                start = torch.tensor([log_y[i], math.log(alpha)], dtype=torch.float64).logsumexp(0)
                log_y[i] = float(start - step)
            else:
                log_y[i] = -merged
        expected = torch.tensor([-log_y[i] for i in index.tolist()], dtype=torch.float64)
        assert bool(twin) == (value[0] == value[1])
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)


def test_scent_is_right_in_float32_where_gamma_rounds_to_1() -> None:
    # (e^100 + 1e-3 e^100 e^0) / (1 + 1e-3 e^100) = 1001, though gamma is 1 - 4e-41.
    tracker = gs.Tracker(gamma=gs.schedules.Scent(1e-3), log_space=True)
    tracker(torch.tensor(100.0))
    assert float(tracker(torch.tensor(0.0))) == pytest.approx(math.log(1001), rel=1e-6)


def test_scent_s_value_is_right_where_its_weight_overflows() -> None:
    # (e^-100 + e^-100 e^0) / (1 + e^-100) = 2 e^-100, and the weight of the estimate is e^100 / 2.
    tracker = gs.Tracker(gamma=gs.schedules.Scent(1.0), log_space=True)
    tracker(torch.tensor(-100.0))
    estimate = torch.tensor(0.0, requires_grad=True)
    value = tracker(estimate)
    assert float(value.detach()) == pytest.approx(math.log(2) - 100)
    value.backward()
    assert float(estimate.grad) == torch.finfo(torch.float32).max


def test_scent_is_sox_with_its_own_rate() -> None:
    tracker = gs.Tracker(gamma=gs.schedules.Scent(2.0)).double()
    tracker(torch.tensor(3.0, dtype=torch.float64))
    gamma = 2 * 3 / (1 + 2 * 3)
    assert float(tracker(torch.tensor(5.0, dtype=torch.float64))) == pytest.approx((1 - gamma) * 3 + gamma * 5)


def test_log_space_is_linear_space() -> None:
    linear, logs = gs.Tracker(6, gamma=0.25).double(), gs.Tracker(6, gamma=0.25, log_space=True).double()
    for index, estimate in batches(9, 6, 3):
        log_estimate = estimate.requires_grad_()
        right = linear(log_estimate.exp(), index).log()
        value = logs(log_estimate, index)
        torch.testing.assert_close(value, right, rtol=1e-12, atol=1e-12)
        for found, expected in zip(
            torch.autograd.grad(value.sum(), log_estimate), torch.autograd.grad(right.sum(), log_estimate), strict=True
        ):
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_cosine_follows_the_epoch() -> None:
    tracker = gs.Tracker(gamma=gs.schedules.Cosine(0.5, 2)).double()
    tracker(torch.tensor(1.0, dtype=torch.float64))
    assert float(tracker(torch.tensor(3.0, dtype=torch.float64))) == 3.0  # epoch 0: gamma is 1
    tracker.set_epoch(2)
    assert float(tracker(torch.tensor(5.0, dtype=torch.float64))) == 4.0


def test_nested_trackers_are_the_chain_rule() -> None:
    # Three levels: d/dw f(u2), u2 tracks h(u1), u1 tracks g(w) = f'(u2) h'(u1) g'(w).
    inner, outer = gs.Tracker(gamma=0.5).double(), gs.Tracker(gamma=0.25).double()
    w = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    u1 = u2 = None
    for scale in (1.0, 2.0, 0.5):
        g = scale * float(w.detach()) ** 2
        u1 = g if u1 is None else 0.5 * u1 + 0.5 * g
        h = math.sin(u1)
        u2 = h if u2 is None else 0.75 * u2 + 0.25 * h
        value = outer(inner(scale * w**2).sin()).exp()
        assert float(value.detach()) == pytest.approx(math.exp(u2), abs=1e-14)
        slope = math.exp(u2) * math.cos(u1) * 2 * scale * float(w.detach())
        assert float(torch.autograd.grad(value, w)[0]) == pytest.approx(slope, abs=1e-13)


def test_gamma_1_keeps_nothing() -> None:
    tracker = gs.Tracker(10**9, gamma=1.0)  # would be 4 GB
    assert tracker.state_dict() == {}
    assert tracker(torch.tensor([3.0]), torch.tensor([5])).tolist() == [3.0]
    with pytest.raises(RuntimeError, match="keeps nothing because `gamma` is 1"):
        tracker.remembered()


def test_remembered() -> None:
    tracker = gs.Tracker(3, gamma=0.5)
    tracker(torch.tensor([2.0]), torch.tensor([1]))
    values, seen = tracker.remembered()
    assert values.tolist() == [0.0, 2.0, 0.0]
    assert seen.tolist() == [False, True, False]


def test_the_first_visit_is_the_estimate_even_if_it_is_zero() -> None:
    tracker = gs.Tracker(2, gamma=0.5)
    assert tracker(torch.tensor([0.0]), torch.tensor([1])).tolist() == [0.0]
    assert tracker(torch.tensor([4.0]), torch.tensor([1])).tolist() == [2.0]


def test_inactive_rows_pass_through_unwritten() -> None:
    tracker = gs.Tracker(3, gamma=0.5)
    tracker(torch.tensor([2.0, 4.0]), torch.tensor([0, 1]))
    value = tracker(torch.tensor([8.0, 100.0, 6.0]), torch.tensor([0, 0, 1]), active=torch.tensor([True, False, False]))
    assert value.tolist() == [5.0, 100.0, 6.0]
    assert tracker.memory.values.tolist() == [5.0, 4.0, math.inf]


def test_active_duplicates_count_with_their_mean_and_inactive_ones_not_at_all() -> None:
    tracker = gs.Tracker(3, gamma=0.5)
    index, active = torch.tensor([1, 1, 1]), torch.tensor([True, False, True])
    assert tracker(torch.tensor([2.0, 100.0, 4.0]), index, active=active).tolist() == [3.0, 100.0, 3.0]
    assert tracker.memory.values.tolist() == [math.inf, 3.0, math.inf]


def test_large_indices_of_any_shape() -> None:
    tracker = gs.Tracker(9, gamma=0.5)
    index = torch.arange(6).reshape(2, 3)
    assert tracker(index.float(), index).shape == (2, 3)
    assert tracker.memory.seen().tolist() == [True] * 6 + [False] * 3


def test_bad_inputs() -> None:
    with pytest.raises(ValueError, match="`num_rows` must be at least 1"):
        gs.Tracker(0)
    many = gs.Tracker(3, shape=(2,))
    with pytest.raises(ValueError, match=r"`estimate` must have shape \[\*rows, 2\].*Found \(4, 3\)"):
        many(torch.ones(4, 3), torch.arange(3))
    with pytest.raises(ValueError, match=r"`index` must have one row number for each row of `estimate`, shape \(3,\)"):
        many(torch.ones(3, 2), torch.arange(2))
    with pytest.raises(ValueError, match="`index` is needed: the tracker has 3 rows"):
        many(torch.ones(1, 2))
    with pytest.raises(ValueError, match=r"`previous` must have the shape of `estimate`, \(3, 2\). Found \(2,\)"):
        many(torch.ones(3, 2), torch.arange(3), torch.ones(2))
    with pytest.raises(ValueError, match=r"`previous` .MSVR. can make the average negative"):
        gs.Tracker(log_space=True)(torch.tensor(1.0), None, torch.tensor(1.0))
    with pytest.raises(TypeError, match="must be floating-point"):
        gs.Tracker()(torch.tensor(1))
    with pytest.raises(IndexError, match="Found 3"):
        many(torch.ones(1, 2), torch.tensor([3]))


def solve(gamma: float) -> float:
    """SGD on f(E[w + noise]) with f(g) = exp(2 g) / 2 - g, one noisy value a step; the mean of the later iterates."""
    rng = torch.Generator().manual_seed(0)
    tracker = gs.Tracker(gamma=gamma)
    w, average, steps = torch.tensor(0.5, requires_grad=True), 0.0, 4000
    for step in range(steps):
        u = tracker(w + torch.randn((), generator=rng) * 0.7)
        (slope,) = torch.autograd.grad((2 * u).exp() / 2 - u, w)
        with torch.no_grad():
            w -= 0.01 * slope.clamp(-20, 20)
        average += float(w.detach()) * 2 / steps if step >= steps // 2 else 0.0
    return average


def test_scgd_reaches_the_optimum_where_bsgd_stalls_at_its_bias() -> None:
    # f(g) = exp(2 g) / 2 - g has its minimum at g = 0. BSGD solves E exp(2 (w + noise)) = 1, that is w = -0.7^2.
    assert abs(solve(0.05)) < 0.1
    assert solve(1.0) == pytest.approx(-0.49, abs=0.12)


def test_msvr_without_memory_corrects_the_mini_batch_estimate():
    tracker = gs.Tracker(3, gamma=1.0, gamma_prime=0.5)
    new = torch.tensor([2.0, 4.0], dtype=torch.float64, requires_grad=True)
    value = tracker(new, torch.tensor([0, 2]), previous=torch.tensor([1.0, 1.0], dtype=torch.float64))
    torch.testing.assert_close(value.detach(), torch.tensor([2.0 + 0.5 * 1.0, 4.0 + 0.5 * 3.0], dtype=torch.float64))
    value.sum().backward()
    torch.testing.assert_close(new.grad, torch.ones(2, dtype=torch.float64))
