"""The weights that a strategy gave to each training sample during its last epoch, for the report."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from guidestar import distributed


class WeightLog(nn.Module):
    """Sums of the weights by sample; part of a checkpoint like any other state.

    Args:
        samples: number of training rows.

    State:
        `total` float64 `[samples]`, `visits` int64 `[samples]`, `rho` float32 `[samples]` (the last loss less the
        reference's).

    Example:
        >>> log = WeightLog(3)
        >>> log.add(torch.tensor([2]), torch.tensor([1.5]), torch.tensor([0.1]))
        >>> log.mean()[1].tolist()
        [1.5]
    """

    total: Tensor
    visits: Tensor
    rho: Tensor

    def __init__(self, samples: int) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(samples, dtype=torch.float64))
        self.register_buffer("visits", torch.zeros(samples, dtype=torch.int64))
        self.register_buffer("rho", torch.zeros(samples))

    def add(self, rows: Tensor, weights: Tensor, rho: Tensor) -> None:
        """Add a batch; every process adds all processes' batches."""
        rows = distributed.gather(rows.to(weights.device)).cpu()  # row numbers come on the CPU, collectives may not
        weights, rho = distributed.gather(weights).cpu(), distributed.gather(rho).cpu()
        self.total.index_add_(0, rows, weights.double())
        self.visits.index_add_(0, rows, torch.ones_like(rows))
        self.rho[rows] = rho.float()

    def mean(self) -> tuple[Tensor, Tensor, Tensor]:
        """Rows that were visited, their mean weights and last rho losses."""
        rows = self.visits.nonzero().flatten()
        return rows, (self.total[rows] / self.visits[rows]).float(), self.rho[rows]
