"""Cases of the losses over queries with lists of items: an entry of a batch is a query."""

from __future__ import annotations

import torch
from guidestar_contract_cases import ROWS, Batch, Case, generator

from guidestar.losses import ListwiseCrossEntropyLoss, NDCGLoss, RankInclusion, ThresholdInclusion

ITEMS = 5


def queries(seed: int) -> Batch:
    """Six of the `ROWS` queries, each with five items of which the first is relevant, others by chance."""
    rng = generator(seed)
    relevance = torch.randint(3, (6, ITEMS), generator=rng)
    relevance[:, 0] = 1 + seed % 3
    rows = torch.randperm(ROWS, generator=rng)[:6]
    index = rows.unsqueeze(1) * ITEMS + torch.arange(ITEMS)
    return Batch(torch.randn(6, ITEMS, generator=rng), {"relevance": relevance, "index": index})


def whole(seed: int) -> Batch:
    """The same without rows."""
    batch = queries(seed)
    return Batch(batch.values, {"relevance": batch.extra["relevance"]})


def sampled(seed: int) -> Batch:
    """The same as samples of longer lists."""
    sizes = torch.arange(6) + 20
    return queries(seed).with_extra(query_sizes=sizes, relevant_sizes=sizes // 3, ideal_dcg=0.5 * sizes)


def sized(seed: int) -> Batch:
    """The same as samples of longer lists, of which the loss needs the sizes only."""
    return queries(seed).with_extra(query_sizes=torch.arange(6) + 20)


def thresholds(seed: int) -> Batch:
    """The same, and the rows of the queries."""
    batch = queries(seed)
    return batch.with_extra(query_index=batch.extra["index"][:, 0] // ITEMS)


PAIR_BYTES = 4 * ROWS * ITEMS
MEMORY = {"num_rows": ROWS * ITEMS, "gamma": 0.5}


def ndcg(label: str, batch, row_bytes: int = PAIR_BYTES, **settings) -> Case:
    """A case of `NDCGLoss`; `settings` gives its arguments when called."""
    make = settings.pop("inclusion", lambda: None)
    return Case(
        NDCGLoss, label, lambda: NDCGLoss(**{**MEMORY, **settings}, inclusion=make()), batch, row_bytes=row_bytes
    )


CASES = [
    ndcg("song", queries),
    ndcg("whole lists", whole, 0, gamma=1.0),
    ndcg("sampled lists", sampled),
    ndcg("stratified", sampled, stratified=True),
    ndcg("over pairs", queries, over_pairs=True),
    ndcg("rank", queries, top_k=2, inclusion=lambda: RankInclusion(3.0)),
    ndcg(
        "threshold",
        thresholds,
        PAIR_BYTES + 4 * ROWS,
        top_k=2,
        inclusion=lambda: ThresholdInclusion(ROWS, lr=0.25),
    ),
    ndcg(
        "threshold, full gradient",
        thresholds,
        PAIR_BYTES + 8 * ROWS,
        top_k=2,
        inclusion=lambda: ThresholdInclusion(
            ROWS, lr=0.25, smoothing=0.5, regularisation=0.25, full_gradient=True, gamma=0.5
        ),
    ),
    Case(ListwiseCrossEntropyLoss, "", lambda: ListwiseCrossEntropyLoss(ROWS * ITEMS, 0.5), queries, PAIR_BYTES),
    Case(ListwiseCrossEntropyLoss, "sampled lists", lambda: ListwiseCrossEntropyLoss(gamma=1.0), sized, 0),
]
