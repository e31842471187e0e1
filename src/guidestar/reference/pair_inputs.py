"""What scoring and joining need from image-text pairs and from the model that embeds them."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from PIL import Image

from guidestar.data.pairs.batches import pad_tokens
from guidestar.data.pairs.framing import Framing
from guidestar.errors import UserError
from guidestar.reference.forward import PRECISIONS
from guidestar.reference.keys import hash_keys

CROP = "center"
_log = logging.getLogger(__name__)


class ScorablePairs(Protocol):
    """Image-text pairs with an identity for each row; every source of `guidestar.data.pairs` is one."""

    @property
    def name(self) -> str: ...

    @property
    def max_captions(self) -> int: ...

    def __len__(self) -> int: ...

    def keys(self, rows: Sequence[int], /) -> list[str]: ...

    def captions(self, row: int, /) -> list[str]: ...

    def picture(self, row: int, /) -> Image.Image: ...

    def parts(self) -> list[tuple[str, int, int]]: ...

    def fingerprint(self) -> str: ...


class PairTokenizer(Protocol):
    """Captions to lists of ids that include the start and end marks."""

    @property
    def length(self) -> int: ...

    @property
    def pad(self) -> int: ...

    def __call__(self, captions: list[str], /) -> list[list[int]]: ...

    def fingerprint(self) -> str: ...


class PairEncoder(Protocol):
    """A two-tower model, an `nn.Module`; `guidestar.models.pairs.DualEncoder` is one."""

    @property
    def size(self) -> int: ...

    @property
    def width(self) -> int: ...

    @property
    def tokenizer(self) -> PairTokenizer: ...

    def encode_image(self, images: torch.Tensor, /) -> torch.Tensor: ...

    def encode_text(self, tokens: torch.Tensor, /) -> torch.Tensor: ...


def plain_image(picture: Image.Image, size: int) -> np.ndarray:
    """The largest square in the middle of a picture, scaled, as `PairDataset(crop="center")` does: uint8 [3, S, S].

    Args:
        picture: RGB.
        size: The side S of the square in pixels.

    Example:
        >>> plain_image(Image.new("RGB", (30, 20), "red"), 8)[:, 0, 0].tolist()
        [255, 0, 0]
    """
    framing = Framing(size, CROP, flip=False)
    image = framing.take(picture, framing.box(*picture.size, np.zeros(4)), mirrored=False)
    return np.ascontiguousarray(image.transpose(2, 0, 1))


def read_images(pairs: ScorablePairs, rows: Sequence[int], size: int) -> torch.Tensor:
    """The plain pictures of some rows, without augmentation: uint8 [B, 3, S, S].

    Args:
        pairs: The data.
        rows: Row numbers.
        size: The side S of the reference's images in pixels.
    """
    images = [plain_image(pairs.picture(row), size) for row in rows]
    return torch.from_numpy(np.stack(images)) if images else torch.zeros(0, 3, size, size, dtype=torch.uint8)


def image_means(images: torch.Tensor) -> np.ndarray:
    """The mean of each image in [0, 1], float32 [B]: a cheap mark of the content, to tell other images of the same key.

    Args:
        images: uint8 [B, 3, S, S].

    Example:
        >>> image_means(torch.full((2, 3, 4, 4), 255, dtype=torch.uint8)).tolist()
        [1.0, 1.0]
    """
    return (images.flatten(1).double().mean(dim=1) / 255).float().numpy()


def read_tokens(captions: list[str], tokenizer: PairTokenizer) -> torch.Tensor:
    """The ids of captions, padded: int64 [B, T].

    Args:
        captions: Any number of them.
        tokenizer: The reference's.

    Raises:
        UserError: The tokenizer gives more ids than its own `length`.
    """
    return pad_tokens(tokenizer(captions) if captions else [], length=tokenizer.length, pad=tokenizer.pad)


@dataclass(frozen=True)
class PairInputs:
    """A batch of rows with all of their captions.

    Args:
        images: uint8 [B, 3, S, S]; zeros for a row that cannot be read.
        tokens: int64 [m, T], the captions of the rows one after the other.
        counts: How many captions each row has, int64 [B]; 0 for a row that cannot be read.
        keys: The rows' keys.
        caption_hashes: A hash of each caption, uint64 [m].
    """

    images: torch.Tensor
    tokens: torch.Tensor
    counts: np.ndarray
    keys: list[str]
    caption_hashes: np.ndarray


class PairReader:
    """A map-style data set whose `__getitems__` gives `PairInputs`; what a loader's worker runs.

    Args:
        pairs: The data.
        size: The side of the reference's images in pixels.
        tokenizer: The reference's tokenizer.
        skip: Whether a row that cannot be read is logged and left without captions; otherwise it raises.
    """

    def __init__(self, pairs: ScorablePairs, size: int, tokenizer: PairTokenizer, *, skip: bool) -> None:
        self._pairs, self._size, self._tokenizer, self._skip = pairs, size, tokenizer, skip

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitems__(self, rows: list[int]) -> PairInputs:
        """The rows' plain images and all of their captions.

        Raises:
            UserError: A row cannot be read, or has no caption.
        """
        keys = self._pairs.keys(rows)
        found = [self._read(row, key) for row, key in zip(rows, keys, strict=True)]
        captions = [text for _, texts in found for text in texts]
        return PairInputs(
            images=torch.from_numpy(np.stack([image for image, _ in found])),
            tokens=read_tokens(captions, self._tokenizer),
            counts=np.array([len(texts) for _, texts in found], dtype=np.int64),
            keys=keys,
            caption_hashes=hash_keys(captions),
        )

    def _read(self, row: int, key: str) -> tuple[np.ndarray, list[str]]:
        try:
            captions = self._pairs.captions(row)
            if not captions:
                raise UserError(
                    f"the row {key!r} of {self._pairs.name!r} has no caption; every row needs at least one."
                )
            return plain_image(self._pairs.picture(row), self._size), captions
        except (UserError, OSError) as error:
            if not self._skip:
                raise
            _log.warning("skipped: %s", error)
            return np.zeros((3, self._size, self._size), dtype=np.uint8), []


class PairForward:
    """Both towers of a model on its device, in a precision of its own; results are float32 and unit-norm.

    Args:
        model: The model, on `device`.
        device: Where inputs go.
        precision: "fp32" (whatever autocast is around it) or "bf16".

    Raises:
        UserError: The precision is neither.
    """

    def __init__(self, model: PairEncoder, device: torch.device, precision: str) -> None:
        if precision not in PRECISIONS:
            raise UserError(f"`precision` must be one of {', '.join(PRECISIONS)}, found {precision!r}.")
        self._model, self._device, self._half = model, device, precision == "bf16"

    def image(self, images: torch.Tensor) -> torch.Tensor:
        """Embeddings [B, d] of uint8 images [B, 3, S, S]."""
        with self._autocast():
            inputs = images.to(self._device, non_blocking=True).float() / 255
            return unit(self._model.encode_image(inputs))

    def text(self, tokens: torch.Tensor) -> torch.Tensor:
        """Embeddings [B, d] of tokens [B, T]."""
        with self._autocast():
            return unit(self._model.encode_text(tokens.to(self._device, non_blocking=True)))

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._half)


def unit(embeddings: torch.Tensor) -> torch.Tensor:
    """Embeddings in float32 with norm 1; a row of zeros or with a NaN becomes NaN, so that no error is hidden.

    Args:
        embeddings: [B, d].

    Example:
        >>> unit(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        tensor([[0.6000, 0.8000],
                [   nan,    nan]])
    """
    values = embeddings.float()
    return values / values.norm(dim=1, keepdim=True)
