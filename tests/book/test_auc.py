"""AUC: the pairs, 6.20 and 6.21 with Alg. 27 by hand, compositional training, and the sampler of Fig. 6.14."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from book_lines import PAIRS, Batch, Data, close, linear

from guidestar.losses import AUCMarginLoss, PairwiseAUCLoss
from guidestar.networks import CompositionalStep
from guidestar.samplers import DualSampler
from guidestar.surrogates import squared, squared_hinge


@pytest.mark.parametrize("name", PAIRS)
def test_pairs_by_hand(name: str) -> None:
    pair, data = PAIRS[name], Data(16, scale=2.0)
    loss = PairwiseAUCLoss(pair.library)
    for batch in data.batches(6):
        plus, minus = batch.kept(1.0), batch.kept(0.0)
        value, z, count = 0.0, np.zeros(3), len(plus) * len(minus)
        for i in plus:
            for j in minus:
                t = float((batch.x[j] - batch.x[i]) @ data.w0)
                value += pair.value(t) / count
                z += pair.slope(t) * (batch.x[j] - batch.x[i]) / count
        w, (x, y, _, mask) = linear(data.w0), batch.torch()
        found = loss(torch.where(mask, x @ w, torch.nan), y, mask=mask)
        close(found, value)
        close(torch.autograd.grad(found, w)[0], z)


@pytest.mark.parametrize("margin", [1.0, 0.25])
@pytest.mark.parametrize("name", ["squared_hinge", "squared", "hinge", "logistic"])
def test_many_tied_and_extreme_scores(name: str, margin: float) -> None:
    # Large enough for the sorted and the tiled path; scores of a few values each, margins apart, and some of 1e4.
    rng = np.random.default_rng(0)
    scores = rng.integers(-4, 5, 1500) * 0.25
    scores[::50] = rng.choice([-1e4, 1e4], 30)
    y = rng.uniform(size=1500) < 0.4
    t = scores[~y][None, :] - scores[y][:, None]
    if name == "logistic":
        chosen, value, slope = PAIRS[name].library, np.logaddexp(0, t), 0.5 * (1 + np.tanh(t / 2))
    else:
        chosen, above = partial(PAIRS[name].library, margin=margin), margin + t
        above = above if name == "squared" else np.maximum(above, 0)
        value, slope = (above, 1.0 * (above > 0)) if name == "hinge" else (above**2, 2 * above)
    leaf = torch.tensor(scores, requires_grad=True)
    found = PairwiseAUCLoss(chosen)(leaf, torch.tensor(y))
    expected = np.zeros(1500)
    expected[~y] = slope.sum(0) / slope.size
    expected[y] = -slope.sum(1) / slope.size
    close(found, value.mean(), rtol=1e-9)
    close(torch.autograd.grad(found, leaf)[0], expected, rtol=1e-8, atol=1e-9)


class Minimax:
    """Alg. 27 with SGD or its momentum for (w, a, b): the value at the variables before the step, and the step."""

    def __init__(self, w: np.ndarray, m: float, tau: float, eta: float, momentum: float, *, hinge: bool) -> None:
        self.x, self.m, self.tau, self.eta, self.hinge = np.append(w, [0.0, 0.0]), m, tau, eta, hinge
        self.alpha, self.v, self.momentum = 0.0, np.zeros(len(w) + 2), momentum

    def __call__(self, batch: Batch) -> float:
        w, a, b = self.x[:-2], self.x[-2], self.x[-1]
        xp, xm = batch.x[batch.kept(1.0)], batch.x[batch.kept(0.0)]
        sp, sm, alpha = xp @ w, xm @ w, self.alpha
        gap = self.m + sm.mean() - sp.mean()
        value = np.mean((sp - a) ** 2) + np.mean((sm - b) ** 2) + alpha * gap - alpha**2 / 4  # Eq. 6.21
        z_w = 2 * (sp - a) @ xp / len(xp) + 2 * (sm - b) @ xm / len(xm) + alpha * (xm.mean(0) - xp.mean(0))
        z = np.append(z_w, [-2 * np.mean(sp - a), -2 * np.mean(sm - b)])  # step 5, at alpha_t
        self.alpha = (1 - self.tau / 2) * alpha + self.tau * gap  # step 4, at w_t
        self.alpha = max(self.alpha, 0.0) if self.hinge else self.alpha
        self.v = self.momentum * self.v + z
        self.x = self.x - self.eta * self.v
        return float(value)


@pytest.mark.parametrize("momentum", [0.0, 0.7])
@pytest.mark.parametrize("surrogate", [squared_hinge, squared])
@pytest.mark.parametrize("m", [0.2, 1.0])
def test_algorithm_27(m: float, surrogate: object, momentum: float) -> None:
    data, tau, eta = Data(16), 0.6, 0.1
    loss = AUCMarginLoss(m, lr=tau, surrogate=surrogate).double()
    w, lines = linear(data.w0), Minimax(data.w0, m, tau, eta, momentum, hinge=surrogate is squared_hinge)
    optimizer = torch.optim.SGD([w, *loss.parameters()], lr=eta, momentum=momentum)
    cut = False
    for batch in data.batches(20):
        x, y, _, mask = batch.torch()
        optimizer.zero_grad()
        found = loss(torch.where(mask, x @ w, torch.nan), y, mask=mask)
        close(found, lines(batch))
        found.backward()
        optimizer.step()
        close(w, lines.x[:-2])
        close(torch.cat([loss.a, loss.b]), lines.x[-2:])
        close(loss.alpha.memory.values, [lines.alpha])
        cut |= lines.alpha == 0.0
    assert cut == (surrogate is squared_hinge and m == 0.2)


def test_a_score_of_exactly_zero_counts_in_the_means() -> None:
    # LibAUC's means divide by the number of scores that are not 0.
    loss = AUCMarginLoss(1.0, lr=0.5).double()
    with torch.no_grad():
        loss.alpha.memory.values.fill_(1.0)
    found = loss(torch.tensor([0.0, 2.0, 0.0, 1.0, 1.0], dtype=torch.float64), torch.tensor([1, 1, 0, 0, 0]))
    close(found, 2.0 + 2 / 3 + (1 + 2 / 3 - 1.0) - 0.25)


@pytest.mark.parametrize("surrogate", [squared_hinge, squared])
def test_the_saddle_point_is_6_20_and_with_the_square_the_mean_over_pairs(surrogate: object) -> None:
    rng = np.random.default_rng(2)
    s, y = rng.normal(size=9), np.array([1, 0, 0, 1, 0, 0, 1, 0, 0])
    loss = AUCMarginLoss(0.8, lr=0.3, surrogate=surrogate).double()
    optimizer = torch.optim.SGD(loss.parameters(), lr=0.2)
    for _ in range(200):
        optimizer.zero_grad()
        found = loss(torch.tensor(s), torch.tensor(y))
        found.backward()
        optimizer.step()
    gap = 0.8 + s[y == 0].mean() - s[y == 1].mean()
    outer = gap**2 if surrogate is squared else max(gap, 0) ** 2
    close(found, s[y == 1].var() + s[y == 0].var() + outer, rtol=1e-8)
    if surrogate is squared:
        close(found, np.mean((0.8 + s[y == 0][None] - s[y == 1][:, None]) ** 2), rtol=1e-8)
    close(loss.alpha.memory.values, [2 * gap if surrogate is squared else 2 * max(gap, 0)], rtol=1e-8)


def test_labels_of_a_minimax_loss_are_apart() -> None:
    data, rng = Data(16), np.random.default_rng(1)
    several = AUCMarginLoss(1.0, lr=0.6, num_labels=3).double()
    single = [AUCMarginLoss(1.0, lr=0.6).double() for _ in range(3)]
    y = np.stack([data.y, 1 - data.y, np.roll(data.y, 4)], 1)
    for step, batch in enumerate(data.batches(6)):
        scores, own = torch.tensor(rng.normal(size=(len(batch.rows), 3)), requires_grad=True), y[batch.rows].copy()
        own[:, 1] = 0.0 if step == 2 else own[:, 1]
        mask = torch.tensor(batch.mask)
        both = [k for k in range(3) if {0.0, 1.0} <= set(own[batch.mask][:, k].tolist())]
        parts = [single[k](scores[:, k], torch.tensor(own[:, k]), mask=mask) for k in both]
        found = several(scores, torch.tensor(own), mask=mask)
        close(found, (sum(parts) / len(parts)).detach())
        gradients = torch.autograd.grad(found, [scores, several.a])
        expected = torch.autograd.grad(sum(parts) / len(parts), [scores, *(single[k].a for k in both)])
        close(gradients[0], expected[0])
        close(gradients[1][both], torch.cat(expected[1:]))
        close(several.alpha.memory.values, torch.cat([each.alpha.memory.values for each in single]))


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("gamma", [1.0, 0.4])
def test_compositional_training_by_hand(gamma: float, first_order: bool) -> None:
    # Logistic regression: H = X' diag(p (1 - p)) X / B, and the pairwise squared hinge as the outer objective.
    data, tau, eta, u = Data(16, missing=0), 1.5, 0.2, None
    model = torch.nn.Linear(3, 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor(data.w0)[None])
    bce = torch.nn.BCEWithLogitsLoss()
    step = CompositionalStep(
        model, lambda out, y: bce(out[:, 0], y), tau, gamma=gamma, first_order=first_order
    ).double()
    optimizer, w = torch.optim.SGD(model.parameters(), lr=eta), data.w0.copy()
    for batch in data.batches(8, masked=False):
        y = np.array(batch.y)
        p = 1 / (1 + np.exp(-batch.x @ w))
        stepped = w - tau * (p - y) @ batch.x / len(y)
        u = stepped if u is None else (1 - gamma) * u + gamma * stepped
        pair, plus, minus = PAIRS["squared_hinge"], batch.kept(1.0), batch.kept(0.0)
        outer, value = np.zeros(3), 0.0
        for i in plus:
            for j in minus:
                t = float((batch.x[j] - batch.x[i]) @ u)
                value += pair.value(t) / len(plus) / len(minus)
                outer += pair.slope(t) * (batch.x[j] - batch.x[i]) / len(plus) / len(minus)
        hessian = (batch.x.T * (p * (1 - p))) @ batch.x / len(y)
        z = outer if first_order else (np.eye(3) - tau * hessian) @ outer
        optimizer.zero_grad()
        found = PairwiseAUCLoss()(step(torch.tensor(batch.x), torch.tensor(y))[:, 0], torch.tensor(y))
        close(found, value)
        found.backward()
        close(model.weight.grad[0], z)
        optimizer.step()
        w = w - eta * z
        close(model.weight[0], w)


def test_figure_6_14_word_by_word() -> None:
    # 4 positives, 9 negatives, batches of 4 and 4: both lists shuffled, first 4 of each; positives used up: they alone
    # are shuffled again, next 4 negatives; negatives used up (one is left, no batch): both are shuffled again.
    labels = [1] * 4 + [0] * 9
    sampler, left_out, orders = DualSampler(labels, batch_size=8, rate=0.5), set(), set()
    for epoch in range(12):
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert len(batches) == 2
        for batch in batches:
            assert sorted(batch[:4]) == [0, 1, 2, 3]
            orders.add(tuple(batch[:4]))
        negatives = [row for batch in batches for row in batch[4:]]
        assert len(set(negatives)) == 8
        left_out |= set(range(4, 13)) - set(negatives)
    assert len(left_out) > 3
    assert len(orders) > 6


@pytest.mark.parametrize(("size", "rate", "positives"), [(10, 0.3, 3), (7, 0.5, 4), (8, 0.01, 1), (6, 0.95, 5)])
def test_positives_of_a_batch_and_their_passes(size: int, rate: float, positives: int) -> None:
    labels = np.zeros(60)
    labels[::6] = 1  # 10 positives
    sampler = DualSampler(labels, batch_size=size, rate=rate)
    drawn = []
    for batch in sampler:
        assert len(batch) == size
        assert len(set(batch)) == size
        assert sum(labels[row] for row in batch) == pytest.approx(positives, abs=0 if size != 7 else 1)
        drawn += [row for row in batch if labels[row] == 1]
    for start in range(0, len(drawn) - 9, 10):  # the list of the positives is used up before it is shuffled again
        assert len(set(drawn[start : start + 10])) == 10
