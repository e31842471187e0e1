"""The best weights in a permutahedron: isotonic regression, as a few passes over all rows at once."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

#: The divergence from uniform weights that a penalty is made of.
Penalty = Literal["chi_square", "kl"]


@torch.no_grad()
def permutahedron_weights(scaled: Tensor, sigma: Tensor, penalty: Penalty) -> Tensor:
    r"""The $q \in \mathcal P(\sigma)$ that maximises $\sum_j q_j z_j - \Omega(q)$, for sorted z and $\sigma$.

    $\mathcal P(\sigma)$ is the convex hull of all permutations of $\sigma$. $\Omega$ is $\frac12 \|q\|^2$ (`chi_square`:
    the projection of z) or $\sum_j q_j \log q_j$ (`kl`). The order of q is that of z, and z splits into blocks of
    neighbours:

    - `chi_square`: $q_j = z_j - \bar z_B + \bar\sigma_B$, with the means over the block B of j;
    - `kl`: $q_j = e^{z_j} \sum_B \sigma / \sum_B e^{z}$.

    So each block has the total weight that the spectrum gives to its places. The blocks are those of the isotonic
    regression of level = agg(z) - agg(sigma), with agg the mean, or the logarithm of the sum of exponentials (then of
    $\log \sigma$): levels must not rise from larger to smaller z, and neighbours that violate this are pooled.

    Halves of twice the length are merged in each pass: in the merged solution one pooled block bridges the two halves,
    and holds what lies below its level on the left and above it on the right. That is $O(m \log^2 m)$ and
    $\log_2 m$ passes, on any device and with shapes that do not depend on the data.

    Args:
        scaled: z `[..., m]`, descending; -inf in places that do not count, which come last.
        sigma: the spectrum `[..., m]`, descending, at least 0; 0 in those places.
        penalty: which $\Omega$.

    Returns:
        q `[..., m]` in float64; of no meaning in the places that do not count.

    Source:
        Best and Chakravarti, "Active set algorithms for isotonic regression", 1990 (pooling); Blondel et al., "Fast
        Differentiable Sorting and Ranking", ICML 2020 (both regularisations).

    Example:
        >>> z, sigma = torch.tensor([3.0, 0.2, 0.0]), torch.tensor([0.75, 0.25, 0.0])
        >>> permutahedron_weights(z, sigma, "chi_square")
        tensor([0.7500, 0.2250, 0.0250], dtype=torch.float64)
    """
    logs = penalty == "kl"
    z = scaled.to(torch.float64)
    w = sigma.to(torch.float64)
    if logs:
        w = torch.where(z == -float("inf"), 0.0, w.log())  # their level is then -inf in both cases: never pooled
    m, size = z.shape[-1], 1
    while size < m:
        size *= 2
    pairs = torch.stack([_padded(z, size, -float("inf")), _padded(w, size, 0.0)])  # [2, ..., size]
    blocks, half = pairs, 1
    while half < size:
        blocks = _merge(blocks, pairs, half, logs)
        half *= 2
    top, bottom = blocks[..., :m]
    q = (z - top) + bottom
    return q.exp() if logs else q.clamp(min=0.0)


def _padded(values: Tensor, size: int, fill: float) -> Tensor:
    extra = values.new_full((*values.shape[:-1], size - values.shape[-1]), fill)
    return torch.cat([values, extra], dim=-1)


def _merge(blocks: Tensor, pairs: Tensor, half: int, logs: bool) -> Tensor:
    """The aggregates of z and sigma of each place's block, `[2, ..., size]`, for runs of twice `half`."""
    shape = (*blocks.shape[:-1], blocks.shape[-1] // (2 * half), 2, half)
    old, single = blocks.reshape(shape), pairs.reshape(shape)
    level = old[0] - old[1]  # [..., runs, 2, half], not rising within each half
    left, right = level[..., 0, :], level[..., 1, :]
    # What the last k of the left half and the first k of the right half aggregate to, k = 0, ..., half.
    ends = _sums(single[..., 0, :].flip(-1), logs), _sums(single[..., 1, :], logs)
    candidates = torch.cat([left, right], dim=-1)
    below = torch.searchsorted(left.flip(-1).contiguous(), candidates)  # how many of the left half are below each level
    above = torch.searchsorted((-right).contiguous(), -candidates)  # how many of the right half are above it
    pooled = _pooled(ends, below, above, logs)
    meeting = pooled[0] - pooled[1]
    # Left places below the level at which the two halves meet are pooled, and right places above it. (No pool: NaN.)
    count_left = (left < meeting[..., :half]).sum(-1, keepdim=True)
    count_right = (right > meeting[..., half:]).sum(-1, keepdim=True)
    bridge = _pooled(ends, count_left, count_right, logs).unsqueeze(-1)
    place = torch.arange(half, device=blocks.device)
    inside = torch.stack([place >= half - count_left, place < count_right], dim=-2)
    return torch.where(inside, bridge, old).reshape(blocks.shape)


def _sums(values: Tensor, logs: bool) -> Tensor:
    """Sums (of exponentials, as logarithms) of the first 0, 1, 2, ... values."""
    none = values.new_full((*values.shape[:-1], 1), -float("inf") if logs else 0.0)
    return torch.cat([none, torch.logcumsumexp(values, -1) if logs else values.cumsum(-1)], dim=-1)


def _pooled(ends: tuple[Tensor, Tensor], left: Tensor, right: Tensor, logs: bool) -> Tensor:
    """The aggregates of z and sigma over the last `left` places of the left half and the first `right` of the right."""
    parts = [end.gather(-1, count.expand(2, *count.shape)) for end, count in zip(ends, (left, right), strict=True)]
    return torch.logaddexp(*parts) if logs else (parts[0] + parts[1]) / (left + right)
