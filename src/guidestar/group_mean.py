"""`GroupMean`: the tracked mean loss of each group, so that a risk can be taken over groups."""

from __future__ import annotations

import torch
from torch import Tensor

from guidestar import distributed
from guidestar.risks.base import as_mask
from guidestar.schedules import Schedule
from guidestar.state import Stateful, math_dtype
from guidestar.tracking import Tracker


class GroupMean(Stateful):
    r"""The mean loss $L_g$ of each group, with memory for the groups that a batch does not hold.

    $u_g \leftarrow (1-\gamma) u_g + \gamma \frac{1}{|B_g|} \sum_{j \in B_g} \ell_j$ for the groups g in the batch.

    Equations:
        the inner functions of 6.17, step 6 of Alg. 25.

    Args:
        num_groups: number of groups K.
        gamma: averaging rate or schedule; 1 is the mean within the batch, and a group that is absent is unknown.
        gamma_prime: rate of the MSVR correction where losses at the weights before are given; see `Tracker`.

    Shapes:
        `losses` `[m]`, `group` `[m]` -> values `[K]` and known `[K]` (bool).

    State:
        `tracker.memory.values` float32 `[num_groups]`; none with gamma = 1.

    Value and gradient:
        the running mean of each group. Groups in the batch carry the gradient of their batch mean, absent ones their
        remembered value without gradient, groups never seen 0 and `known` false (as all are, if the batch holds no loss
        that counts). The risk of all known groups is then the objective itself; its gradient reaches the model through
        the groups in the batch, so sample groups uniformly when a batch cannot hold them all. In eval mode, or where
        gradients are off: the means within the batch.

    Raises:
        ValueError: shapes do not fit.
        TypeError: losses that are not floating point, groups that are not whole numbers.
        IndexError: a group number on the CPU is out of range.

    Example:
        >>> groups = GroupMean(3, gamma=0.5)
        >>> values, known = groups(torch.tensor([1.0, 3.0, 5.0]), torch.tensor([0, 0, 2]))
        >>> values, known
        (tensor([2., 0., 5.]), tensor([ True, False,  True]))
    """

    def __init__(self, num_groups: int, gamma: float | Schedule = 0.9, *, gamma_prime: float | None = None) -> None:
        super().__init__()
        if num_groups < 1:
            raise ValueError(f"`num_groups` must be at least 1. Found {num_groups}.")
        self.num_groups = num_groups
        self.tracker = Tracker(num_groups, gamma=gamma, gamma_prime=gamma_prime)

    def forward(self, losses: Tensor, group: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Update the groups of the batch and return all of them, and which are known."""
        values, present = self.in_batch(losses, group, mask)
        if self.tracker.memory is None or not (self.training and torch.is_grad_enabled()):
            return values, present
        remembered, seen = self.tracker.remembered()
        # Without a single loss there is nothing to learn: no group counts, and a risk over them leaves its state alone.
        known = (seen | present) & present.any()
        return torch.where(present, values, remembered.to(values.dtype)), known

    def in_batch(
        self, losses: Tensor, group: Tensor, mask: Tensor | None = None, previous: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Update the groups of the batch and return these alone: values `[K]` (0 elsewhere) and which they are.

        Args:
            losses: `[m]`.
            group: `[m]`.
            mask: bool, which losses count.
            previous: `[m]`, the losses of the same samples at the weights before the last step (MSVR).
        """
        dtype = math_dtype(losses)
        losses = losses.to(dtype)
        self._check(losses, group, previous)
        learning = self.training and torch.is_grad_enabled()
        group = group.to(losses.device, torch.int64)
        estimate, present = self._batch_means(losses, group, mask, over_ranks=learning)
        if not learning:
            return estimate, present
        before = None
        if previous is not None:
            before, _ = self._batch_means(previous.detach().to(losses), group, mask, over_ranks=True)
        # The means are those of all ranks' losses already: what the tracker exchanges are equal rows, and their mean.
        rows = torch.arange(self.num_groups, device=losses.device)
        tracked = self.tracker(estimate, rows, before, active=present)
        return torch.where(present, tracked, estimate), present

    def _check(self, losses: Tensor, group: Tensor, previous: Tensor | None) -> None:
        if losses.ndim != 1 or group.shape != losses.shape:
            raise ValueError(
                f"`losses` and `group` must both have shape [m]. Found {tuple(losses.shape)} and {tuple(group.shape)}."
            )
        if previous is not None and previous.shape != losses.shape:
            raise ValueError(
                f"`previous_losses` must have the shape of `losses`, {tuple(losses.shape)}: the losses of the same "
                f"samples at the weights before the last step. Found {tuple(previous.shape)}."
            )
        if group.is_floating_point() or group.dtype == torch.bool:
            raise TypeError(f"`group` must hold the number of each loss's group, int64. Found dtype {group.dtype}.")
        if group.device.type == "cpu" and group.numel() and not torch.compiler.is_compiling():
            low, high = int(group.min()), int(group.max())
            if low < 0 or high >= self.num_groups:
                raise IndexError(
                    f"`group` must lie in [0, {self.num_groups}). Found {low if low < 0 else high}. Construct with the "
                    "number of groups in the data."
                )

    def _batch_means(
        self, losses: Tensor, group: Tensor, mask: Tensor | None, *, over_ranks: bool
    ) -> tuple[Tensor, Tensor]:
        mask = None if mask is None else as_mask(losses, mask)
        one = torch.ones_like(losses) if mask is None else mask.to(losses.dtype)
        kept = losses if mask is None else torch.where(mask, losses, 0.0)
        zeros = losses.new_zeros(self.num_groups)
        sums = zeros.scatter_add(0, group, kept)
        counts = zeros.scatter_add(0, group, one)
        counts = distributed.mean(counts) if over_ranks else counts
        means = sums / counts.clamp(min=torch.finfo(losses.dtype).tiny)
        return distributed.mean_value(means) if over_ranks else means, counts > 0
