"""Batches of positives and negatives, and the lines of Alg. 28 to 32, one pair after the other."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from guidestar.losses.base import Loss
from guidestar.ranking import entropic, rows, sides, tiles

TIGHT = {"rtol": 1e-10, "atol": 1e-10}
SAMPLES = 12  # the first five are positives


@dataclass
class Draw:
    """Some of the samples, their scores (a float64 leaf) and labels."""

    index: list[int]
    scores: Tensor
    labels: Tensor

    @property
    def positives(self) -> list[int]:
        return [place for place, label in enumerate(self.labels.tolist()) if label == 1]

    @property
    def negatives(self) -> list[int]:
        return [place for place, label in enumerate(self.labels.tolist()) if label == 0]

    def pair(self, surrogate: Callable[[Tensor], Tensor], i: int, j: int) -> Tensor:
        """l(s_j - s_i)."""
        return surrogate(self.scores[j] - self.scores[i])

    def call(self, loss: Loss) -> Tensor:
        return loss(self.scores, self.labels, torch.tensor(self.index))


def draws(steps: int = 5, seed: int = 0) -> list[Draw]:
    """Batches of two to four positives and four negatives, in any order."""
    rng = torch.Generator().manual_seed(seed)
    made = []
    for step in range(steps):
        positives = torch.randperm(5, generator=rng)[: 2 + step % 3]
        negatives = 5 + torch.randperm(SAMPLES - 5, generator=rng)[:4]
        index = torch.cat([positives, negatives])
        index = index[torch.randperm(len(index), generator=rng)]
        scores = torch.randn(len(index), generator=rng, dtype=torch.float64).requires_grad_()
        made.append(Draw(index.tolist(), scores, (index < 5).long()))
    return made


def mixed(memory: dict[int, float], row: int, new: float, gamma: float) -> float:
    """The average of a row after a step; the estimate itself on the first visit."""
    memory[row] = new if row not in memory else (1 - gamma) * memory[row] + gamma * new
    return memory[row]


def mean_exp(draw: Draw, surrogate: Callable[[Tensor], Tensor], i: int, tau: float) -> float:
    """The mean over the negatives of exp(l / tau)."""
    exponents = [float(draw.pair(surrogate, i, j).detach()) / tau for j in draw.negatives]
    return sum(math.exp(exponent) for exponent in exponents) / len(exponents)


def estimator(draw: Draw, surrogate: Callable[[Tensor], Tensor], weights: dict[tuple[int, int], float]) -> Tensor:
    """The gradient of the sum of weights p_ij times l(s_j - s_i), by the scores."""
    total = draw.scores.sum() * 0
    for (i, j), weight in weights.items():
        total = total + weight * draw.pair(surrogate, i, j)
    return torch.autograd.grad(total, draw.scores)[0]


def check_step(found: Tensor, draw: Draw, value: float, gradient: Tensor) -> None:
    """The loss's number and its gradient are those."""
    torch.testing.assert_close(found.detach(), torch.tensor(value, dtype=torch.float64), **TIGHT)
    torch.testing.assert_close(torch.autograd.grad(found, draw.scores)[0], gradient, **TIGHT)


def check_same(found: Tensor, expected: Tensor, scores: Tensor) -> None:
    """Two expressions have the same value and gradient."""
    torch.testing.assert_close(found.detach(), expected.detach(), **TIGHT)
    gradients = [torch.autograd.grad(each, scores, retain_graph=True)[0] for each in (found, expected)]
    torch.testing.assert_close(*gradients, **TIGHT)


def labelled(seed: int, labels: int = 3, size: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    """Scores `[size, labels]` (a float64 leaf), labels with missing entries, and sample numbers."""
    rng = torch.Generator().manual_seed(seed)
    scores = torch.randn(size, labels, generator=rng, dtype=torch.float64).requires_grad_()
    truth = (torch.rand(size, labels, generator=rng) < 0.4).double()
    truth[0], truth[1] = 1.0, 0.0
    truth[2, 1] = float("nan")
    return scores, truth, torch.randperm(SAMPLES, generator=rng)[:size]


def check_labels_are_losses_of_their_own(many: Loss, single: Callable[[], Loss], labels: int = 3) -> None:
    """A loss over several labels is the mean of as many losses over one label with memories of their own."""
    singles = [single().double() for _ in range(labels)]
    many = many.double()
    for seed in range(4):
        scores, truth, index = labelled(seed, labels)
        if seed == 2:
            truth[:, 2] = 0.0  # one class only: this label counts in no mean and its memory stays
        values = []
        for label, loss in enumerate(singles):
            known = ~truth[:, label].isnan()
            value = loss(scores[known, label], truth[known, label], index[known])
            values += [value] if seed != 2 or label != 2 else []
        check_same(many(scores, truth, index), torch.stack(values).mean(), scores)
    assert int(many.empty.count) == sum(int(loss.empty.count) for loss in singles) == 1
    for name, values in many.state_dict().items():
        if name.endswith("values"):
            parts = torch.stack([loss.state_dict()[name] for loss in singles], dim=1)
            torch.testing.assert_close(values, parts.reshape(values.shape), **TIGHT)


def check_one_class_only(make: Callable[[], Loss]) -> None:
    """A batch of one class is a zero in the graph, counted, and nothing is written; a NaN is not hidden in it."""
    loss = make().double()
    draw = draws(1)[0]
    draw.call(loss)
    before = {name: value.clone() for name, value in loss.state_dict().items()}
    for kind in (0, 1):
        labels = torch.full_like(draw.labels, kind)
        scores = draw.scores.detach().clone().requires_grad_()
        found = loss(scores, labels, torch.tensor(draw.index))
        found.backward()
        assert float(found.detach()) == 0
        assert torch.equal(scores.grad, torch.zeros_like(scores))
        assert int(loss.empty.count) == 1 + kind
        poisoned = torch.where(torch.arange(len(scores)) == 0, float("nan"), draw.scores.detach())
        assert make()(poisoned.requires_grad_(), labels, torch.tensor(draw.index)).isnan()
    for name, value in loss.state_dict().items():
        assert name.endswith("count") or torch.equal(value, before[name])
    assert loss.metrics()["empty"] == 2


def check_evaluation(loss: Loss, other: Loss) -> None:
    """Trained, then evaluated on other data without an index: the value of `other`, and nothing is written."""
    loss, other = loss.double(), other.double()
    for draw in draws(3):
        draw.call(loss)
    before = {name: value.clone() for name, value in loss.state_dict().items()}
    draw = draws(1, seed=9)[0]
    with torch.no_grad():
        quiet = loss(draw.scores, draw.labels)
    found = loss.eval()(draw.scores, draw.labels)
    assert torch.equal(quiet, found.detach())
    check_same(found, other.eval()(draw.scores, draw.labels), draw.scores)
    assert all(torch.equal(value, before[name]) for name, value in loss.state_dict().items())


def set_paths(monkeypatch, path: str) -> None:
    """Pairs as a matrix, by the forms for hinges (as tiles for the other surrogates), or as tiles."""
    huge = (1 << 60, 1 << 60)
    monkeypatch.setattr(rows, "CLOSED_FROM", (0, 0) if path == "closed" else huge)
    monkeypatch.setattr(sides, "FUSED_FROM", 0 if path == "closed" else huge[0])
    monkeypatch.setattr(rows, "TILES_FROM", huge if path == "matrix" else (0, 0))
    monkeypatch.setattr(tiles, "TILE", (8, 8))
    monkeypatch.setattr(entropic, "TILE", (8, 8))
