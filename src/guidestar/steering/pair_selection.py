"""Which pairs of a larger batch of images and texts selection keeps: one by one (RHO-LOSS) or jointly (JEST)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from guidestar.steering.objective import select_top


@torch.no_grad()
def pair_losses(image: Tensor, text: Tensor, scale: float) -> Tensor:
    r"""CLIP's loss of each pair within its batch, both directions added, `[m]`.

    $-\log \mathrm{softmax}_j(a s_{ij})_i - \log \mathrm{softmax}_j(a s_{ji})_i$.

    Equations:
        6.39, 6.40.

    Args:
        image, text: `[m, d]` of unit norm.
        scale: a, the inverse temperature.

    Example:
        >>> pair_losses(torch.eye(2), torch.eye(2), 1.0)
        tensor([0.6265, 0.6265])
    """
    logits = scale * (image.float() @ text.float().T)
    return torch.logsumexp(logits, 1) + torch.logsumexp(logits, 0) - 2 * logits.diagonal()


@torch.no_grad()
def select_pairs(
    kind: Literal["rho", "jest"],
    image: Tensor,
    text: Tensor,
    reference_image: Tensor,
    reference_text: Tensor,
    keep: int,
    *,
    scale: float,
    reference_scale: float,
    chunks: int = 16,
    gumbel: bool = True,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""The positions of the `keep` pairs that are most learnable: a large loss here, a small one at the reference.

    - rho: the largest $\ell_i(w) - \ell_i(w_{ref})$, the loss of a pair within the larger batch (RHO-LOSS).
    - jest: in `chunks`, each drawn without replacement with logits $D_{ii} + \sum_{k \in K} (D_{ik} + D_{ki})$, K the pairs
      that are kept already and D the learner's matrix of pairwise logistic losses less the reference's (JEST). The
      logistic loss of a pair takes the mean of its two softmax denominators as its bias.

    Args:
        kind: "rho" or "jest".
        image, text, reference_image, reference_text: features `[m, d]`, `[m, d']` of unit norm.
        keep: how many, from 1 to m.
        scale, reference_scale: inverse temperatures of the learner and of the reference.
        chunks: parts that jest draws in; at most `keep` are used.
        gumbel: jest draws at random; False: the largest logits of each chunk.
        generator: of the draws, on the CPU.

    Returns:
        int64 `[keep]`.

    Raises:
        ValueError: `keep` or `chunks` out of range.

    Source:
        Mindermann et al., ICML 2022; Evans et al., "Data curation via joint example selection further accelerates
        multimodal learning", NeurIPS 2024.

    Example:
        >>> one, other = torch.eye(3), torch.eye(3)[[0, 2, 1]]
        >>> select_pairs("rho", one, other, one, one, 2, scale=1.0, reference_scale=1.0).sort().values
        tensor([1, 2])
    """
    if chunks < 1:
        raise ValueError(f"`chunks` must be at least 1. Found {chunks}.")
    count = len(image)
    if not 1 <= keep <= count:
        raise ValueError(f"`keep` must be in [1, {count}], the number of pairs. Found {keep}.")
    if kind == "rho":
        mine = pair_losses(image, text, scale)
        return select_top(mine - pair_losses(reference_image, reference_text, reference_scale), keep)
    learnable = _logistic(image, text, scale) - _logistic(reference_image, reference_text, reference_scale)
    return _jointly(learnable, keep, min(chunks, keep), gumbel, generator)


def _logistic(image: Tensor, text: Tensor, scale: float) -> Tensor:
    logits = scale * (image.float() @ text.float().T)
    bias = 0.5 * (torch.logsumexp(logits, 1).unsqueeze(1) + torch.logsumexp(logits, 0))
    sign = 1.0 - 2.0 * torch.eye(len(logits), device=logits.device)
    return functional.softplus(sign * (logits - bias))


def _jointly(learnable: Tensor, keep: int, chunks: int, gumbel: bool, generator: torch.Generator | None) -> Tensor:
    count = len(learnable)
    kept = torch.zeros(count, dtype=torch.bool, device=learnable.device)
    order: list[Tensor] = []
    for chunk in range(chunks):
        draws = keep * (chunk + 1) // chunks - keep * chunk // chunks
        among = kept.to(learnable.dtype)
        logits = learnable.diagonal() + learnable @ among + among @ learnable
        if gumbel:
            noise = torch.rand(count, generator=generator, dtype=torch.float64)
            noise = noise.clamp(min=torch.finfo(torch.float64).tiny)
            logits = logits - torch.log(-torch.log(noise)).to(logits)
        chosen = torch.topk(logits.masked_fill(kept, -float("inf")), draws).indices
        kept[chosen] = True
        order.append(chosen)
    return torch.cat(order)
