"""From the bytes of an image file to an RGB picture."""

from __future__ import annotations

import io
import re
import struct
import warnings
import zlib

import numpy as np
from PIL import Image, ImageOps

from guidestar.data.pairs.protocol import Unreadable

# Pillow itself refuses twice this many pixels whatever the caller allows.
PILLOW_LIMIT = 2 * (1024 * 1024 * 1024 // 4 // 3)
# What Pillow's decoders raise for broken files, apart from its own classes (which are OSErrors).
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)


def decode_picture(encoded: bytes, where: str, max_pixels: int) -> Image.Image:
    """An encoded image as an upright RGB picture.

    The size is looked at before anything is unpacked, so that a small file that claims to be huge costs nothing.

    Args:
        encoded: the bytes of a JPEG, PNG, WebP, ... file.
        where: what to call the image in an error message.
        max_pixels: the largest width x height that is decoded.

    Raises:
        Unreadable: it has more pixels, or cannot be decoded (it is cut short, or no image).

    Example:
        >>> stream = io.BytesIO()
        >>> Image.new("L", (4, 2)).save(stream, "PNG")
        >>> picture = decode_picture(stream.getvalue(), "the example", 64)
        >>> picture.mode, picture.size
        ('RGB', (4, 2))
    """
    try:
        with warnings.catch_warnings():
            # Pillow warns above a limit of its own; ours is checked below.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(encoded)) as opened:
                pixels = opened.width * opened.height
                if pixels <= max_pixels:
                    opened.load()
                    return _rgb(ImageOps.exif_transpose(opened))
    except Image.DecompressionBombError as error:
        raise Unreadable(f"the image of {where} is too large to be read safely ({error}).") from error
    except _BROKEN as error:
        raise Unreadable(
            f"the image of {where} cannot be read ({_reason(error, encoded)}). Repair or remove it."
        ) from error
    raise Unreadable(
        f"the image of {where} is {opened.width} x {opened.height}, {pixels:,} pixels; more than `max_pixels` = "
        f"{max_pixels:,} are not decoded. Shrink it, or raise `max_pixels`."
    )


def _reason(error: Exception, encoded: bytes) -> str:
    """What Pillow says, without the memory address of the bytes."""
    if not encoded:
        return "it is empty"
    return re.sub(r" ?<[^<>]* object at 0x[0-9A-Fa-f]+>", "", str(error)) or type(error).__name__


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode == "F":
        raise ValueError("images of floating-point values are not supported")
    if picture.mode.startswith("I"):
        # Pillow clips 16-bit values at 255 instead of scaling them.
        values = np.asarray(picture).astype(np.int64)
        picture = Image.fromarray((values.clip(0, 65535) // 256).astype(np.uint8))
    if picture.mode == "P" and "transparency" in picture.info:
        picture = picture.convert("RGBA")
    return picture.convert("RGB")
