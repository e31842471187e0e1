"""What the tests of the group objectives share: batches, means written out, and a problem with a known optimum."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

TIGHT = {"rtol": 1e-10, "atol": 1e-10}


def batch(seed: int, size: int = 8, groups: tuple[int, ...] = (0, 1, 2, 3)) -> tuple[Tensor, Tensor]:
    """Losses that require a gradient, and the group of each."""
    rng = torch.Generator().manual_seed(seed)
    losses = torch.randn(size, generator=rng, dtype=torch.float64) + 1.0
    which = torch.tensor(groups)[torch.randint(len(groups), (size,), generator=rng)]
    return losses.requires_grad_(), which


def means(losses: Tensor, group: Tensor) -> dict[int, Tensor]:
    """The mean loss of each group in the batch, one after the other."""
    return {
        g: torch.stack([x for x, y in zip(losses, group, strict=True) if y == g]).mean() for g in set(group.tolist())
    }


def per_sample(weight: dict[int, float], group: Tensor) -> Tensor:
    """The gradient by each loss where the mean of group g has the gradient weight[g]."""
    size = {g: int((group == g).sum()) for g in weight}
    return torch.tensor([weight[int(g)] / size[int(g)] for g in group], dtype=torch.float64)


def bisected(weights: list[float], cap: float) -> list[float]:
    """The projection onto the capped simplex: min(cap, s w_i) with the s that makes the sum 1, by bisection."""
    low, high = 0.0, 1e12
    for _ in range(400):
        s = (low + high) / 2
        low, high = (s, high) if sum(min(cap, s * w) for w in weights) < 1 else (low, s)
    return [min(cap, high * w) for w in weights]


# Six groups of losses (w - c)^2 / 2 + b. The worst third are the first two, at w near their balance w = 0; the other four
# pull to w = 3 and are much lower there, but their samples' losses are noisy: a risk of single batches takes them for bad.
CENTRES = torch.tensor([1.0, -1.0, 3.0, 3.0, 3.0, 3.0], dtype=torch.float64)
OFFSETS = torch.tensor([3.0, 3.0, -3.0, -3.0, -3.0, -3.0], dtype=torch.float64)
NOISE = torch.tensor([0.5, 0.5, 6.0, 6.0, 6.0, 6.0], dtype=torch.float64)
OPTIMUM = 3.5  # at w = 0, the mean of 1/2 + 3 twice; the four others are at 1.5


def worst_third(w: Tensor) -> float:
    """CVaR with alpha = 1/3: the mean of the two largest of the six groups' losses, exactly."""
    return float(((w - CENTRES).square() / 2 + OFFSETS).topk(2).values.mean())


def train(loss: nn.Module | Callable[..., Tensor], steps: int = 1500, lr: float = 0.1) -> Tensor:
    """SGD with two of the six groups in each batch, four samples of each; the mean of the last half of the steps."""
    rng = torch.Generator().manual_seed(0)
    w, total = torch.full((), 2.0, dtype=torch.float64, requires_grad=True), torch.zeros((), dtype=torch.float64)
    for step in range(steps):
        group = torch.randperm(6, generator=rng)[:2].repeat_interleave(4)
        noise = NOISE[group] * torch.randn(8, generator=rng, dtype=torch.float64)
        losses = (w - CENTRES[group]).square() / 2 + OFFSETS[group] + noise
        (gradient,) = torch.autograd.grad(loss(losses, group), w)
        w = (w - lr / (1 + 4 * step / steps) * gradient).detach().requires_grad_()
        total = total + w.detach() * (2 * step >= steps)
    return total / (steps / 2)
