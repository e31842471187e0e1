"""Random changes of a batch of images, from an explicit generator."""

from __future__ import annotations

import torch
from torch.nn import functional

from guidestar.errors import UserError


def flip_crop(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Mirror half of the images left to right and shift each by up to an eighth of its size.

    The images are padded by reflection with p = min(H, W) // 8 pixels (4 at 32 x 32) and a random H x W window is cut
    out, one window and one coin toss an image.

    Args:
        images: `[B, C, H, W]`, on any device.
        generator: a CPU generator; the same state gives the same result on every device.

    Returns:
        Images of the same shape and type.

    Raises:
        UserError: `images` does not have four dimensions.

    Example:
        >>> images = torch.rand(2, 3, 32, 32)
        >>> flip_crop(images, torch.Generator().manual_seed(0)).shape
        torch.Size([2, 3, 32, 32])
    """
    if images.ndim != 4:
        raise UserError(f"`augment: flip_crop` needs images [B, C, H, W], found shape {list(images.shape)}.")
    batch, _, height, width = images.shape
    padding = min(height, width) // 8
    top, left = torch.randint(0, 2 * padding + 1, (2, batch), generator=generator)
    mirrored = torch.rand(batch, generator=generator) < 0.5
    rows = top[:, None] + torch.arange(height)
    columns = torch.arange(width).expand(batch, width)
    columns = left[:, None] + torch.where(mirrored[:, None], width - 1 - columns, columns)
    padded = functional.pad(images, (padding,) * 4, mode="reflect") if padding else images
    # One gather does the cut and the mirroring: [B, H, W, C], then channels first again.
    index = [
        part.to(images.device) for part in (torch.arange(batch)[:, None, None], rows[:, :, None], columns[:, None, :])
    ]
    return padded.permute(0, 2, 3, 1)[index[0], index[1], index[2]].permute(0, 3, 1, 2).contiguous()
