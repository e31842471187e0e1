"""A training on pairs that cannot go on: its loss is not finite, or its temperature has collapsed or exploded."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from guidestar import distributed
from guidestar.training.failure import SHOWN, TrainingFailed, kept_checkpoint
from guidestar.training.job import Job

#: Outside of this range all pairs look alike, or all but one get no gradient.
LOWEST_TAU, HIGHEST_TAU = 1e-4, 1e2


def pair_failure(job: Job, step: int, loss: Tensor, seen: list[Any], temperatures: dict[str, float]) -> TrainingFailed:
    """What to say when a step's loss is not finite on some process; every process must ask.

    Args:
        job: the training.
        step: the step that could not be made, counted from 1.
        loss: this process's loss.
        seen: (rows, image embeddings, text embeddings) of this process's mini-batches.
        temperatures: name -> value.
    """
    rows = distributed.gather(torch.cat([rows for rows, _, _ in seen]).to(loss.device)).cpu()
    fine = torch.cat([torch.isfinite(image).all(1) & torch.isfinite(text).all(1) for _, image, text in seen])
    culprits = rows[~distributed.gather(fine.long().to(loss.device)).bool().cpu()].tolist()
    keys = job.data.train.keys(culprits[:SHOWN])
    more = ", ..." if len(culprits) > SHOWN else ""
    which = (
        f"{len(culprits)} of the {len(rows)} pairs of the batch have embeddings that are: {', '.join(keys)}{more}"
        if keys
        else "the embeddings of the batch are finite"
    )
    return TrainingFailed(
        f"the loss of {job.strategy} (seed {job.seed}) is {float(distributed.mean(loss))} at step {step}; {which}; "
        f"{_spelled(temperatures)}; {kept_checkpoint(job)}. Lower `training.lr` or `training.objective_lr`, set "
        "`training.clip_grad`, or check those pairs."
    )


def check_temperature(job: Job, step: int, temperatures: dict[str, float]) -> None:
    """Stop before a checkpoint is written of a temperature that is of no use.

    Raises:
        TrainingFailed: a temperature is not finite, or has left the range in which a contrastive loss learns.
    """
    for name, value in temperatures.items():
        if math.isfinite(value) and LOWEST_TAU <= value <= HIGHEST_TAU:
            continue
        how = "is not finite" if not math.isfinite(value) else "has collapsed" if value < LOWEST_TAU else "has exploded"
        raise TrainingFailed(
            f"{name} {how} in {job.strategy} (seed {job.seed}): it is {value:.3g} after step {step}, and must stay in "
            f"[{LOWEST_TAU:g}, {HIGHEST_TAU:g}]; {kept_checkpoint(job)}. Lower `training.lr` or `training.objective_lr`, "
            "or fix the temperature in `objective`."
        )


def _spelled(temperatures: dict[str, float]) -> str:
    return ", ".join(f"{name} is {value:.3g}" for name, value in temperatures.items())
