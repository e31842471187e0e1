"""How a picture is brought into a square: which part of it is taken, and whether it is mirrored."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from guidestar.errors import UserError

Crop = Literal["center", "random", "squash"]
Box = tuple[float, float, float, float]
_RATIOS = (3 / 4, 4 / 3)


@dataclass(frozen=True)
class Framing:
    """A square of `size` pixels from a picture of any shape.

    Args:
        size: the side.
        crop: "center": the largest square in the middle; "random": a random part of random shape; "squash": all of
            the picture, whatever its shape.
        flip: mirror half of the pictures left to right.
        scale: the smallest and the largest share of the area that "random" takes.

    Raises:
        UserError: a value is out of range.

    Example:
        >>> Framing(32, "center", flip=False).box(60, 40, np.full(4, 0.5))
        (10.0, 0.0, 50.0, 40.0)
    """

    size: int
    crop: Crop
    flip: bool
    scale: tuple[float, float] = (0.5, 1.0)

    def __post_init__(self) -> None:
        if self.size < 1:
            raise UserError(f"`size` must be at least 1 pixel. Found {self.size}.")
        if self.crop not in ("center", "random", "squash"):
            raise UserError(f'`crop` must be "center", "random" or "squash". Found {self.crop!r}.')
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise UserError(f"`scale` must be 0 < smallest <= largest <= 1. Found {self.scale}.")

    def box(self, width: int, height: int, draws: np.ndarray) -> Box:
        """The part of a picture that is taken: left, upper, right, lower, in pixels.

        Args:
            width, height: of the picture.
            draws: four numbers in [0, 1): area, shape, and the two places.
        """
        if self.crop == "squash":
            return (0.0, 0.0, float(width), float(height))
        if self.crop == "center":
            side = min(width, height)
            left, upper = (width - side) / 2, (height - side) / 2
            return (left, upper, left + side, upper + side)
        low, high = self.scale
        area = (low + (high - low) * draws[0]) * width * height
        ratio = math.exp(math.log(_RATIOS[0]) + math.log(_RATIOS[1] / _RATIOS[0]) * draws[1])
        across, down = min(width, math.sqrt(area * ratio)), min(height, math.sqrt(area / ratio))
        left, upper = (width - across) * draws[2], (height - down) * draws[3]
        return (float(left), float(upper), float(left + across), float(upper + down))

    def take(self, picture: Image.Image, box: Box, mirrored: bool) -> np.ndarray:
        """That part of the picture, scaled, uint8 `[size, size, 3]`."""
        # Rounding must not put an edge outside of the picture.
        inside = (max(box[0], 0.0), max(box[1], 0.0), min(box[2], picture.width), min(box[3], picture.height))
        taken = np.asarray(picture.resize((self.size, self.size), Image.Resampling.BICUBIC, box=inside))
        return taken[:, ::-1] if mirrored and self.flip else taken
