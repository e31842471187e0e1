"""The losses over pairs of scores against LibAUC's, forward and backward on the same tensors, in one process.

    python -m pip install --no-deps libauc==2.0.1
    python benchmarks/ranking_losses.py [--repeats 9]

Targets: never slower; at least 5 times faster from 1,024 samples on where LibAUC loops in Python, at least 20 times with
100 labels. Both keep their state: guidestar's memory is float32 rows in the module, LibAUC's tensors beside it. Ends with
exit code 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from interleaved import publish
from libauc import losses as libauc
from libauc.losses import auc as libauc_auc
from torch import Tensor

import guidestar as gs

Call = Callable[[], object]
LABELS = (14, 100)
QUERIES = (256, 1024)
RELEVANT, ITEMS = 10, 310


@dataclass(frozen=True)
class Pair:
    """A guidestar loss and LibAUC's for the same objective, on the same input; `target` is the least ratio of their times."""

    name: str
    ours: Call
    theirs: Call
    target: float = 1.0


def step(loss: Callable[..., Tensor], scores: Tensor, *others: object) -> Call:
    """One forward and backward of `loss` on a leaf of its own."""
    leaf = scores.clone().requires_grad_()

    def call() -> None:
        leaf.grad = None
        loss(leaf, *others).backward()

    return call


def binary(count: int) -> list[Pair]:
    """Losses of one label, half of the samples positive."""
    rng = torch.Generator().manual_seed(0)
    scores = torch.randn(count, generator=rng)
    labels = (torch.arange(count) % 2).float()
    index = torch.randperm(count, generator=rng)
    ours, peer = gs.losses, libauc
    # LibAUC counts the positives with Python's sum over a tensor in all of these but AUCM.
    loops = 5.0 if count >= 1024 else 1.0
    n = count
    given = [
        ("AUC, squared hinge", ours.PairwiseAUCLoss(), peer.PairwiseAUCLoss("squared_hinge"), False, loops),
        (
            "AUC, logistic",
            ours.PairwiseAUCLoss(gs.surrogates.logistic),
            peer.PairwiseAUCLoss("logistic"),
            False,
            1.0,
        ),
        ("AUC margin", ours.AUCMarginLoss(), peer.AUCMLoss(version="v2"), False, 1.0),
        ("SOAP", ours.AveragePrecisionLoss(n, gamma=0.9), peer.APLoss(n), True, loops),
        ("SOPA", ours.SOPALoss(n, 0.3), peer.pAUC_CVaR_Loss(n, n // 2, beta=0.3), True, loops),
        ("SOPA-s", ours.SOPAsLoss(n, 1.0, gamma=0.9), peer.pAUC_DRO_Loss(n), True, 1.0),
        ("SOTA-s", ours.SOTAsLoss(n, 1.0, 1.0), peer.tpAUC_KL_Loss(n), True, 1.0),
        ("STACO", ours.STACOLoss(n, 0.5, 0.5), libauc_auc.tpAUC_CVaR_loss(n), True, 1.0),
    ]
    pairs = []
    for name, mine, other, with_index, target in given:
        more = (index,) if with_index else ()
        pairs.append(
            Pair(
                f"{name}, {count}",
                step(mine, scores, labels, *more),
                step(other, scores.reshape(-1, 1), labels.reshape(-1, 1), *more),
                target,
            )
        )
    return pairs


def several(labels: int, count: int = 256) -> list[Pair]:
    """Losses of many labels."""
    rng = torch.Generator().manual_seed(0)
    scores = torch.randn(count, labels, generator=rng)
    truth = (torch.rand(count, labels, generator=rng) < 0.5).float()
    index = torch.randperm(count, generator=rng)
    target = 20.0 if labels == 100 else 1.0
    given = [
        (
            "AUC margin",
            gs.losses.AUCMarginLoss(num_labels=labels),
            libauc.mAUCMLoss(num_labels=labels, version="v2"),
            (),
        ),
        (
            "mAP",
            gs.losses.AveragePrecisionLoss(count, gamma=0.9, num_labels=labels),
            libauc.mAPLoss(count, labels),
            (index,),
        ),
        (
            "SOPA-s",
            gs.losses.SOPAsLoss(count, 1.0, gamma=0.9, num_labels=labels),
            libauc.mPAUCLoss("1w", labels, data_len=count),
            (index,),
        ),
    ]
    return [
        Pair(
            f"{name}, {count} x {labels} labels",
            step(mine, scores, truth, *more),
            step(other, scores, truth, *more),
            target,
        )
        for name, mine, other, more in given
    ]


def queries(count: int) -> list[Pair]:
    """SONG and the listwise cross-entropy, 10 relevant and 300 other items a query."""
    rng = torch.Generator().manual_seed(0)
    scores = torch.randn(count, ITEMS, generator=rng)
    relevance = torch.zeros(count, ITEMS)
    relevance[:, :RELEVANT] = torch.randint(1, 5, (count, RELEVANT), generator=rng).float()
    rows = torch.arange(count * ITEMS).reshape(count, ITEMS)
    sizes, ideal = torch.full((count,), float(ITEMS)), torch.rand(count, generator=rng) * 10 + 1
    batch = {
        "rating": relevance,
        "user_id": torch.arange(count),
        "num_pos_items": torch.full((count,), RELEVANT),
        "ideal_dcg": ideal,
        "user_item_id": rows,
    }
    song = gs.losses.NDCGLoss(count * ITEMS, gamma=0.9)
    listwise = gs.losses.ListwiseCrossEntropyLoss(count * ITEMS, gamma=0.9)
    return [
        Pair(
            f"SONG, {count} queries",
            step(lambda leaf: song(leaf, relevance, rows, query_sizes=sizes, ideal_dcg=ideal), scores),
            step(libauc.NDCGLoss(count * ITEMS, count, ITEMS, RELEVANT), scores, batch),
        ),
        Pair(
            f"listwise cross-entropy, {count} queries",
            step(lambda leaf: listwise(leaf, relevance, rows), scores),
            step(libauc.ListwiseCELoss(count * ITEMS, RELEVANT, 0.9), scores, batch),
        ),
    ]


def medians(pair: Pair, repeats: int) -> tuple[float, float]:
    """Median milliseconds of CPU time of each; the two take turns."""
    taken: tuple[list[float], list[float]] = ([], [])
    for repeat in range(repeats + 1):
        for call, times in zip((pair.ours, pair.theirs), taken, strict=True):
            inner, start = 0, time.process_time()
            while inner == 0 or (time.process_time() - start < 0.02 and inner < 200):
                call()
                inner += 1
            if repeat:
                times.append(1e3 * (time.process_time() - start) / inner)
    return sorted(taken[0])[repeats // 2], sorted(taken[1])[repeats // 2]


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows, good = [], True
    groups = [*(lambda n=n: binary(n) for n in (64, 256, 1024, 4096))]
    groups += [*(lambda n=n: several(n) for n in LABELS), *(lambda n=n: queries(n) for n in QUERIES)]
    for make in groups:
        for pair in make():
            mine, other = medians(pair, arguments.repeats)
            within = other / mine >= pair.target
            good &= within
            numbers = [f"{mine:.2f}", f"{other:.2f}", f"{other / mine:.1f}", f"{pair.target:.0f}"]
            rows.append([pair.name, *numbers, "yes" if within else "NO"])
    publish(
        "ranking_losses_cpu",
        "Losses over pairs of scores, forward and backward, against LibAUC 2.0.1",
        ["loss and size", "guidestar ms", "LibAUC ms", "times faster", "target", "within"],
        rows,
        f"Medians of {arguments.repeats} repeats that take turns; CPU time of the process on one thread. Half of the samples "
        "are positive; memory is kept (gamma = 0.9) where both keep any. LibAUC's first use of its state is not timed.",
    )
    if not good:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
