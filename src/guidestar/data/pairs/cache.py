"""Decoded pictures in memory that worker processes share."""

from __future__ import annotations

import mmap

import numpy as np
from PIL import Image

from guidestar.errors import UserError


class PictureCache:
    """Squashed squares of pictures and the pictures' original sizes, filled as they come.

    The memory is anonymous and shared, so that what one forked worker decodes the others find; it is taken from the
    system page by page as rows are filled. A copy that is pickled to another process starts empty.

    Args:
        rows: number of rows.
        side: the side of the squares in pixels.

    Raises:
        UserError: there is not enough memory.

    Example:
        >>> cache = PictureCache(rows=2, side=4)
        >>> square = cache.put(1, Image.new("RGB", (8, 6), "red"))
        >>> cache.get(0) is None, cache.get(1)[1]
        (True, (8, 6))
    """

    def __init__(self, rows: int, side: int) -> None:
        self._rows, self._side = rows, side
        needed = rows * (side * side * 3 + 8)
        try:
            memory = mmap.mmap(-1, max(needed, 1))
        except OSError as error:
            raise UserError(
                f"`cache` needs {needed / 2**30:.1f} GiB for {rows:,} pictures of {side} x {side}, which this system "
                "does not have. Turn it off."
            ) from error
        self._sizes = np.frombuffer(memory, dtype=np.int32, count=rows * 2).reshape(rows, 2)
        self._squares = np.frombuffer(memory, dtype=np.uint8, count=rows * side * side * 3, offset=rows * 8)
        self._squares = self._squares.reshape(rows, side, side, 3)

    def __reduce__(self) -> tuple[type[PictureCache], tuple[int, int]]:
        return PictureCache, (self._rows, self._side)

    def get(self, row: int) -> tuple[Image.Image, tuple[int, int]] | None:
        """The square of a row and the width and height of the picture it was made of; None if it is not there."""
        width, height = self._sizes[row].tolist()
        return (Image.fromarray(self._squares[row]), (width, height)) if width else None

    def put(self, row: int, picture: Image.Image) -> Image.Image:
        """Keep a picture, and give back its square."""
        square = picture.resize((self._side, self._side), Image.Resampling.BICUBIC)
        self.put_square(row, np.asarray(square), picture.size)
        return square

    def put_square(self, row: int, square: np.ndarray, size: tuple[int, int]) -> None:
        """Keep a square uint8 `[side, side, 3]` that was made already, of a picture of this width and height."""
        self._squares[row] = square
        self._sizes[row] = size  # last: it says that the square is there
