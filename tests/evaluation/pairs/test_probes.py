"""The linear probe and the nearest neighbours."""

import math

import pytest
import torch

from guidestar.errors import UserError
from guidestar.evaluation.pairs import knn, linear_probe


def clusters(rows: int, seed: int, distance: float = 6.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(rows) % 3
    return distance * torch.eye(4)[labels] + torch.randn(rows, 4, generator=generator), labels


def test_clusters_are_separated() -> None:
    train, test = clusters(90, 0), clusters(60, 1)
    assert linear_probe(*train, *test) > 0.98
    assert knn(*train, *test) > 0.98


def test_features_of_very_different_size_and_constant_ones_do_no_harm() -> None:
    (train_x, train_y), (test_x, test_y) = clusters(90, 0), clusters(60, 1)
    factors = torch.tensor([1e-4, 1.0, 1e4, 1.0])
    plain = linear_probe(train_x, train_y, test_x, test_y)

    def more(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x * factors, torch.full((len(x), 1), 0.3)], dim=1)

    assert linear_probe(more(train_x), train_y, more(test_x), test_y) == pytest.approx(plain, abs=1e-9)


def test_features_without_information_are_at_chance() -> None:
    generator = torch.Generator().manual_seed(5)
    x, y = torch.randn(400, 8, generator=generator), torch.randint(0, 4, (400,), generator=generator)
    assert 0.1 < linear_probe(x[:200], y[:200], x[200:], y[200:]) < 0.4
    assert 0.1 < knn(x[:200], y[:200], x[200:], y[200:]) < 0.4


def test_the_probe_depends_on_the_seed_alone() -> None:
    train, test = clusters(60, 0, 2.0), clusters(60, 1, 2.0)
    assert linear_probe(*train, *test, seed=3) == linear_probe(*train, *test, seed=3)


def at(*degrees: float) -> torch.Tensor:
    angles = torch.tensor([math.radians(angle) for angle in degrees], dtype=torch.float64)
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def test_votes_are_weighted_by_similarity() -> None:
    # One neighbour of class 0 at 0 degrees against two of class 1 at 60: exp(1/T) against 2 exp(0.5/T).
    train, labels, test, goal = at(0, 60, 60, 180), torch.tensor([0, 1, 1, 0]), at(0), torch.tensor([0])
    break_even = 0.5 / math.log(2)
    assert knn(train, labels, test, goal, k=3, temperature=0.95 * break_even) == 1.0
    assert knn(train, labels, test, goal, k=3, temperature=1.05 * break_even) == 0.0
    assert knn(train, labels, test, goal, k=1, temperature=100.0) == 1.0


def test_a_small_temperature_does_not_overflow() -> None:
    train = at(0, 1, 90)
    assert knn(train, torch.tensor([0, 1, 1]), at(0.1), torch.tensor([0]), temperature=1e-8) == 1.0


def test_length_of_features_does_not_matter_to_knn() -> None:
    train, labels = at(0, 10, 90, 100), torch.tensor([0, 0, 1, 1])
    longer = train * torch.tensor([[0.1], [50.0], [3.0], [0.01]])
    goal = torch.tensor([0, 1])
    assert knn(longer, labels, 7 * at(20, 80), goal, k=2) == knn(train, labels, at(20, 80), goal, k=2) == 1.0


X, Y = torch.eye(6), torch.tensor([0, 1, 0, 1, 0, 1])


def test_bad_input() -> None:
    with pytest.raises(UserError, match="`k` must be at least 1, found 0"):
        knn(X, Y, X, Y, k=0)
    with pytest.raises(UserError, match="`temperature` must be above 0, found 0"):
        knn(X, Y, X, Y, temperature=0)
    with pytest.raises(UserError, match="`train_y` must hold at least 2 classes, found only 1"):
        knn(X, torch.ones_like(Y), X, Y)
    with pytest.raises(UserError, match=r"`train_x` must hold at least 5 rows.*found 4"):
        linear_probe(X[:4], Y[:4], X, Y)
    with pytest.raises(UserError, match="`train_x` and `test_x` must have the same width, found 6 and 5"):
        linear_probe(X, Y, X[:, :5], Y)
    with pytest.raises(UserError, match=r"`test_y` must be \[6\]"):
        linear_probe(X, Y, X, Y[:3])


def test_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "sklearn.exceptions", None)
    with pytest.raises(ImportError, match=r"`linear_probe` needs scikit-learn: pip install 'guidestar\[demo\]'"):
        linear_probe(X, Y, X, Y)
