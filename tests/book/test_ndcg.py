"""NDCG: Alg. 33 with 6.34 and 6.35, both ways to the top K (6.36, 6.37), and the cross-entropy of 2.47."""

from __future__ import annotations

import math
from decimal import Decimal

import numpy as np
import pytest
import torch
from book_lines import PAIRS, Average, close, decimals, exactly, linear

from guidestar.losses import ListwiseCrossEntropyLoss, NDCGLoss
from guidestar.losses.top_k_ndcg import RankInclusion, ThresholdInclusion
from guidestar.ranking.queries import ideal_dcg

Q, M, D = 4, 9, 3
LN2 = math.log(2)


class Lists:
    """Whole lists of Q queries, and draws of some queries with some of their items (sorted out by a mask)."""

    def __init__(self, *, draws: int = 8) -> None:
        rng = np.random.default_rng(9)
        self.x, self.y = rng.normal(size=(Q, M, D)), rng.integers(0, 4, (Q, M)) * (rng.uniform(size=(Q, M)) < 0.5)
        self.y[3, 1:] = 0
        self.y[3, 0] = 2
        self.x[:, 3] = self.x[:, 4]  # ties
        self.size, self.w0 = np.array([9.0, 8.0, 9.0, 6.0]), rng.normal(size=D)
        self.draws = []
        for step in range(draws):
            queries = np.sort(rng.permutation(Q)[: 2 + step % 2])
            mask = rng.uniform(size=(len(queries), M)) < 0.8
            for place, q in enumerate(queries):
                mask[place, int(self.size[q]) :] = False
                mask[place, :2] = True
            if step == 4:
                mask[0] = False
            self.draws.append((queries, mask))

    def z(self, q: int, k: int | None = None) -> float:
        best = sorted(self.y[q, : int(self.size[q])], reverse=True)[:k]
        return sum((2.0**y - 1) / math.log2(r + 2) for r, y in enumerate(best))

    def call(self, loss: torch.nn.Module, w: torch.Tensor, queries: np.ndarray, mask: np.ndarray, **extra: object):
        scores = torch.where(torch.tensor(mask), torch.tensor(self.x[queries]) @ w, torch.nan)
        index = torch.tensor(queries[:, None] * M + np.arange(M)[None])
        return loss(scores, torch.tensor(self.y[queries]), index, mask=torch.tensor(mask), **extra)

    def extras(self, queries: np.ndarray, k: int | None = None) -> dict[str, torch.Tensor]:
        z = [self.z(q, k) for q in queries]
        return {"query_sizes": torch.tensor(self.size[queries]), "ideal_dcg": torch.tensor(z, dtype=torch.float64)}


def f(u: float, y: float, n: float, z: float) -> float:
    return (1 - 2.0**y) / math.log2(n * u + 1) / z


def slope_of_f(u: float, y: float, n: float, z: float) -> float:
    """Step 7 of Alg. 33."""
    return (2.0**y - 1) * n / (z * (n * u + 1) * math.log2(n * u + 1) ** 2 * LN2)


def sigmoid(t: float) -> float:
    return 1 / (1 + math.exp(-t))


class Song:
    """The value and z of one draw; `top` turns (q, score, its gradient, n u, gradient of n u) into psi and its gradient."""

    def __init__(self, lists: Lists, surrogate: str, gamma: float, *, over_pairs: bool, k: int | None = None) -> None:
        self.lists, self.pair, self.u, self.over_pairs, self.k = lists, PAIRS[surrogate], Average(gamma), over_pairs, k

    def begin(self, q: int, scores: np.ndarray, x: np.ndarray) -> None:
        """Before the relevant items of q."""

    def top(self, q: int, s: float, x: np.ndarray, rank: float, grad_rank: np.ndarray) -> tuple[float, np.ndarray]:
        return 1.0, np.zeros(D)

    def __call__(self, w: np.ndarray, queries: np.ndarray, mask: np.ndarray) -> tuple[float, np.ndarray]:
        value, z, pairs, there = 0.0, np.zeros(D), 0, 0
        for place, q in enumerate(queries):
            items = [i for i in range(M) if mask[place, i]]
            relevant = [i for i in items if self.lists.y[q, i] > 0]
            if not relevant or len(items) < 2:
                continue
            there, pairs = there + 1, pairs + len(relevant)
            x, n, norm = self.lists.x[q], self.lists.size[q], self.lists.z(q, self.k)
            s = x @ w
            self.begin(q, s[items], x[items])
            for i in relevant:
                g = sum(self.pair.value(s[j] - s[i]) for j in items) / len(items)
                grad = sum(self.pair.slope(s[j] - s[i]) * (x[j] - x[i]) for j in items) / len(items)
                u, y = self.u((q, i), g), self.lists.y[q, i]
                psi, grad_psi = self.top(q, s[i], x[i], n * u, n * grad)
                value += psi * f(u, y, n, norm)
                z = z + psi * slope_of_f(u, y, n, norm) * grad + grad_psi * f(u, y, n, norm)
        over = pairs if self.over_pairs else there
        return value / over, z / over


class ByRank(Song):
    """6.36, whose psi has a gradient too."""

    temperature = 2.0

    def top(self, q: int, s: float, x: np.ndarray, rank: float, grad_rank: np.ndarray) -> tuple[float, np.ndarray]:
        psi = sigmoid((self.k - rank) / self.temperature)
        return psi, -psi * (1 - psi) / self.temperature * grad_rank


class ByThreshold(Song):
    """6.37 in practice: lambda takes a step (with the minus of Lemma 6.3), psi has the new one and no gradient."""

    lr, eps, temperature = 0.4, 0.5, 0.7

    def begin(self, q: int, scores: np.ndarray, x: np.ndarray) -> None:
        self.thresholds = getattr(self, "thresholds", {})
        old, n = self.thresholds.get(q, 0.0), self.lists.size[q]
        self.thresholds[q] = old - self.lr * ((self.k + self.eps) / n - np.mean(scores > old))

    def top(self, q: int, s: float, x: np.ndarray, rank: float, grad_rank: np.ndarray) -> tuple[float, np.ndarray]:
        return sigmoid((s - self.thresholds[q]) / self.temperature), np.zeros(D)


def compare(loss: torch.nn.Module, lines: Song, *, k: int | None = None, threshold: bool = False) -> None:
    lists = lines.lists
    loss, w, hand = loss.double(), linear(lists.w0), lists.w0.copy()
    optimizer = torch.optim.SGD([w], lr=0.3)
    for queries, mask in lists.draws:
        extra = lists.extras(queries, k)
        if threshold:
            extra["query_index"] = torch.tensor(queries)
        found = lists.call(loss, w, queries, mask, **extra)
        value, z = lines(hand, queries, mask)
        close(found, value)
        optimizer.zero_grad()
        found.backward()
        close(w.grad, z)
        optimizer.step()
        hand = hand - 0.3 * z
        close(w, hand)


@pytest.mark.parametrize("over_pairs", [False, True])
@pytest.mark.parametrize("gamma", [0.3, 1.0])
@pytest.mark.parametrize("surrogate", ["squared_hinge", "sigmoid", "logistic"])
def test_algorithm_33(surrogate: str, gamma: float, over_pairs: bool) -> None:
    loss = NDCGLoss(Q * M, gamma=gamma, surrogate=PAIRS[surrogate].library, over_pairs=over_pairs)
    compare(loss, Song(Lists(), surrogate, gamma, over_pairs=over_pairs))


@pytest.mark.parametrize("gamma", [0.3, 1.0])
def test_top_k_by_rank(gamma: float) -> None:
    loss = NDCGLoss(
        Q * M, gamma=gamma, surrogate=PAIRS["sigmoid"].library, top_k=3, inclusion=RankInclusion(2.0), over_pairs=True
    )
    compare(loss, ByRank(Lists(), "sigmoid", gamma, over_pairs=True, k=3), k=3)


@pytest.mark.parametrize("gamma", [0.3, 1.0])
def test_top_k_by_threshold(gamma: float) -> None:
    inclusion = ThresholdInclusion(Q, lr=0.4, temperature=0.7, eps=0.5)
    loss = NDCGLoss(Q * M, gamma=gamma, surrogate=PAIRS["sigmoid"].library, top_k=2, inclusion=inclusion)
    lines = ByThreshold(Lists(), "sigmoid", gamma, over_pairs=False, k=2)
    compare(loss, lines, k=2, threshold=True)
    for q, threshold in lines.thresholds.items():
        close(inclusion.dual.memory.values[q], threshold)


def test_the_step_function_gives_minus_the_ndcg_itself() -> None:
    lists = Lists()
    scores = np.random.default_rng(3).permutation(Q * M).reshape(Q, M) * 0.37  # no ties
    expected = 0.0
    for q in range(Q):
        rank = 1 + (scores[q][None, :] > scores[q][:, None]).sum(1)
        best = sorted(lists.y[q], reverse=True)
        ideal = sum((2.0**y - 1) / math.log2(r + 2) for r, y in enumerate(best))
        expected -= sum((2.0 ** lists.y[q, i] - 1) / math.log2(rank[i] + 1) for i in range(M)) / ideal / Q
    loss = NDCGLoss(gamma=1.0, surrogate=lambda t: (t >= 0).to(t.dtype) + 0.0 * t)
    close(loss(torch.tensor(scores), torch.tensor(lists.y)), expected)
    close(ideal_dcg(torch.tensor(lists.y, dtype=torch.float64)), [lists_z(lists.y[q]) for q in range(Q)])
    top = ideal_dcg(torch.tensor(lists.y, dtype=torch.float64), 2)
    close(top, [lists_z(lists.y[q], 2) for q in range(Q)])


def lists_z(relevance: np.ndarray, k: int | None = None) -> float:
    best = sorted(relevance, reverse=True)[:k]
    return sum((2.0**y - 1) / math.log2(r + 2) for r, y in enumerate(best))


@pytest.mark.parametrize("k", [1, 3, 8])
def test_lemma_6_3_the_threshold_is_the_next_score_after_the_top_k(k: int) -> None:
    # With psi the step 1[s > lambda] exactly the K best items count. With the printed plus lambda would fall for ever.
    scores, y = torch.tensor(np.random.default_rng(4).normal(size=(1, 9))), torch.tensor([[3, 1, 0, 2, 0, 1, 0, 1, 2]])
    inclusion = ThresholdInclusion(1, lr=0.2, psi=lambda t: (t > 0).to(t.dtype))
    loss = NDCGLoss(gamma=1.0, surrogate=lambda t: (t >= 0).to(t.dtype) + 0.0 * t, top_k=k, inclusion=inclusion)
    order = torch.argsort(-scores[0]).tolist()[:k]
    expected = -sum((2.0 ** float(y[0, i]) - 1) / math.log2(r + 2) for r, i in enumerate(order)) / lists_z(
        y[0].numpy(), k
    )
    close(loss.eval()(scores, y), expected)
    loss.train().double()
    leaf = scores.clone().requires_grad_()
    for _ in range(400):
        loss(leaf, y, query_index=torch.tensor([0]))
    ranked = torch.sort(scores[0], descending=True).values
    learnt = float(inclusion.dual.memory.values[0])
    step = 0.2 * max((k + 0.5) / 9, 1 - (k + 0.5) / 9)
    assert float(ranked[k]) - step <= learnt <= float(ranked[k]) + step


def test_the_full_gradient_is_that_of_the_bilevel_problem() -> None:
    # Differences of F(w, lambda(w)), with lambda(w) solved by bisection at each w.
    rng = np.random.default_rng(5)
    x, y, w0, k, eps, mu, rho, t = (
        rng.normal(size=(7, D)),
        [2, 0, 1, 0, 0, 3, 0],
        rng.normal(size=D),
        2,
        0.5,
        0.8,
        0.1,
        0.6,
    )

    def threshold(s: np.ndarray) -> float:
        low, high = -50.0, 50.0
        for _ in range(200):
            at = (low + high) / 2
            fall = (k + eps) / 7 + rho * at - np.mean(np.clip((s - at) / mu, 0, 1))
            low, high = (low, at) if fall > 0 else (at, high)
        return at

    def objective(w: np.ndarray) -> float:
        s, total = x @ w, 0.0
        for i in range(7):
            if y[i]:
                u = np.mean([sigmoid(s[j] - s[i]) for j in range(7)])
                total += sigmoid((s[i] - threshold(s)) / t) * f(u, y[i], 7, lists_z(np.array(y), k))
        return total

    differences = [(objective(w0 + h) - objective(w0 - h)) / 2e-5 for h in 1e-5 * np.eye(D)]
    found = {}
    for full in (True, False):
        inclusion = ThresholdInclusion(
            1, lr=0.5, temperature=t, eps=eps, smoothing=mu, regularisation=rho, full_gradient=full, gamma=0.5
        )
        loss = NDCGLoss(gamma=1.0, surrogate=PAIRS["sigmoid"].library, top_k=k, inclusion=inclusion).double()
        w = linear(w0)
        for _ in range(500):
            value = loss((torch.tensor(x) @ w)[None], torch.tensor([y]), query_index=torch.tensor([0]))
        close(inclusion.dual.memory.values[0], threshold(x @ w0), rtol=1e-7)
        close(value, objective(w0), rtol=1e-7)
        found[full] = torch.autograd.grad(value, w)[0].numpy()
    np.testing.assert_allclose(found[True], differences, rtol=1e-5, atol=1e-8)
    assert np.abs(found[False] - differences).max() > 1e-2


def test_strata_stand_for_the_items_that_were_not_drawn() -> None:
    # Item i is itself; the other relevant items stand for R - 1, the others for N - R; the sum over the drawn for all R.
    rng, n, r = np.random.default_rng(7), 40.0, 9.0
    s, y = torch.tensor(rng.normal(size=(1, 7)), requires_grad=True), [2, 1, 3, 0, 0, 0, 0]
    pair, value = PAIRS["squared_hinge"], 0.0
    at = s.detach().numpy()[0]
    for i in range(3):
        own = [pair.value(at[j] - at[i]) for j in range(3) if j != i]
        other = [pair.value(at[j] - at[i]) for j in range(3, 7)]
        rank = pair.value(0.0) + (r - 1) * np.mean(own) + (n - r) * np.mean(other)
        value += r / 3 * (1 - 2.0 ** y[i]) / math.log2(rank + 1) / 25.0
    loss = NDCGLoss(gamma=1.0, stratified=True)
    sizes = {"query_sizes": torch.tensor([n]), "relevant_sizes": torch.tensor([r]), "ideal_dcg": torch.tensor([25.0])}
    close(loss(s, torch.tensor([y]), **sizes), value)


@pytest.mark.parametrize("gamma", [0.3, 1.0])
def test_the_listwise_cross_entropy(gamma: float) -> None:
    lists, average = Lists(), Average(gamma)
    loss, w, hand = ListwiseCrossEntropyLoss(Q * M, gamma).double(), linear(lists.w0), lists.w0.copy()
    optimizer = torch.optim.SGD([w], lr=0.2)
    for queries, mask in lists.draws:
        found = lists.call(loss, w, queries, mask, query_sizes=torch.tensor(lists.size[queries]))
        value, z, pairs = 0.0, np.zeros(D), 0
        for place, q in enumerate(queries):
            items, s, x = [i for i in range(M) if mask[place, i]], lists.x[q] @ hand, lists.x[q]
            for i in [i for i in items if lists.y[q, i] > 0]:
                e = {j: math.exp(s[j] - s[i]) / len(items) for j in items}
                u, pairs = average((q, i), sum(e.values())), pairs + 1
                value += math.log(lists.size[q] * u)
                z = z + sum(e[j] * (x[j] - x[i]) for j in items) / u
        close(found, value / pairs)
        optimizer.zero_grad()
        found.backward()
        close(w.grad, z / pairs)
        optimizer.step()
        hand = hand - 0.2 * z / pairs
    whole = torch.tensor(lists.x[0] @ hand)
    exact = -torch.log_softmax(whole, 0)[torch.tensor(lists.y[0] > 0)].mean()
    close(ListwiseCrossEntropyLoss(gamma=1.0)(whole[None], torch.tensor(lists.y[:1])), exact)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_listwise_cross_entropy_of_large_scores_in_sixty_digits(dtype: torch.dtype) -> None:
    # LibAUC subtracts a maximum that changes from batch to batch from what it remembers.
    loss, rng, history = ListwiseCrossEntropyLoss(3, 0.25).to(dtype), np.random.default_rng(6), []
    for _ in range(4):
        s = torch.tensor(3000 * rng.normal(size=(1, 3))).to(dtype).requires_grad_()
        history.append(s.detach().double().numpy()[0])
        found = loss(s, torch.tensor([[1, 0, 0]]), torch.tensor([[0, 1, 2]]))
        assert torch.isfinite(torch.autograd.grad(found, s)[0]).all()
        expected = exactly(_listwise, history)
        assert float(found.detach()) == pytest.approx(expected, rel=1e-12 if dtype == torch.float64 else 1e-5)


def _listwise(history: list[np.ndarray]) -> Decimal:
    u, g = None, Decimal("0.25")
    for scores in history:
        s = decimals(scores)
        new = sum((each - s[0]).exp() for each in s) / 3
        u = new if u is None else (1 - g) * u + g * new
    return (3 * u).ln()
