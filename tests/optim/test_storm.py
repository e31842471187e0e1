"""Storm: the estimator's line, SCST and MSVR as loops by hand, exact resume, and less bias than BSGD."""

from __future__ import annotations

import pytest
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor, nn

import guidestar as gs
from guidestar.optim import Storm, recall

F64 = torch.float64


def data(seed: int, shape: tuple[int, ...]) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def parameter() -> nn.Parameter:
    return nn.Parameter(torch.tensor([0.5, -0.25], dtype=F64))


def test_a_plain_expectation_follows_the_line() -> None:
    batches, beta, lr = data(0, (6, 2)), 0.3, 0.1
    gradient = lambda w, x: 2 * (w - x) * w.square() + 2 * (w - x).square() * w  # noqa: E731 -- of (w - x)^2 w^2
    w = parameter()
    storm, optimizer = Storm([w], beta), torch.optim.SGD([w], lr=lr)
    by_hand, before, v = w.detach().clone(), None, None
    for x in batches:
        with storm.previous():
            ((w - x).square() * w.square()).sum().backward()
        optimizer.zero_grad()
        ((w - x).square() * w.square()).sum().backward()
        storm.estimate()
        z = gradient(by_hand, x)
        v = z if v is None else (1 - beta) * v + beta * z + (1 - beta) * (z - gradient(before, x))
        torch.testing.assert_close(w.grad, v, rtol=1e-12, atol=1e-12)
        optimizer.step()
        before, by_hand = by_hand, by_hand - lr * v
        torch.testing.assert_close(w.detach(), by_hand, rtol=1e-12, atol=1e-12)


def test_scst_with_two_batches_does_the_lines_of_the_book() -> None:
    # f(u) = u^2 / 2 and g(w; x) = |w - x|^2, with x for the inner estimate and y for the gradient.
    beta, gamma, lr = 0.3, 0.2, 0.05
    w, tracker = parameter(), gs.Tracker(gamma=gamma).double()
    storm, optimizer = Storm([w], beta), torch.optim.SGD([w], lr=lr)
    inner = lambda x: (w - x).square().sum()  # noqa: E731
    by_hand, before, u, v = w.detach().clone(), w.detach().clone(), None, None
    for x, y in data(1, (6, 2, 2)):
        with storm.previous(tracker):
            earlier = inner(x)
            (recall(tracker, inner(y)).square() / 2).backward()
        optimizer.zero_grad()
        tracker(inner(x), previous=earlier.detach())
        (recall(tracker, inner(y)).square() / 2).backward()
        storm.estimate()

        g, g_before = (by_hand - x).square().sum(), (before - x).square().sum()
        u_before = u
        u = g if u is None else (1 - gamma) * u + gamma * g + (1 - gamma) * (g - g_before)
        z = u * 2 * (by_hand - y)
        if v is None:
            v = z
        else:
            v = (1 - beta) * v + beta * z + (1 - beta) * (z - u_before * 2 * (before - y))
        torch.testing.assert_close(w.grad, v, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(tracker.memory.values[0], u, rtol=1e-12, atol=1e-12)
        optimizer.step()
        before, by_hand = by_hand, by_hand - lr * v


def test_msvr_with_many_rows_does_the_lines_of_the_book() -> None:
    # F = mean of u_i^2 / 2 over rows; the batch's own rows mix into the memory in both passes, and only one writes.
    beta, gamma, prime, lr = 0.3, 0.2, 0.9, 0.05
    w, tracker = parameter(), gs.Tracker(3, gamma=gamma, gamma_prime=prime).double()
    storm, optimizer = Storm([w], beta), torch.optim.SGD([w], lr=lr)
    inner = lambda x: (w - x).square().sum(-1)  # noqa: E731
    u: dict[int, Tensor] = {}
    by_hand, before, v = w.detach().clone(), w.detach().clone(), None
    for step, x in enumerate(data(2, (7, 2, 2))):
        index = torch.tensor([step % 3, (step + 1) % 3])
        with storm.previous(tracker):
            earlier = inner(x)
            (tracker(earlier, index).square() / 2).mean().backward()
        optimizer.zero_grad()
        (tracker(inner(x), index, previous=earlier.detach()).square() / 2).mean().backward()
        storm.estimate()

        z, z_before = torch.zeros(2, dtype=F64), torch.zeros(2, dtype=F64)
        for place, row in enumerate(index.tolist()):
            now, then = (by_hand - x[place]).square().sum(), (before - x[place]).square().sum()
            mixed = then if row not in u else (1 - gamma) * u[row] + gamma * then
            u[row] = now if row not in u else (1 - gamma) * u[row] + gamma * now + prime * (now - then)
            z += u[row] * 2 * (by_hand - x[place]) / 2
            z_before += mixed * 2 * (before - x[place]) / 2
        v = z if v is None else z + (1 - beta) * (v - z_before)
        torch.testing.assert_close(w.grad, v, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(
            tracker.memory.values, torch.stack([u.get(i, torch.tensor(torch.inf)) for i in range(3)]).double()
        )
        optimizer.step()
        before, by_hand = by_hand, by_hand - lr * v


def test_beta_one_is_the_plain_gradient() -> None:
    w = parameter()
    storm, optimizer = Storm([w], 1.0), torch.optim.Adam([w], lr=0.1)
    twin = parameter()
    plain = torch.optim.Adam([twin], lr=0.1)
    for x in data(3, (4, 2)):
        for each, steps in ((w, optimizer), (twin, plain)):
            steps.zero_grad()
            if each is w:
                with storm.previous():
                    (w - x).square().sum().backward()
            (each - x).square().sum().backward()
            if each is w:
                storm.estimate()
            steps.step()
    assert torch.equal(w, twin)


def small_model(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 2))


class Training:
    """A model, its loss with memory, an optimizer and the estimator."""

    def __init__(self) -> None:
        self.model, self.loss = small_model(), gs.losses.ABSGDLoss(0.5, gamma=0.3)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.01)
        self.storm = Storm(self.model.parameters(), 0.2)

    def step(self, seed: int) -> None:
        torch.manual_seed(seed)
        x, y = torch.randn(6, 3), torch.randint(2, (6,))
        with self.storm.previous(self.loss):
            self.loss(self.model(x), y).backward()
        self.optimizer.zero_grad()
        self.loss(self.model(x), y).backward()
        self.storm.estimate()
        self.optimizer.step()

    def parts(self) -> list:
        return [self.model, self.loss, self.optimizer, self.storm]


def test_resumed_equals_uninterrupted(tmp_path) -> None:
    straight, interrupted, resumed = Training(), Training(), Training()
    for seed in range(6):
        straight.step(seed)
    for seed in range(3):
        interrupted.step(seed)
    torch.save([part.state_dict() for part in interrupted.parts()], tmp_path / "state.pt")
    for part, state in zip(resumed.parts(), torch.load(tmp_path / "state.pt", weights_only=True), strict=True):
        part.load_state_dict(state)
    for seed in range(3, 6):
        resumed.step(seed)
    for left, right in zip(straight.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(left, right)
    assert torch.equal(straight.loss.risk.tracker.memory.values, resumed.loss.risk.tracker.memory.values)


def test_the_block_leaves_parameters_gradients_and_memory_alone() -> None:
    training = Training()
    for seed in range(2):
        training.step(seed)
    weights = [p.detach().clone() for p in training.model.parameters()]
    gradients = [p.grad.clone() for p in training.model.parameters()]
    memory = training.loss.risk.tracker.memory.values.clone()
    x, y = torch.randn(6, 3), torch.tensor([0, 1, 0, 1, 0, 1])
    with training.storm.previous(training.loss):
        inside = [p.detach().clone() for p in training.model.parameters()]
        training.loss(training.model(x), y).backward()
    assert not any(torch.equal(left, right) for left, right in zip(inside, weights, strict=True))
    for p, weight, gradient in zip(training.model.parameters(), weights, gradients, strict=True):
        assert torch.equal(p, weight)
        assert torch.equal(p.grad, gradient)
    assert torch.equal(training.loss.risk.tracker.memory.values, memory)


def test_an_error_in_the_block_puts_the_parameters_back() -> None:
    training = Training()
    for seed in range(2):
        training.step(seed)
    weights = [p.detach().clone() for p in training.model.parameters()]
    with pytest.raises(KeyError), training.storm.previous(training.loss):
        raise KeyError
    assert all(torch.equal(p, weight) for p, weight in zip(training.model.parameters(), weights, strict=True))
    assert training.loss.risk.tracker.memory.writable


def test_both_passes_draw_the_same_dropout_masks() -> None:
    training = Training()
    training.step(0)
    torch.manual_seed(1)
    with training.storm.previous():
        first = nn.functional.dropout(torch.ones(50), 0.5)
    assert torch.equal(first, nn.functional.dropout(torch.ones(50), 0.5))


def test_a_graph_from_before_the_block_stays_valid() -> None:
    w, x = parameter(), data(4, (2,))
    storm = Storm([w], 0.5)
    storm.estimate()
    with torch.no_grad():
        w.add_(1.0)
    value = (w.square() * x).sum()
    expected = 2 * w.detach() * x
    with storm.previous():
        (w.square() * x).sum().backward()
    value.backward()
    torch.testing.assert_close(w.grad, expected)


def test_micro_batches_add_up() -> None:
    whole, parts = parameter(), parameter()
    estimators = Storm([whole], 0.4), Storm([parts], 0.4)
    for x in data(5, (4, 6, 2)):
        for w, storm, pieces in ((whole, estimators[0], [x]), (parts, estimators[1], [x[:3], x[3:]])):
            w.grad = None
            for piece in pieces:
                with storm.previous():
                    ((w - piece) ** 4).sum().backward()
                ((w - piece) ** 4).sum().backward()
            storm.estimate()
            with torch.no_grad():
                w.sub_(0.001 * w.grad)
    torch.testing.assert_close(whole.detach(), parts.detach(), rtol=1e-12, atol=1e-12)


def test_parameters_without_a_gradient_keep_none() -> None:
    used, unused = parameter(), parameter()
    storm = Storm([used, unused], 0.5)
    for _ in range(2):
        with storm.previous():
            used.sum().backward()
        used.sum().backward()
        storm.estimate()
    assert unused.grad is None


LOSSES = torch.tensor([0.0, 0.0, 0.0, 4.0], dtype=F64)


def final(kind: str, steps: int = 4000) -> float:
    """The mean iterate of the last half, with one sample a step, for 2 log E exp((x - w)^2 / 16)."""
    rng = torch.Generator().manual_seed(0)
    w = nn.Parameter(torch.zeros((), dtype=F64))
    tracker = gs.Tracker(gamma=1.0 if kind == "BSGD" else 0.05).double()
    storm = Storm([w], 0.05)
    optimizer = torch.optim.SGD(
        [w], lr=0.01, momentum=0.9 if kind == "SCMA" else 0.0, dampening=0.9 if kind == "SCMA" else 0.0
    )
    inner = lambda x: torch.exp((x - w) ** 2 / 16)  # noqa: E731
    total = 0.0
    for step in range(steps):
        x, y = LOSSES[torch.randint(4, (2,), generator=rng)]
        optimizer.zero_grad()
        if kind == "SCST":
            with storm.previous():
                before = inner(x)
                (2 * recall(tracker, inner(y)).log()).backward()
            tracker(inner(x), previous=before.detach())
            (2 * recall(tracker, inner(y)).log()).backward()
            storm.estimate()
        elif kind == "SCST, one batch":
            with storm.previous(tracker):
                before = inner(x)
                (2 * tracker(before).log()).backward()
            (2 * tracker(inner(x), previous=before.detach()).log()).backward()
            storm.estimate()
        else:
            (2 * tracker(inner(x)).log()).backward()
        optimizer.step()
        total += float(w.detach()) if step >= steps // 2 else 0.0
    return total / (steps - steps // 2)


@pytest.mark.slow
def test_the_tracked_estimators_find_the_optimum_and_the_mini_batch_does_not() -> None:
    objective = lambda w: float(2 * torch.log(torch.exp((LOSSES - w) ** 2 / 16).mean()))  # noqa: E731
    best = float(minimize_scalar(objective, bounds=(-1, 4), method="bounded").x)
    assert best == pytest.approx(1.289, abs=1e-3)
    for kind in ("SCMA", "SCST", "SCST, one batch"):
        assert abs(final(kind) - best) < 0.1, kind
    # The mean of log exp is the mean of the losses: BSGD goes to the mean of the data.
    assert abs(final("BSGD") - best) > 0.2


def test_recall_is_the_average_with_the_gradient_of_the_estimate() -> None:
    tracker = gs.Tracker(3, gamma=0.5).double()
    tracker(torch.tensor([4.0], dtype=F64, requires_grad=True), torch.tensor([1]))
    estimate = torch.tensor([2.0, 6.0], dtype=F64, requires_grad=True)
    value = recall(tracker, estimate, torch.tensor([1, 2]))
    assert value.tolist() == [4.0, 6.0]  # the second row was never visited
    value.square().sum().backward()
    assert estimate.grad.tolist() == [8.0, 12.0]
    assert tracker.memory.seen().tolist() == [False, True, False]
    assert recall(tracker.eval(), estimate, torch.tensor([1, 2])) is estimate
    assert recall(gs.Tracker(gamma=1.0), estimate) is estimate


def test_bad_input() -> None:
    w = parameter()
    for beta in (0.0, 1.5, float("nan")):
        with pytest.raises(ValueError, match=r"`beta` must be in \(0, 1\]"):
            Storm([w], beta)
    with pytest.raises(ValueError, match="`params` must hold a parameter that requires a gradient"):
        Storm([w.detach()], 0.5)
    storm = Storm([w], 0.5)
    storm.estimate()
    with pytest.raises(RuntimeError, match="`estimate` needs the gradient of this batch at the previous parameters"):
        storm.estimate()
    with pytest.raises(RuntimeError, match="`previous` must not be nested"), storm.previous(), storm.previous():
        pass
    with pytest.raises(ValueError, match=r"the shapes \[\(2,\)\]. Found \[\(3,\)\] in `previous`"):
        storm.load_state_dict(Storm([nn.Parameter(torch.zeros(3))], 0.5).state_dict())
    with pytest.raises(ValueError, match="`tracker` must not be in log space"):
        recall(gs.Tracker(log_space=True), torch.tensor(1.0))
