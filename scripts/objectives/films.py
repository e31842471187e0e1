"""IMDB reviews with films as groups: the shape of Figure 6.6 of the book, and what it gives on other reviews.

A film with at least 20 reviews is a group. Its reviews are dealt out to a training (60 %), a validation (20 %) and a test
part by the seed, so every film is in every part. A review is a hashed bag of words with tf-idf weights, the model a
logistic regression. The objective is (6.17) divided by alpha: the mean over the tenth of the films with the largest mean
loss, and a regulariser, without which a linear model of so many features could fit every film.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from guidestar.evaluation.groups import per_group

from .groups import SGD_RATES, Inner, Trained, methods, squared_norm
from .study import Metric, Study

LEAST_REVIEWS, FEATURES = 20, 4096
PARTS = (0.6, 0.2)
ALPHA, L2 = 0.1, 3e-4
GROUPS, SAMPLES, STEPS, EVERY = 4, 64, 1500, 100
#: A row of tf-idf has norm 1, so plain SGD needs large steps.
LARGE_SGD_RATES = (0.1, 0.5, 2.0)
LARGE_ADAM_RATES = (0.01, 0.03, 0.1)
#: Each the best of three by the training objective of seed 0 at the middle learning rate: 0.03, 0.3, 3 for the weights of
#: `OnlineGroupDROLoss`, 0.0005, 0.005, 0.05 for those of `PrimalDualGroupDROLoss`, 0.02, 0.05, 0.15 for nu, 0.1, 1, 10 for
#: the dual variables of ALEXR.
INNER = Inner(online=0.3, primal_dual=0.005, nu=0.02, alexr=10.0)
SHOWN = ("erm", "online", "primal_dual", "sonx", "sonex", "alexr")
METRICS = {
    "objective": Metric("training objective", higher=False, percent=False),
    "worst_loss": Metric("test loss, worst tenth", higher=False, percent=False),
    "worst_accuracy": Metric("test accuracy, worst tenth"),
    "accuracy": Metric("test accuracy"),
}


@dataclass(frozen=True)
class Part:
    """Reviews as a sparse matrix `x` `[n, d]`, labels `y` and film numbers `group`."""

    x: Any
    y: Tensor
    group: Tensor

    def losses(self, model: nn.Linear) -> Tensor:
        """The loss of each review, without gradient."""
        return functional.binary_cross_entropy_with_logits(self._scores(model), self.y, reduction="none")

    def right(self, model: nn.Linear) -> Tensor:
        """Whether each review is on the right side."""
        return ((self._scores(model) > 0) == (self.y > 0)).float()

    def _scores(self, model: nn.Linear) -> Tensor:
        weight, bias = model.weight.detach()[0].numpy(), float(model.bias.detach())
        return torch.from_numpy(self.x @ weight) + bias


@dataclass(frozen=True)
class Task:
    """The three parts, and the sizes of a step."""

    train: Part
    valid: Part
    test: Part
    alpha: float = ALPHA
    groups_per_batch: int = GROUPS
    samples_per_group: int = SAMPLES
    l2: float = L2
    steps: int = STEPS
    every: int = EVERY

    @cached_property
    def num_groups(self) -> int:
        """Films."""
        return int(self.train.group.max()) + 1

    @property
    def group(self) -> Tensor:
        """The film of each training review."""
        return self.train.group

    def network(self) -> nn.Module:
        """A logistic regression that starts at zero."""
        model = nn.Linear(self.train.x.shape[1], 1)
        nn.init.zeros_(model.weight)
        nn.init.zeros_(model.bias)
        return model

    def losses(self, predict: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
        """The losses of some training reviews."""
        x = torch.from_numpy(self.train.x[rows.numpy()].toarray())
        return functional.binary_cross_entropy_with_logits(predict(x).squeeze(1), self.train.y[rows], reduction="none")

    def look(self, model: nn.Module) -> float:
        """The objective over all training reviews, (6.17) divided by alpha."""
        with torch.no_grad():
            regulariser = L2 / 2 * float(squared_norm(model))
        losses = self.train.losses(model)  # pyright: ignore[reportArgumentType]
        return worst_mean(losses, self.train.group, ALPHA) + regulariser

    def judge(self, model: nn.Module) -> dict[str, Any]:
        """The figure compares how well the training objective is minimised, so the learning rate is chosen by it."""
        objective = self.look(model)
        losses, right = self.test.losses(model), self.test.right(model)  # pyright: ignore[reportArgumentType]
        test = {
            "objective": objective,
            "worst_loss": worst_mean(losses, self.test.group, ALPHA),
            "worst_accuracy": 1.0 - worst_mean(1.0 - right, self.test.group, ALPHA),
            "accuracy": float(right.mean()),
        }
        return {"valid": -objective, "test": test}


def worst_mean(losses: Tensor, group: Tensor, alpha: float) -> float:
    """CVaR of the groups' means: the mean over the worst share alpha of the groups, a fraction of one at the boundary.

    Example:
        >>> worst_mean(torch.tensor([1.0, 3.0, 8.0]), torch.tensor([0, 0, 1]), 0.5)
        8.0
    """
    means = np.sort(np.array(list(per_group(losses, group)["mean"].values())))[::-1]
    count = alpha * len(means)
    weights = np.clip(count - np.arange(len(means)), 0.0, 1.0)
    return float(weights @ means / count)


def load(data: Path, seed: int) -> Task:
    """The films with enough reviews."""
    try:
        from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
    except ImportError as error:
        raise ImportError("The films need scikit-learn: pip install 'guidestar[peers]'.") from error
    with gzip.open(data / "imdb_reviews" / "imdb_50k.jsonl.gz", "rt", encoding="utf-8") as stream:
        reviews = [json.loads(line) for line in stream]
    _, film, counts = np.unique([review["movie"] for review in reviews], return_inverse=True, return_counts=True)
    kept = np.flatnonzero(counts[film] >= LEAST_REVIEWS)
    _, film = np.unique(film[kept], return_inverse=True)
    hashing: Any = HashingVectorizer
    counted = hashing(n_features=FEATURES, alternate_sign=False, norm=None, stop_words="english").transform(
        reviews[row]["text"] for row in kept
    )
    part = _deal(film, seed)
    x: Any = TfidfTransformer(sublinear_tf=True).fit(counted[part == 0]).transform(counted)
    x = x.astype(np.float32).tocsr()
    y = torch.tensor([float(reviews[row]["label"]) for row in kept])
    found = []
    for number in range(3):
        rows = np.flatnonzero(part == number)
        found.append(Part(x[rows], y[rows], torch.from_numpy(film[rows])))
    return Task(*found)


def _deal(film: np.ndarray, seed: int) -> np.ndarray:
    """The part of each review; every film gives to each."""
    shuffled = np.random.default_rng(seed).permutation(len(film))
    order = shuffled[np.argsort(film[shuffled], kind="stable")]
    sizes = np.bincount(film)
    place = np.arange(len(film)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    part = np.empty(len(film), dtype=np.int64)
    part[order] = np.digitize((place + 0.5) / np.repeat(sizes, sizes), np.cumsum(PARTS))
    return part


def _larger(method: Trained) -> Trained:
    rates = LARGE_SGD_RATES if method.settings == SGD_RATES else LARGE_ADAM_RATES
    return Trained(**{**vars(method), "settings": rates})


def _facts(task: Task) -> dict[str, float]:
    sizes = torch.bincount(task.group)
    return {
        "films": task.num_groups,
        "train": len(task.group),
        "smallest": int(sizes.min()),
        "largest": int(sizes.max()),
        "test_reviews": len(task.test.group) / task.num_groups,
    }


STUDY = Study("films", load, {name: _larger(methods(INNER)[name]) for name in SHOWN}, _facts)
