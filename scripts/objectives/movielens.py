"""MovieLens (ml-latest-small): films for a user, NDCG@10 over all films that the user has not rated before.

A film's relevance is its rating rounded up, 1 to 5, and 0 without a rating. Of each user the last five ratings by time
are for testing and the five before them for validation; the films are those with at least five ratings. The model is a
matrix factorisation: an embedding of each user and of each film, and a bias of each film. Every film without a rating in
the training part is a candidate; the sampler does not know the ratings that are held out.

The lists are far too long for a step, so `QuerySampler` draws parts of them, and the losses remember the rank of each
rated film: this is what SONG and K-SONG are for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

import guidestar as gs
from guidestar.evaluation.ranking import ndcg_at_k
from guidestar.ranking.queries import ideal_dcg
from guidestar.samplers import QuerySampler

from .optimize import descend, endless
from .study import Metric, Study

LEAST_RATINGS, HELD_OUT = 5, 5
WIDTH, STD = 32, 0.1
USERS, RELEVANT, OTHERS = 32, 8, 56
STEPS, WEIGHT_DECAY = 1200, 1.0
RATES = (0.01, 0.03)
GAMMA, TOP = 0.5, 10
TITLES = {
    "popularity": "most ratings first",
    "pointwise": "pointwise regression",
    "bpr": "BPR (pairwise logistic)",
    "listwise": "ListwiseCrossEntropyLoss",
    "song": "NDCGLoss (SONG)",
    "song_stratified": "SONG, stratified",
    "listwise_song": "listwise, then SONG",
    "ksong_rank": "listwise, then K-SONG by rank",
    "ksong_threshold": "listwise, then K-SONG by threshold",
}
METRICS = {"ndcg10": Metric("NDCG@10"), "ndcg50": Metric("NDCG@50"), "ndcg": Metric("NDCG")}


@dataclass(frozen=True)
class Task:
    """Ratings as matrices `[users, films]`, 0 where there is none; `sitting`: see `_facts`."""

    train: Tensor
    valid: Tensor
    test: Tensor
    sitting: float = 0.0

    @cached_property
    def sampler_rows(self) -> tuple[np.ndarray, np.ndarray]:
        """User and relevance of each row; row u * films + i is the pair of user u and film i."""
        users, films = self.train.shape
        return np.repeat(np.arange(users), films), self.train.flatten().numpy()

    @cached_property
    def ideal(self) -> Tensor:
        """Z of each user, from the whole list."""
        return ideal_dcg(self.train).float()

    @cached_property
    def ideal_top(self) -> Tensor:
        """Z of each user for the first places alone."""
        return ideal_dcg(self.train, TOP).float()

    @cached_property
    def relevant(self) -> Tensor:
        """Rated films of each user."""
        return (self.train > 0).sum(1).float()

    def judge(self, scores: Tensor) -> dict[str, Any]:
        """What a training gives, from the scores of all pairs."""
        unseen = self.train == 0
        valid = ndcg_at_k(scores, self.valid, mask=unseen, k=10).mean
        unseen = unseen & (self.valid == 0)
        cuts = {"ndcg10": 10, "ndcg50": 50, "ndcg": None}
        test = {name: ndcg_at_k(scores, self.test, mask=unseen, k=k).mean for name, k in cuts.items()}
        return {"valid": valid, "test": test}


def load(data: Path, seed: int) -> Task:
    """The set; the split is by time, so it is the same for every seed."""
    with np.load(data / "movielens_small" / "ml_latest_small.npz") as z:
        user, film, rating, when = (z[key] for key in ("user", "movie", "rating", "timestamp"))
    _, film, counts = np.unique(film, return_inverse=True, return_counts=True)
    kept = counts[film] >= LEAST_RATINGS
    _, film = np.unique(film[kept], return_inverse=True)
    _, user = np.unique(user[kept], return_inverse=True)
    order = np.lexsort((film, when[kept], user))
    user, film, rating = user[order], film[order], np.ceil(rating[kept][order])
    sizes = np.bincount(user)
    from_end = np.cumsum(sizes)[user] - 1 - np.arange(len(user))
    parts = []
    for part in (from_end >= 2 * HELD_OUT, (from_end >= HELD_OUT) & (from_end < 2 * HELD_OUT), from_end < HELD_OUT):
        matrix = torch.zeros(len(sizes), int(film.max()) + 1)
        matrix[torch.from_numpy(user[part]), torch.from_numpy(film[part])] = torch.from_numpy(rating[part])
        parts.append(matrix)
    # Users whose held-out ratings were all entered within an hour: their order says little.
    ends = np.cumsum(sizes) - 1
    seconds = when[kept][order]
    sitting = seconds[ends] - seconds[ends - 2 * HELD_OUT + 1] < 3600
    train, valid, test = parts
    return Task(train, valid, test, float(sitting.mean()))


class Factors(nn.Module):
    """The matrix factorisation."""

    def __init__(self, users: int, films: int) -> None:
        super().__init__()
        self.user, self.film = nn.Embedding(users, WIDTH), nn.Embedding(films, WIDTH)
        self.bias = nn.Parameter(torch.zeros(films))
        for table in (self.user, self.film):
            nn.init.normal_(table.weight, std=STD)

    def forward(self, users: Tensor, films: Tensor) -> Tensor:
        """Scores `[Q, M]` of users `[Q]` and films `[Q, M]`."""
        return (self.film(films) @ self.user(users).unsqueeze(2)).squeeze(2) + self.bias[films]

    @torch.no_grad()
    def everything(self) -> Tensor:
        """Scores of all pairs."""
        return self.user.weight @ self.film.weight.T + self.bias


@dataclass(frozen=True)
class Batch:
    """Part of the lists of some users; each tensor is `[Q, M]` or `[Q]`."""

    users: Tensor
    relevance: Tensor
    rows: Tensor


Objective = Callable[[Tensor, Batch], Tensor]


@dataclass(frozen=True)
class Trained:
    """A factorisation trained with one loss after the other, for an equal number of steps each."""

    make_losses: Callable[[Task], Sequence[Objective]]
    settings: Sequence[float] = RATES

    def fit(self, task: Task, setting: float, seed: int, steps: int = STEPS) -> dict[str, Any]:
        """Train a new model."""
        torch.manual_seed(seed)
        users, films = task.train.shape
        model, losses = Factors(users, films), self.make_losses(task)
        query, relevance = task.sampler_rows
        batches = endless(QuerySampler(query, relevance, USERS, RELEVANT, OTHERS, seed=seed))
        optimizer = torch.optim.AdamW(model.parameters(), lr=setting, weight_decay=WEIGHT_DECAY)

        def objective(step: int) -> Tensor:
            rows = next(batches).view(USERS, -1)
            user = rows[:, 0] // films
            batch = Batch(user, task.train.flatten()[rows], rows)
            return losses[step * len(losses) // steps](model(user, rows % films), batch)

        for _ in descend(optimizer, steps, objective):
            pass
        return task.judge(model.everything())


@dataclass(frozen=True)
class Popularity:
    """The films with the most ratings, the same for everybody."""

    settings: Sequence[float] = (0.0,)

    def fit(self, task: Task, setting: float, seed: int) -> dict[str, Any]:
        """Nothing to train."""
        return task.judge((task.train > 0).sum(0).double().expand(task.train.shape))


def pointwise(task: Task) -> list[Objective]:
    """The mean squared error of the rating, 0 where there is none."""
    return [lambda scores, batch: functional.mse_loss(scores, batch.relevance)]


def bpr(task: Task) -> list[Objective]:
    """Every rated film of a list against every other one that is not rated."""

    def objective(scores: Tensor, batch: Batch) -> Tensor:
        rated = batch.relevance > 0
        pairs = rated.unsqueeze(2) & ~rated.unsqueeze(1)
        return functional.softplus(scores.unsqueeze(1) - scores.unsqueeze(2))[pairs].mean()

    return [objective]


def listwise(task: Task) -> list[Objective]:
    """Pre-training of Section 6.4.4."""
    loss = gs.losses.ListwiseCrossEntropyLoss(task.train.numel(), gamma=GAMMA)
    sizes = torch.full((USERS,), float(task.train.shape[1]))
    return [lambda scores, batch: loss(scores, batch.relevance, batch.rows, query_sizes=sizes)]


def song(task: Task, **options: Any) -> list[Objective]:
    """Eq. 6.34, or 6.36 and 6.37 with `top_k` and `inclusion`."""
    loss = gs.losses.NDCGLoss(task.train.numel(), gamma=GAMMA, **options)
    ideal = task.ideal_top if "top_k" in options else task.ideal
    sizes = torch.full((USERS,), float(task.train.shape[1]))
    return [
        lambda scores, batch: loss(
            scores,
            batch.relevance,
            batch.rows,
            query_sizes=sizes,
            relevant_sizes=task.relevant[batch.users],
            ideal_dcg=ideal[batch.users],
            query_index=batch.users if "top_k" in options else None,
        )
    ]


def k_song_rank(task: Task) -> list[Objective]:
    """Eq. 6.36, after the pre-training; with a smaller temperature the sigmoid is flat at the surrogate of most ranks."""
    temperature = task.train.shape[1] / 4
    return [*listwise(task), *song(task, top_k=TOP, inclusion=gs.losses.RankInclusion(temperature=temperature))]


def k_song_threshold(task: Task) -> list[Objective]:
    """Eq. 6.37, after the pre-training."""
    return [*listwise(task), *song(task, top_k=TOP, inclusion=gs.losses.ThresholdInclusion(len(task.train)))]


def _facts(task: Task) -> dict[str, float]:
    """With `sitting`, the share of users who entered all their held-out ratings within an hour."""
    users, films = task.train.shape
    return {"users": users, "films": films, "ratings": int((task.train > 0).sum()), "sitting": task.sitting}


STUDY = Study(
    "movielens",
    load,
    {
        "popularity": Popularity(),
        "pointwise": Trained(pointwise),
        "bpr": Trained(bpr),
        "listwise": Trained(listwise),
        "song": Trained(song),
        "song_stratified": Trained(lambda task: song(task, stratified=True)),
        "listwise_song": Trained(lambda task: [*listwise(task), *song(task)]),
        "ksong_rank": Trained(k_song_rank),
        "ksong_threshold": Trained(k_song_threshold),
    },
    _facts,
)
