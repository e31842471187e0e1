"""Encoded images: decoding with Pillow, and the split that decodes them when a batch is fetched."""

from __future__ import annotations

import hashlib
import io
import logging
import re
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from PIL import Image, ImageOps

from guidestar.data.split import RowSplit
from guidestar.errors import UserError

_log = logging.getLogger(__name__)
# What Pillow's decoders raise for broken files, apart from its own classes (which are OSErrors).
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)


@dataclass(frozen=True)
class PictureForm:
    """The form that images are brought into.

    Args:
        size: height and width; images of another size are scaled to cover it and cut at the centre. None: as they are.
        grey: one channel instead of three.
    """

    size: tuple[int, int] | None = None
    grey: bool = False


class Pictures(Protocol):
    """Encoded images by position; small, and picklable for worker processes."""

    def read(self, position: int) -> bytes: ...
    def key(self, position: int) -> str: ...
    def where(self, position: int) -> str: ...


def read_picture(encoded: bytes, form: PictureForm, where: str, *, advise: bool = True) -> np.ndarray:
    """An encoded image as uint8 `[C, H, W]`, upright, in the form asked for.

    Args:
        encoded: the bytes of a JPEG, PNG, ... file.
        form: size and channels.
        where: the name of the image for error messages.
        advise: whether the error says what to do; not where unreadable images are skipped anyway.

    Raises:
        UserError: it cannot be decoded, or is suspiciously large (Pillow's limit against decompression bombs).
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(encoded)) as opened:
                opened.load()
                picture = _convert(ImageOps.exif_transpose(opened), form.grey)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UserError(f"the image {where} is too large to be read safely ({error}).") from error
    except _BROKEN as error:
        advice = " Repair or remove it, or set `on_error: skip`." if advise else ""
        raise UserError(f"the image {where} cannot be read ({_reason(error, encoded)}).{advice}") from error
    if form.size is not None and (picture.height, picture.width) != form.size:
        picture = ImageOps.fit(picture, (form.size[1], form.size[0]), Image.Resampling.BILINEAR)
    array = np.asarray(picture)
    return array[None] if form.grey else np.ascontiguousarray(array.transpose(2, 0, 1))


def _reason(error: Exception, encoded: bytes) -> str:
    """What Pillow says, without the memory address of the bytes."""
    if not encoded:
        return "it is empty"
    return re.sub(r" ?<[^<>]* object at 0x[0-9A-Fa-f]+>", "", str(error)) or type(error).__name__


def _convert(picture: Image.Image, grey: bool) -> Image.Image:
    if picture.mode == "F":
        raise ValueError("images of floating-point values are not supported")
    if picture.mode.startswith("I"):
        # Pillow clips 16-bit values at 255 instead of scaling them.
        values = np.asarray(picture).astype(np.int64)
        picture = Image.fromarray((values.clip(0, 65535) // 256).astype(np.uint8))
    if picture.mode == "P" and "transparency" in picture.info:
        picture = picture.convert("RGBA")
    return picture.convert("L" if grey else "RGB")


class PictureSplit(RowSplit):
    """Images that stay encoded where they are and are decoded when a batch is fetched.

    Args:
        pictures: the encoded images, by position.
        labels: class ids, int64 `[n]`, already checked.
        class_names: one name a class.
        name: "train" or "test".
        form: size and channels; without a size, that of the first image.
        on_error: "raise": an unreadable image raises when it is fetched; "skip": all images are read once now, and
            unreadable ones are dropped, logged, and listed by key in `skipped`.

    Raises:
        UserError: the first image is unreadable (`on_error="raise"`), or all of them are.
    """

    def __init__(
        self,
        pictures: Pictures,
        labels: torch.Tensor,
        class_names: Sequence[str],
        *,
        name: str,
        form: PictureForm,
        on_error: str = "raise",
    ) -> None:
        kept, skipped = list(range(labels.numel())), list[str]()
        if on_error == "skip":
            kept, reasons = _readable(pictures, labels.numel())
            skipped = [pictures.key(position) for position in reasons]
            log_skipped(name, list(reasons.values()), labels.numel())
        if not kept:
            raise UserError(f"the {name} split has no readable image.")
        if form.size is None:
            first = read_picture(pictures.read(kept[0]), form, pictures.where(kept[0]))
            form = PictureForm(size=(first.shape[1], first.shape[2]), grey=form.grey)
        if form.size is None:
            raise UserError("`size` must be known, found none.")
        self._pictures, self._form = pictures, form
        # Shared by subsets, so that each image is read once for all their fingerprints.
        self._digests: dict[int, bytes] = {}
        shape = (1 if form.grey else 3, *form.size)
        super().__init__(labels[kept], class_names, name=name, kind="image", input_shape=shape)
        self._positions = torch.tensor(kept)
        self.skipped = skipped

    def _read(self, position: int) -> np.ndarray:
        return read_picture(self._pictures.read(position), self._form, self._pictures.where(position))

    def _fetch(self, positions: torch.Tensor) -> torch.Tensor:
        if positions.numel() == 0:
            return torch.zeros(0, *self.input_shape)
        return torch.from_numpy(np.stack([self._read(position) for position in positions.tolist()])) / 255

    def _key(self, position: int) -> str:
        return self._pictures.key(position)

    def _image(self, position: int) -> np.ndarray:
        picture = self._read(position)
        return picture[0] if self._form.grey else np.ascontiguousarray(picture.transpose(1, 2, 0))

    def _describe(self, position: int) -> str:
        return self._pictures.key(position)

    def _content(self, positions: torch.Tensor) -> Iterator[bytes]:
        for position in positions.tolist():
            if position not in self._digests:
                self._digests[position] = hashlib.sha256(self._pictures.read(position)).digest()
            yield self._digests[position]


def log_skipped(name: str, reasons: Sequence[str], total: int) -> None:
    """Warn, with the count and each reason, that images were left out.

    Args:
        name: the split.
        reasons: why, one a skipped image; nothing is logged if there is none.
        total: number of images before skipping.
    """
    if reasons:
        _log.warning("%s: skipped %d of %d images", name, len(reasons), total)
    for reason in reasons:
        _log.warning("skipped: %s", reason)


def _readable(pictures: Pictures, count: int) -> tuple[list[int], dict[int, str]]:
    kept: list[int] = []
    reasons: dict[int, str] = {}
    for position in range(count):
        try:
            read_picture(pictures.read(position), PictureForm(), pictures.where(position), advise=False)
        except (UserError, OSError) as error:
            reasons[position] = str(error)
        else:
            kept.append(position)
    return kept, reasons
