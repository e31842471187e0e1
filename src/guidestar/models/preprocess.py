"""Normalisation and resizing as part of a model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from guidestar.errors import UserError

Statistic = float | Sequence[float] | torch.Tensor | None


class Preprocess(nn.Module):
    """model((resize(x) - mean) / std), so that every model takes the same raw inputs.

    `mean` and `std` are buffers and are saved with the weights.

    Args:
        model: gives logits from normalised inputs.
        mean: one number, or one a channel (images) or column (tables); None: 0.
        std: likewise; None: 1.
        size: images of another size are resized (bilinear, antialiased) to this height and width; one number: square.

    Raises:
        UserError: a statistic is not finite, a standard deviation not positive, or the lengths differ.

    Example:
        >>> Preprocess(nn.Identity(), mean=[1.0, 2.0], std=[2.0, 4.0])(torch.tensor([[3.0, 6.0]]))
        tensor([[1., 1.]])
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self,
        model: nn.Module,
        mean: Statistic = None,
        std: Statistic = None,
        size: int | Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        means, stds = _vector(0.0 if mean is None else mean, "mean"), _vector(1.0 if std is None else std, "std")
        if not bool((stds > 0).all()):
            raise UserError(f"`std` must be positive, found {stds.tolist()}.")
        if means.numel() != stds.numel() and 1 not in (means.numel(), stds.numel()):
            raise UserError(f"`mean` and `std` must have the same length, found {means.numel()} and {stds.numel()}.")
        self.register_buffer("mean", means)
        self.register_buffer("std", stds)
        self.size = None if size is None else _pair(size)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        features = inputs.shape[1]
        for name, statistic in (("mean", self.mean), ("std", self.std)):
            if statistic.numel() not in (1, features):
                raise UserError(
                    f"`{name}` must have one number a channel or column, {features}; found {statistic.numel()}."
                )
        if self.size is not None and inputs.shape[2:] != self.size:
            if inputs.ndim != 4:
                raise UserError(f"`size` is for images [B, C, H, W], found inputs of shape {list(inputs.shape)}.")
            inputs = functional.interpolate(inputs, self.size, mode="bilinear", antialias=True, align_corners=False)
        shape = (1, -1, *[1] * (inputs.ndim - 2))
        return self.model((inputs - self.mean.view(shape)) / self.std.view(shape))


def _vector(values: float | Sequence[float] | torch.Tensor, name: str) -> torch.Tensor:
    vector = torch.as_tensor(values, dtype=torch.float32).detach().clone().reshape(-1)
    if vector.numel() == 0 or not bool(torch.isfinite(vector).all()):
        raise UserError(f"`{name}` must be one or more finite numbers, found {vector.tolist()}.")
    return vector


def _pair(size: int | Sequence[int]) -> tuple[int, int]:
    pair = (size, size) if isinstance(size, int) else tuple(size)
    if len(pair) != 2 or min(pair) < 1:
        raise UserError(f"`size` must be a positive whole number or two of them, found {size!r}.")
    return pair[0], pair[1]
