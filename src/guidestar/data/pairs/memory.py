"""Pairs whose images, encoded or not, are in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from PIL import Image

from guidestar.data.pairs.decoding import decode_picture
from guidestar.data.pairs.protocol import Part
from guidestar.data.pairs.rows import equal_blocks, hash_texts
from guidestar.data.pairs.strings import CaptionLists, Strings


class MemoryContent:
    """Pairs in memory, by position.

    Args:
        images: encoded images, or uint8 `[n, H, W, 3]`.
        captions: the captions of each position.
        keys: the identities; None: the numbers of the positions.
        max_pixels: images of more pixels are not decoded.
    """

    def __init__(
        self, images: Sequence[bytes] | np.ndarray, captions: CaptionLists, keys: Strings | None, max_pixels: int
    ) -> None:
        self._images, self._captions, self._keys, self._max_pixels = images, captions, keys, max_pixels
        self.max_captions = captions.largest
        self.reading = "memory"

    def __len__(self) -> int:
        return len(self._captions)

    def key(self, position: int) -> str:
        return str(position) if self._keys is None else self._keys[position]

    def captions(self, position: int) -> list[str]:
        return self._captions[position]

    def picture(self, position: int) -> Image.Image:
        image = self._images[position]
        if isinstance(image, bytes):
            return decode_picture(image, repr(self.key(position)), self._max_pixels)
        return Image.fromarray(np.asarray(image))

    def digests(self, positions: np.ndarray) -> np.ndarray:
        found = [(self._image_hash(at), hash_texts(self._captions[at])) for at in positions.tolist()]
        return np.array(found, dtype=np.uint64).reshape(-1, 2)

    def parts(self) -> list[Part]:
        return equal_blocks(len(self))

    def blocks(self) -> list[Part]:
        return equal_blocks(len(self))

    def _image_hash(self, position: int) -> int:
        # In memory the content is as cheap to hash as its size is to look up on a disk.
        image = self._images[position]
        content = image if isinstance(image, bytes) else np.asarray(image).tobytes()
        shape = "" if isinstance(image, bytes) else str(image.shape)
        return hash_texts([self.key(position), shape, hashlib.sha256(content).digest()])
