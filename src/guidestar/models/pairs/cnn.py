"""A small convolutional image tower for the CPU."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from guidestar.errors import UserError
from guidestar.models.small import check_positive

_GROUPS = 8


class ConvolutionalTower(nn.Module):
    """Stages of a strided 3 x 3 convolution, GroupNorm and ReLU; the mean over places; a linear layer.

    GroupNorm keeps the rows of a batch apart, so that the result depends neither on the number of processes nor on how
    a batch is cut when it is computed again.

    Args:
        size: side of the pictures.
        width: width of the embeddings.
        hidden: channels of the first stage, a multiple of 8; each stage doubles them.
        layers: number of stages; each halves the side.

    Shapes:
        images [B, 3, S, S] -> [B, width].

    Raises:
        UserError: an option is not positive, `hidden` is no multiple of 8, or the pictures are too small.

    Example:
        >>> ConvolutionalTower(16, 4, hidden=8, layers=2)(torch.zeros(2, 3, 16, 16)).shape
        torch.Size([2, 4])
    """

    def __init__(self, size: int, width: int, *, hidden: int = 32, layers: int = 4) -> None:
        super().__init__()
        check_positive(size=size, width=width, image_hidden=hidden, image_layers=layers)
        if hidden % _GROUPS:
            raise UserError(f"`image_hidden` must be a multiple of {_GROUPS} for `image: cnn`, found {hidden}.")
        if size < 2 ** (layers - 1):
            raise UserError(
                f"`size` must be at least {2 ** (layers - 1)} for {layers} stages that halve it each, found {size}. "
                "Use a larger `size` or fewer `image_layers`."
            )
        channels = [3, *(hidden * 2**stage for stage in range(layers))]
        self.stages = nn.ModuleList(_stage(before, after) for before, after in pairwise(channels))
        self.projection = nn.Linear(channels[-1], width)
        self._checkpoint = False

    def checkpoint_gradients(self) -> None:
        """Compute the stages again in the backward pass instead of keeping what they gave."""
        self._checkpoint = True

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = images.contiguous(memory_format=torch.channels_last)
        for stage in self.stages:
            if self._checkpoint and self.training and torch.is_grad_enabled():
                maps = checkpoint(stage, maps, use_reentrant=False)
            else:
                maps = stage(maps)
        return self.projection(maps.mean((2, 3)))


def _stage(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False), nn.GroupNorm(_GROUPS, outputs), nn.ReLU()
    )
