"""LightGBM's learning-to-rank set: NDCG of whole lists, against boosted trees.

201 queries with 300 features a document are for training (a fifth of them, drawn by the seed, for validation) and 50 for
testing. A network with one hidden layer scores the documents; lists are whole, so the losses keep no memory.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

import guidestar as gs
from guidestar.evaluation.ranking import ndcg_at_k

from .optimize import descend, shuffled
from .study import Metric, Study

VALIDATION = 40
QUERIES, STEPS = 23, 210
HIDDEN, WEIGHT_DECAY, DROPOUT = 64, 1e-3, 0.3
TOP = 10
RATES = (0.001, 0.003, 0.01)
TREE_RATES = (0.03, 0.1, 0.3)
TREES = 100
TITLES = {
    "pointwise": "pointwise regression",
    "listwise": "ListwiseCrossEntropyLoss",
    "song": "NDCGLoss (SONG)",
    "listwise_song": "listwise, then SONG",
    "ksong_rank": "K-SONG, RankInclusion",
    "ksong_threshold": "K-SONG, ThresholdInclusion",
    "lightgbm": "LightGBM lambdarank",
    "xgboost": "XGBoost rank:ndcg",
}
METRICS = {"ndcg5": Metric("NDCG@5"), "ndcg10": Metric("NDCG@10"), "ndcg": Metric("NDCG")}


@dataclass(frozen=True)
class Lists:
    """Lists of documents, padded to the longest: `x` `[Q, M, d]`, `relevance` and `mask` `[Q, M]`."""

    x: Tensor
    relevance: Tensor
    mask: Tensor

    @classmethod
    def of(cls, x: np.ndarray, relevance: np.ndarray, sizes: Sequence[int]) -> Lists:
        """From documents in the order of the queries."""
        parts = torch.split(torch.from_numpy(x), list(sizes)), torch.split(torch.from_numpy(relevance), list(sizes))
        padded = [nn.utils.rnn.pad_sequence(list(part), batch_first=True) for part in parts]
        mask = torch.arange(max(sizes)) < torch.tensor(list(sizes)).unsqueeze(1)
        return cls(padded[0], padded[1], mask)

    def rows(self, which: Tensor) -> Lists:
        """Some of the lists."""
        return Lists(self.x[which], self.relevance[which], self.mask[which])

    def metrics(self, scores: Tensor) -> dict[str, float]:
        """NDCG of `scores` `[Q, M]`."""
        cuts = {"ndcg5": 5, "ndcg10": 10, "ndcg": None}
        return {name: ndcg_at_k(scores, self.relevance, mask=self.mask, k=k).mean for name, k in cuts.items()}


@dataclass(frozen=True)
class Task:
    """The three parts."""

    train: Lists
    valid: Lists
    test: Lists

    def judge(self, scores: Callable[[Lists], Tensor]) -> dict[str, Any]:
        """What a training gives."""
        return {"valid": self.valid.metrics(scores(self.valid))["ndcg10"], "test": self.test.metrics(scores(self.test))}


def load(data: Path, seed: int) -> Task:
    """The set, standardised by the training documents."""
    with np.load(data / "ltr_lightgbm" / "rank.npz") as z:
        mean, spread = z["x_train"].mean(0), z["x_train"].std(0) + 1e-6
        train, test = (
            Lists.of((z[f"x_{part}"] - mean) / spread, z[f"y_{part}"].astype(np.float32), z[f"q_{part}"].tolist())
            for part in ("train", "test")
        )
    order = torch.randperm(len(train.mask), generator=torch.Generator().manual_seed(seed))
    return Task(train.rows(order[VALIDATION:]), train.rows(order[:VALIDATION]), test)


Objective = Callable[[Tensor, Lists, Tensor], Tensor]


@dataclass(frozen=True)
class Network:
    """A network trained with `make_losses`: one after the other, for an equal number of steps each."""

    make_losses: Callable[[int], Sequence[Objective]]
    settings: Sequence[float] = RATES

    def fit(self, task: Task, setting: float, seed: int) -> dict[str, Any]:
        """Train a new network."""
        torch.manual_seed(seed)
        width = task.train.x.shape[-1]
        model = nn.Sequential(nn.Linear(width, HIDDEN), nn.ReLU(), nn.Dropout(DROPOUT), nn.Linear(HIDDEN, 1))
        losses = self.make_losses(len(task.train.mask))
        batches = shuffled(len(task.train.mask), QUERIES, seed)
        optimizer = torch.optim.Adam(model.parameters(), lr=setting, weight_decay=WEIGHT_DECAY)

        def objective(step: int) -> Tensor:
            rows = next(batches)
            part = task.train.rows(rows)
            return losses[step * len(losses) // STEPS](model(part.x).squeeze(-1), part, rows)

        for _ in descend(optimizer, STEPS, objective):
            pass
        model.eval()
        with torch.no_grad():
            return task.judge(lambda part: model(part.x).squeeze(-1))


@dataclass(frozen=True)
class Trees:
    """Boosted trees with their defaults; the shrinkage is tuned."""

    package: str
    settings: Sequence[float] = TREE_RATES

    def fit(self, task: Task, setting: float, seed: int) -> dict[str, Any]:
        """Fit on the training lists."""
        x, y, sizes = task.train.x[task.train.mask], task.train.relevance[task.train.mask], task.train.mask.sum(1)
        predict = self._fitted(x.numpy(), y.numpy(), sizes.numpy(), setting, seed)

        def scores(part: Lists) -> Tensor:
            found = torch.zeros(part.mask.shape, dtype=torch.float64)
            found[part.mask] = torch.from_numpy(np.asarray(predict(part.x[part.mask].numpy()), dtype=np.float64))
            return found

        return task.judge(scores)

    def _fitted(
        self, x: np.ndarray, y: np.ndarray, sizes: np.ndarray, rate: float, seed: int
    ) -> Callable[[np.ndarray], Any]:
        try:
            package: Any = importlib.import_module(self.package)
        except ImportError as error:
            raise ImportError(f"The trees need {self.package}: pip install 'guidestar[peers]'.") from error
        if self.package == "lightgbm":
            options = {"objective": "lambdarank", "learning_rate": rate, "seed": seed, "num_threads": 1, "verbose": -1}
            return package.train(options, package.Dataset(x, y, group=sizes), num_boost_round=TREES).predict
        matrix = package.DMatrix(x, y)
        matrix.set_group(sizes)
        options = {"objective": "rank:ndcg", "eta": rate, "seed": seed, "nthread": 1}
        forest = package.train(options, matrix, num_boost_round=TREES)
        return lambda documents: forest.predict(package.DMatrix(documents))


def pointwise(scores: Tensor, part: Lists, rows: Tensor) -> Tensor:
    """The mean squared error of the relevance."""
    return functional.mse_loss(scores[part.mask], part.relevance[part.mask])


def listwise(queries: int) -> list[Objective]:
    """Pre-training of Section 6.4.4."""
    loss = gs.losses.ListwiseCrossEntropyLoss(gamma=1.0)
    return [lambda scores, part, rows: loss(scores, part.relevance, mask=part.mask)]


def song(queries: int) -> list[Objective]:
    """Eq. 6.34 on whole lists."""
    loss = gs.losses.NDCGLoss(gamma=1.0)
    return [lambda scores, part, rows: loss(scores, part.relevance, mask=part.mask)]


def k_song_rank(queries: int) -> list[Objective]:
    """Eq. 6.36."""
    loss = gs.losses.NDCGLoss(gamma=1.0, top_k=TOP, inclusion=gs.losses.RankInclusion(temperature=TOP))
    return [lambda scores, part, rows: loss(scores, part.relevance, mask=part.mask)]


def k_song_threshold(queries: int) -> list[Objective]:
    """Eq. 6.37."""
    loss = gs.losses.NDCGLoss(gamma=1.0, top_k=TOP, inclusion=gs.losses.ThresholdInclusion(queries))
    return [lambda scores, part, rows: loss(scores, part.relevance, mask=part.mask, query_index=rows)]


def _facts(task: Task) -> dict[str, float]:
    relevant = float((task.train.relevance[task.train.mask] > 0).float().mean())
    sizes = {name: len(getattr(task, name).mask) for name in ("train", "valid", "test")}
    return {**sizes, "relevant": relevant}


STUDY = Study(
    "ltr",
    load,
    {
        "pointwise": Network(lambda queries: [pointwise]),
        "listwise": Network(listwise),
        "song": Network(song),
        "listwise_song": Network(lambda queries: [*listwise(queries), *song(queries)]),
        "ksong_rank": Network(k_song_rank),
        "ksong_threshold": Network(k_song_threshold),
        "lightgbm": Trees("lightgbm"),
        "xgboost": Trees("xgboost"),
    },
    _facts,
)
