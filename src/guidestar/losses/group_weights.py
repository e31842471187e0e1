"""`GroupWeights`: the adversary's weights of the groups, which rise with the losses and may have a bound."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from guidestar.state import PerSampleState, Stateful


class GroupWeights(Stateful):
    r"""Weights p of K groups in the capped simplex, moved by stochastic mirror ascent with the KL divergence.

    $p \leftarrow \arg\min_{q \in \Delta,\, q_i \le c} \mathrm{KL}(q \,\|\, p \odot e^{h})$ for the gains h: multiply by
    $e^{h}$, then project.

    Equations:
        the maximum over p of 6.18.

    Args:
        num_groups: number of groups K.
        cap: c, the largest weight that a group may have, at least 1/K; 1 is no bound.

    State:
        `memory.values` float32 `[num_groups]`: log p up to a constant, at first 0. As a logarithm, a weight that
        has become tiny can come back. The same on all ranks, which give the same gains.

    Example:
        >>> weights = GroupWeights(2)
        >>> weights.move(torch.tensor([math.log(3.0), 0.0]), torch.tensor([True, True]))
        tensor([0.7500, 0.2500])
    """

    def __init__(self, num_groups: int, *, cap: float = 1.0) -> None:
        super().__init__()
        self.cap = cap
        self.memory = PerSampleState(num_groups, fill=0.0)

    def values(self) -> Tensor:
        """p, `[num_groups]`, outside the graph."""
        return self._logarithms().exp()

    @torch.no_grad()
    def move(self, gains: Tensor, present: Tensor) -> Tensor:
        """Multiply the weights of the groups that are `present` by exp(`gains`), project, and return the new p."""
        # In float64: p is the difference of logarithms that may both be large.
        risen = self._logarithms().double() + torch.where(present, gains, 0.0).double()
        moved = project_capped(risen, self.cap)
        self.memory.write(self._rows(), moved, present.any().expand(present.shape))
        return moved.exp().to(gains.dtype)

    def _logarithms(self) -> Tensor:
        return torch.log_softmax(self.memory.read(self._rows()), 0)

    def _rows(self) -> Tensor:
        return torch.arange(len(self.memory), device=self.memory.values.device)

    def extra_repr(self) -> str:
        return f"num_groups={len(self.memory)}, cap={self.cap}"


def project_capped(log_weights: Tensor, cap: float) -> Tensor:
    r"""Logarithm of the projection, by KL divergence, of positive weights onto the simplex with $q_i \le c$.

    It is $q_i = \min(c, s w_i)$ with the one s that makes the sum 1. With the weights in falling order and the first j at
    the bound, $s_j = (1 - jc) / \sum_{i > j} w_i$; $s_j w_{j+1} \le c$ holds from the right j on, so that j is found by
    counting. Exact up to rounding, O(K log K).

    Args:
        log_weights: `[K]`.
        cap: c, at least 1/K.

    Example:
        >>> project_capped(torch.tensor([0.7, 0.2, 0.1]).log(), 0.4).exp()
        tensor([0.4000, 0.4000, 0.2000])
    """
    normal = torch.log_softmax(log_weights, 0)
    if cap >= 1.0:
        return normal
    falling = normal.sort(descending=True).values
    tail = falling.flip(0).logcumsumexp(0).flip(0)
    number = torch.arange(len(normal), device=normal.device, dtype=normal.dtype)
    scale = (1.0 - cap * number).clamp(min=torch.finfo(normal.dtype).tiny).log() - tail
    bounded = (falling + scale > math.log(cap)).sum().clamp(max=len(normal) - 1)
    return (normal + scale.gather(0, bounded.reshape(1))).clamp(max=math.log(cap))
