"""The losses over pairs of scores against LibAUC's, forward and backward on the same tensors, in one process.

    python -m pip install --no-deps libauc==2.0.1
    python benchmarks/ranking_losses.py [--repeats 9]

Targets: never slower; at least 5 times faster from 1,024 samples on where LibAUC loops in Python (over the samples, to
count the positives, in all of its losses of one label but STACO's; and over the labels), at least 20 times with 100
labels; AUC and AP of 65,536 samples in less than 1 GB. Both keep their state: guidestar's memory is float32 rows in the
module, LibAUC's tensors beside it. Ends with exit code 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from interleaved import publish
from libauc import losses as libauc
from libauc.losses import auc as libauc_auc
from libauc.losses.losses import FocalLoss
from libauc.losses.xc import EntLossClassification
from torch import Tensor

import guidestar as gs

Call = Callable[[], object]
LABELS = (14, 100)
QUERIES = (256, 1024)
RELEVANT, ITEMS = 10, 310
#: Samples, and bytes that a step may add to what the process holds.
LARGE, LARGEST_MEMORY = 65_536, 1e9


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
    loops = 5.0 if count >= 1024 else 1.0  # LibAUC counts the positives with Python's sum over a tensor, not in STACO
    n = count
    given = [
        ("AUC, squared hinge", ours.PairwiseAUCLoss(), peer.PairwiseAUCLoss("squared_hinge"), False, loops),
        (
            "AUC, logistic",
            ours.PairwiseAUCLoss(gs.surrogates.logistic),
            peer.PairwiseAUCLoss("logistic"),
            False,
            loops,
        ),
        ("AUC margin", ours.AUCMarginLoss(), peer.AUCMLoss(version="v2"), False, loops),
        ("SOAP", ours.AveragePrecisionLoss(n, gamma=0.9), peer.APLoss(n), True, loops),
        ("SOPA", ours.SOPALoss(n, 0.3), peer.pAUC_CVaR_Loss(n, n // 2, beta=0.3), True, loops),
        ("SOPA-s", ours.SOPAsLoss(n, 1.0, gamma=0.9), peer.pAUC_DRO_Loss(n), True, loops),
        ("SOTA-s", ours.SOTAsLoss(n, 1.0, 1.0), peer.tpAUC_KL_Loss(n), True, loops),
        ("STACO", ours.STACOLoss(n, 0.5, 0.5), libauc_auc.tpAUC_CVaR_loss(n), True, 1.0),
        ("focal", ours.FocalLoss(2.0, 0.25), FocalLoss(), False, 1.0),
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
    """SONG, K-SONG and the listwise cross-entropy, 10 relevant and 300 other items a query."""
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
    users = torch.arange(count)
    inclusion = gs.losses.ThresholdInclusion(
        count, lr=0.01, temperature=0.5, smoothing=0.01, regularisation=1e-4, full_gradient=True
    )
    k_song = gs.losses.NDCGLoss(count * ITEMS, gamma=0.9, top_k=RELEVANT, inclusion=inclusion)
    listwise = gs.losses.ListwiseCrossEntropyLoss(count * ITEMS, gamma=0.9)
    return [
        Pair(
            f"SONG, {count} queries",
            step(lambda leaf: song(leaf, relevance, rows, query_sizes=sizes, ideal_dcg=ideal), scores),
            step(libauc.NDCGLoss(count * ITEMS, count, ITEMS, RELEVANT), scores, batch),
        ),
        Pair(
            f"K-SONG, {count} queries",
            step(
                lambda leaf: k_song(leaf, relevance, rows, query_sizes=sizes, ideal_dcg=ideal, query_index=users),
                scores,
            ),
            step(libauc.NDCGLoss(count * ITEMS, count, ITEMS, RELEVANT, topk=RELEVANT), scores, batch),
        ),
        Pair(
            f"listwise cross-entropy, {count} queries",
            step(lambda leaf: listwise(leaf, relevance, rows), scores),
            step(libauc.ListwiseCELoss(count * ITEMS, RELEVANT, 0.9), scores, batch),
        ),
    ]


def classes(count: int = 256) -> list[Pair]:
    """Extreme classification: samples against the classes of all samples of the batch."""
    rng = torch.Generator().manual_seed(0)
    logits, index = torch.randn(count, count, generator=rng), torch.randperm(count, generator=rng)
    mine, other = gs.losses.ExtremeClassificationLoss(count), EntLossClassification(count)
    return [
        Pair(
            f"extreme classification, {count}",
            step(mine, logits, index.argsort(), index),
            # LibAUC's takes differences from the own class, which guidestar's makes itself.
            step(lambda leaf: other(leaf - leaf.gather(1, index.argsort().unsqueeze(1)), index)["loss"], logits),
        )
    ]


def memory_of(loss: str) -> float:
    """Bytes that a forward and backward of `LARGE` samples adds to what a process of its own holds (Linux)."""
    code = f"""
import torch, guidestar as gs
def held(name):  # the largest size is that of this process; getrusage inherits its parent's
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name))
torch.set_num_threads(1)
loss = gs.losses.{loss}
scores = torch.randn({LARGE}, requires_grad=True)
labels, index = torch.arange({LARGE}) % 2, torch.arange({LARGE})
loss(scores[:64], labels[:64], index[:64]).backward()
before = held("VmRSS")
loss(scores, labels, index).backward()
print(held("VmHWM") - before)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return 1024.0 * float(done.stdout)


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
    groups += [*(lambda n=n: several(n) for n in LABELS), *(lambda n=n: queries(n) for n in QUERIES), classes]
    for make in groups:
        for pair in make():
            mine, other = medians(pair, arguments.repeats)
            within = other / mine >= pair.target
            good &= within
            numbers = [f"{mine:.2f}", f"{other:.2f}", f"{other / mine:.2f}", f"{pair.target:.0f}"]
            rows.append([pair.name, *numbers, "yes" if within else "NO"])
    for loss in ("PairwiseAUCLoss()", f"AveragePrecisionLoss({LARGE})"):
        used = memory_of(loss)
        good &= used < LARGEST_MEMORY
        limit = f"< {LARGEST_MEMORY / 1e6:.0f} MB"
        rows.append(
            [
                f"{loss}, {LARGE}: memory",
                f"{used / 1e6:.0f} MB",
                "",
                "",
                limit,
                "yes" if used < LARGEST_MEMORY else "NO",
            ]
        )
    publish(
        "ranking_losses_cpu",
        "Losses over pairs of scores, forward and backward, against LibAUC 2.0.1",
        ["loss and size", "guidestar ms", "LibAUC ms", "times faster", "target", "within"],
        rows,
        f"Medians of {arguments.repeats} repeats that take turns; CPU time of the process on one thread. Half of the samples "
        "are positive; memory is kept (gamma = 0.9) where both keep any. LibAUC's first use of its state is not timed. "
        "Memory is what a step adds to the resident size of its process, at its largest. "
        "LibAUC's focal loss multiplies weights [B] and losses [B, 1]: what grows there is that B x B matrix.",
    )
    if not good:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
