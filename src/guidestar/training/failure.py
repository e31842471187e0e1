"""A training that cannot go on: its loss is not finite, or its model has diverged."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from guidestar import distributed
from guidestar.errors import UserError
from guidestar.losses.drrho_cross_entropy import sample_cross_entropy
from guidestar.training.checkpoint import list_checkpoints
from guidestar.training.job import Job

SHOWN = 8

#: What a loss was computed from: the rows and labels of a mini-batch and the model's outputs.
MiniBatch = tuple[Tensor, Tensor, Tensor]


class TrainingFailed(UserError):
    """This training cannot go on, others of the run can. Every process raises it at the same step."""


def loss_failure(job: Job, step: int, loss: Tensor, batches: list[MiniBatch]) -> TrainingFailed:
    """What to say when a step's loss is not finite on some process; every process must ask.

    Args:
        job: the training.
        step: the step that could not be made, counted from 1.
        loss: this process's loss.
        batches: this process's mini-batches of the step.
    """
    device = loss.device
    rows = distributed.gather(torch.cat([rows for rows, _, _ in batches]).to(device)).cpu()
    losses = torch.cat([sample_cross_entropy(outputs, labels) for _, labels, outputs in batches])
    culprits = rows[~torch.isfinite(distributed.gather(losses)).cpu()].tolist()
    keys = job.data.train.keys(culprits[:SHOWN])
    more = ", ..." if len(culprits) > SHOWN else ""
    which = (
        f"{len(culprits)} of the {len(rows)} samples of the batch have such a loss: {', '.join(keys)}{more}"
        if keys
        else "no single sample of the batch has such a loss"
    )
    return TrainingFailed(
        f"the loss of {job.strategy} (seed {job.seed}) is {float(distributed.mean(loss))} at step {step}; {which}; "
        f"{kept_checkpoint(job)}. Lower `training.lr`, set `training.clip_grad`, or check those samples."
    )


def check_weights(job: Job, step: int, model: nn.Module) -> None:
    """No checkpoint is written of weights that are of no use, or it would push out a good one.

    Raises:
        TrainingFailed: a weight is NaN or infinite.
    """
    if not all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters()):
        raise TrainingFailed(
            f"the model of {job.strategy} (seed {job.seed}) has weights that are NaN or infinite after step {step}; "
            f"{kept_checkpoint(job)}. Lower `training.lr` or set `training.clip_grad`."
        )


def evaluation_failure(job: Job, step: int, error: UserError) -> TrainingFailed:
    """What to say when the model cannot be evaluated; every process evaluates the same."""
    return TrainingFailed(
        f"the model of {job.strategy} (seed {job.seed}) cannot be evaluated after step {step}: {error} "
        f"({kept_checkpoint(job)}.)"
    )


def kept_checkpoint(job: Job) -> str:
    """Which checkpoint is left, in words."""
    saved = list_checkpoints(job.checkpoints)
    return f"the last good checkpoint is {saved[-1]}" if saved else "no checkpoint had been written"
