"""Batches of images and tokens from pairs, the same whenever and wherever they are asked for."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal, Protocol

import numpy as np
import torch

from guidestar.data.pairs.cache import PictureCache
from guidestar.data.pairs.framing import Crop, Framing
from guidestar.data.pairs.protocol import Pairs, Rows, Unreadable
from guidestar.data.pairs.rows import check_rows
from guidestar.errors import UserError

_log = logging.getLogger("guidestar")
_TRIES = 100  # rows looked at in search of a readable one
_MULTIPLE = 8  # lengths of token rows, for tensor cores


class TextTokenizer(Protocol):
    """What is needed of a tokenizer; those of `guidestar.models.pairs` have it."""

    @property
    def length(self) -> int: ...
    @property
    def pad(self) -> int: ...

    def __call__(self, texts: list[str], /) -> list[list[int]]: ...


@dataclass(frozen=True)
class PairBatch:
    """A batch of pairs.

    Args:
        images: float32 `[B, 3, S, S]` in [0, 1].
        tokens: int64 `[B, T]`, padded.
        rows: the row of each pair, int64 `[B]`.
        choice: which caption of its row each is, int64 `[B]`.
        replaced: rows that were asked for but could not be read, int64 `[k]`; others stand in for them, or they are left
            out (see `on_error`).
    """

    images: torch.Tensor
    tokens: torch.Tensor
    rows: torch.Tensor
    choice: torch.Tensor
    replaced: torch.Tensor

    def __len__(self) -> int:
        return self.rows.numel()

    def to(self, device: torch.device | str, non_blocking: bool = False) -> PairBatch:
        """The batch with images and tokens on a device; row numbers stay on the CPU, where they are looked up."""
        images = self.images.to(device, non_blocking=non_blocking)
        tokens = self.tokens.to(device, non_blocking=non_blocking)
        return PairBatch(images, tokens, self.rows, self.choice, self.replaced)

    def pin_memory(self) -> PairBatch:
        """The batch in page-locked memory; a `DataLoader` with `pin_memory=True` calls it."""
        return PairBatch(*(getattr(self, field.name).pin_memory() for field in fields(self)))


def pad_tokens(ids: Sequence[Sequence[int]], *, length: int, pad: int) -> torch.Tensor:
    """Token ids as int64 `[B, T]`; T is the longest row, rounded up to a multiple of 8, but at most `length`.

    Args:
        ids: the tokens of each text.
        length: the longest that is allowed.
        pad: fills the rest of each row.

    Raises:
        UserError: a row is longer than `length`.

    Example:
        >>> pad_tokens([[1, 5, 2], [1, 2]], length=4, pad=0).tolist()
        [[1, 5, 2, 0], [1, 2, 0, 0]]
    """
    longest = max((len(row) for row in ids), default=0)
    if longest > length:
        raise UserError(f"`tokenizer` must return at most {length} tokens a text, its `length`. Found {longest}.")
    padded = np.full((len(ids), min(math.ceil(longest / _MULTIPLE) * _MULTIPLE, length)), pad, dtype=np.int64)
    for number, row in enumerate(ids):
        padded[number, : len(row)] = row
    return torch.from_numpy(padded)


class PairDataset(torch.utils.data.Dataset[PairBatch]):
    """Batches for a `DataLoader`: `__getitems__((batch number, rows))` gives a `PairBatch`.

    The caption, the crop and the mirroring of a row depend on the seed, the number of the batch and the row, and on
    nothing else: not on workers, processes, the place in the batch, or what was read before. Use
    `DataLoader(dataset, batch_sampler=..., collate_fn=lambda batch: batch)` with a sampler of requests such as
    `ShardPlan.requests`.

    With `cache`, decoded pictures are kept in memory that workers share: squares of the target size, or for random
    crops of `size / sqrt(smallest scale)`, from which the crops are then cut.

    With `on_error="skip"`, the next row that can be read and is not in the batch stands in for one that cannot; with
    "omit", the batch is shorter by it, as evaluation wants it.

    Args:
        pairs: the pairs.
        size: side of the images.
        tokenizer: turns captions into tokens.
        captions: "random": one of the row's captions; "first": always the first.
        crop, flip, scale: see `Framing`.
        seed: decides captions, crops and mirroring; not negative.
        cache: keep decoded pictures.
        on_error: "raise", or "skip" or "omit" pictures and captions that cannot be read.

    Attributes:
        skipped: how many rows could not be read, in this process (a worker counts its own; see `PairBatch.replaced`).

    Raises:
        UserError: a value is out of range.

    Example:
        >>> from guidestar.data.pairs.memory import MemoryContent
        >>> from guidestar.data.pairs.rows import RowPairs
        >>> from guidestar.data.pairs.strings import CaptionLists
        >>> class Letters:
        ...     length, pad = 8, 0
        ...     def __call__(self, texts):
        ...         return [[ord(letter) for letter in text] for text in texts]
        >>> captions = CaptionLists.of([["cat"], ["dog"]])
        >>> content = MemoryContent(np.zeros((2, 6, 4, 3), np.uint8), captions, None, 64)
        >>> dataset = PairDataset(RowPairs(content, name="train"), size=4, tokenizer=Letters())
        >>> batch = dataset.__getitems__((0, [1, 0]))
        >>> batch.images.shape, batch.tokens[0, :3].tolist()
        (torch.Size([2, 3, 4, 4]), [100, 111, 103])
    """

    def __init__(
        self,
        pairs: Pairs,
        *,
        size: int,
        tokenizer: TextTokenizer,
        captions: Literal["random", "first"] = "random",
        crop: Crop = "center",
        flip: bool = False,
        scale: tuple[float, float] = (0.5, 1.0),
        seed: int = 0,
        cache: bool = False,
        on_error: Literal["raise", "skip", "omit"] = "raise",
    ) -> None:
        if captions not in ("random", "first"):
            raise UserError(f'`captions` must be "random" or "first". Found {captions!r}.')
        if on_error not in ("raise", "skip", "omit"):
            raise UserError(f'`on_error` must be "raise", "skip" or "omit". Found {on_error!r}.')
        if seed < 0:
            raise UserError(f"`seed` must not be negative. Found {seed}.")
        self.pairs, self.tokenizer, self.seed = pairs, tokenizer, seed
        self.framing = Framing(size, crop, flip, scale)
        self._random_caption, self._on_error = captions == "random", on_error
        side = math.ceil(size / math.sqrt(scale[0])) if crop == "random" else size
        self._cache = PictureCache(len(pairs), side) if cache else None
        self._unreadable: set[int] = set()

    @property
    def skipped(self) -> int:
        return len(self._unreadable)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, row: int) -> PairBatch:
        return self.__getitems__((0, [row]))

    def __getitems__(self, request: tuple[int, Rows]) -> PairBatch:
        """The batch of a request: its number, and its rows.

        Raises:
            UserError: a picture or caption cannot be read (`on_error="raise"`), or no row can stand in for it.
            IndexError: a row is out of range.
        """
        number, rows_asked = request
        asked = check_rows(rows_asked, len(self.pairs)).tolist()
        in_use = set(asked)
        images, texts, rows, choice, replaced = [], [], [], [], []
        for row in asked:
            taken = row
            image, text, which = self._read(number, row) or (None, "", 0)
            if image is None and self._on_error == "omit":
                replaced.append(row)
                continue
            if image is None:
                taken, (image, text, which) = self._stand_in(number, row, in_use)
                in_use.add(taken)
                replaced.append(row)
            images.append(image)
            texts.append(text)
            rows.append(taken)
            choice.append(which)
        nothing = np.zeros((0, self.framing.size, self.framing.size, 3), np.uint8)
        pixels = torch.from_numpy(np.stack(images) if images else nothing).permute(0, 3, 1, 2)
        return PairBatch(
            images=pixels.to(torch.float32, memory_format=torch.contiguous_format) / 255,
            tokens=pad_tokens(self.tokenizer(texts), length=self.tokenizer.length, pad=self.tokenizer.pad),
            rows=torch.tensor(rows, dtype=torch.int64),
            choice=torch.tensor(choice, dtype=torch.int64),
            replaced=torch.tensor(replaced, dtype=torch.int64),
        )

    def _read(self, number: int, row: int) -> tuple[np.ndarray, str, int] | None:
        """The image, the caption and its number; None if the row is unreadable and that is allowed."""
        if row in self._unreadable:
            return None
        # Six numbers whatever the options are, so that changing one of them leaves the others' choices alone.
        draws = np.random.default_rng((self.seed, number, row)).random(6)
        try:
            captions = self.pairs.captions(row)
            which = int(draws[0] * len(captions)) if self._random_caption else 0
            return self._image(row, draws[2:], mirrored=bool(draws[1] < 0.5)), captions[which], which
        except (Unreadable, OSError) as error:
            if self._on_error == "raise":
                raise UserError(f"{error} Set `on_error: skip` to train without such rows.") from error
            self._unreadable.add(row)
            _log.warning("skipped: %s", error)
            return None

    def _stand_in(self, number: int, row: int, in_use: set[int]) -> tuple[int, tuple[np.ndarray, str, int]]:
        for step in range(1, min(_TRIES, len(self.pairs))):
            other = (row + step) % len(self.pairs)
            found = None if other in in_use else self._read(number, other)
            if found is not None:
                return other, found
        key = self.pairs.keys([row])[0]
        raise UserError(
            f"row {row} ({key!r}) cannot be read, and none of the {_TRIES} rows after it can stand in for it: they are "
            "unreadable or in the batch already. Repair the data, or use smaller batches."
        )

    def _image(self, row: int, draws: np.ndarray, mirrored: bool) -> np.ndarray:
        framing, cache = self.framing, self._cache
        if cache is None:
            picture = self.pairs.picture(row)
            return framing.take(picture, framing.box(*picture.size, draws), mirrored)
        found = cache.get(row)
        if framing.crop == "random":
            if found is None:
                picture = self.pairs.picture(row)
                found = cache.put(row, picture), picture.size
            square, (width, height) = found
            left, upper, right, lower = framing.box(width, height, draws)
            across, down = square.width / width, square.height / height
            return framing.take(square, (left * across, upper * down, right * across, lower * down), mirrored)
        if found is None:
            picture = self.pairs.picture(row)
            image = framing.take(picture, framing.box(*picture.size, draws), mirrored=False)
            cache.put_square(row, image, picture.size)
        else:
            image = np.asarray(found[0])
        return image[:, ::-1] if mirrored and framing.flip else image
