"""Pairs whose rows point at positions of some content, so that subsets and recaptioned copies share it."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image

from guidestar.data.pairs.protocol import Part, Rows
from guidestar.data.pairs.strings import CaptionLists
from guidestar.errors import UserError

BLOCK = 4096


class Content(Protocol):
    """Pairs by position, as a source reads them; picklable for worker processes.

    `digests` gives two hashes a position, uint64 `[m, 2]`: of key and image (or its size), and of the text.
    `reading` names the settings that decide what is read, for the fingerprint.
    """

    @property
    def max_captions(self) -> int: ...
    @property
    def reading(self) -> str: ...

    def __len__(self) -> int: ...
    def key(self, position: int) -> str: ...
    def captions(self, position: int) -> list[str]: ...
    def picture(self, position: int) -> Image.Image: ...
    def digests(self, positions: np.ndarray) -> np.ndarray: ...
    def parts(self) -> list[Part]: ...
    def blocks(self) -> list[Part]: ...


class RowPairs:
    """Image-text pairs over some content.

    Args:
        content: where keys, captions and images are read.
        name: "train" or "test".
        labels: class ids, int64 `[n]`, already checked; None: there are none.
        class_names: one name a class.
    """

    def __init__(
        self,
        content: Content,
        *,
        name: str,
        labels: torch.Tensor | None = None,
        class_names: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.labels = labels
        self.class_names = list(class_names)
        self._content = content
        # None: row i is position i; the usual case for data of any size, and then free.
        self._positions: np.ndarray | None = None
        self._captions: CaptionLists | None = None
        self._fingerprint: str | None = None

    def __len__(self) -> int:
        return len(self._content) if self._positions is None else len(self._positions)

    @property
    def max_captions(self) -> int:
        """The largest number of captions of a row; for a subset that of its source."""
        return self._content.max_captions if self._captions is None else self._captions.largest

    def keys(self, rows: Rows) -> list[str]:
        """The identity of each of `rows`.

        Raises:
            IndexError: a row is out of range.
            TypeError: `rows` are not whole numbers.
        """
        return [self._content.key(position) for position in self._at(check_rows(rows, len(self))).tolist()]

    def captions(self, row: int) -> list[str]:
        """All captions of a row.

        Raises:
            IndexError: the row is out of range.
            Unreadable: there is none under the names that the settings give.
        """
        position = self._position(row)
        return self._content.captions(position) if self._captions is None else self._captions[row]

    def picture(self, row: int) -> Image.Image:
        """The image of a row, decoded, upright and RGB.

        Raises:
            IndexError: the row is out of range.
            Unreadable: it cannot be decoded, or has too many pixels; the message names its key.
        """
        return self._content.picture(self._position(row))

    def parts(self) -> list[Part]:
        """All rows in order, cut into named runs: (name, first row, end row)."""
        return self._cut(self._content.parts())

    def blocks(self) -> list[Part]:
        """All rows in order, cut into the runs that the source reads at once."""
        return self._cut(self._content.blocks())

    def fingerprint(self) -> str:
        """SHA-256 (hex) over keys, image sizes, captions, labels, classes and order; the name does not count."""
        if self._fingerprint is None:
            digest = hashlib.sha256(repr(("pairs", self._content.reading, len(self), self.class_names)).encode())
            if self.labels is not None:
                digest.update(self.labels.numpy().tobytes())
            for first in range(0, len(self), 16 * BLOCK):
                rows = np.arange(first, min(first + 16 * BLOCK, len(self)))
                found = self._content.digests(self._at(rows))
                if self._captions is not None:
                    found[:, 1] = [hash_texts(self._captions[row]) for row in rows.tolist()]
                digest.update(np.ascontiguousarray(found, dtype="<u8").tobytes())
            self._fingerprint = digest.hexdigest()
        return self._fingerprint

    def subset(self, rows: Rows, name: str | None = None) -> RowPairs:
        """The pairs of these rows, in this order; shares the content.

        Raises:
            IndexError: a row is out of range.
            TypeError: `rows` are not whole numbers (a mask is not a list of rows).
        """
        index = check_rows(rows, len(self))
        captions = None if self._captions is None else CaptionLists.of([self._captions[row] for row in index.tolist()])
        return self._copy(
            name=self.name if name is None else name,
            labels=None if self.labels is None else self.labels[torch.from_numpy(index)],
            _positions=self._at(index),
            _captions=captions,
        )

    def with_captions(self, captions: Sequence[Sequence[str]]) -> RowPairs:
        """The same images with other captions.

        Raises:
            UserError: there is not at least one caption for each row.
            TypeError: a row's captions are one text instead of a list of them.
        """
        if len(captions) != len(self):
            raise UserError(f"`captions` must be one list a row: there are {len(self)} rows, found {len(captions)}.")
        for row, texts in enumerate(captions):
            if isinstance(texts, str):
                raise TypeError(f"`captions` must be lists of texts, found a text in row {row}; write [text].")
            if not texts:
                raise UserError(f"`captions` must hold at least one text a row, found none in row {row}.")
        return self._copy(_captions=CaptionLists.of(captions))

    def _copy(self, **changes: Any) -> RowPairs:
        other = copy.copy(self)
        other._fingerprint = None
        for attribute, value in changes.items():
            setattr(other, attribute, value)
        return other

    def _position(self, row: int) -> int:
        if not 0 <= row < len(self):
            raise IndexError(f"`row` must be in 0 .. {len(self) - 1}, found {row}.")
        return row if self._positions is None else int(self._positions[row])

    def _at(self, rows: np.ndarray) -> np.ndarray:
        return rows if self._positions is None else self._positions[rows]

    def _cut(self, parts: list[Part]) -> list[Part]:
        """The content's parts as rows: where positions rise, each part has a run of rows; otherwise equal blocks."""
        positions = self._positions
        if positions is None:
            return parts
        if len(positions) > 1 and not bool((np.diff(positions) > 0).all()):
            return equal_blocks(len(positions))
        bounds = np.searchsorted(positions, [parts[0][1], *(end for _, _, end in parts)]) if parts else []
        runs = zip(parts, bounds[:-1], bounds[1:], strict=True)
        return [(name, int(first), int(end)) for (name, _, _), first, end in runs if end > first]


def equal_blocks(rows: int, size: int = BLOCK) -> list[Part]:
    """Rows cut into blocks of `size`, named by their number.

    Example:
        >>> equal_blocks(5, 4)
        [('block-00000', 0, 4), ('block-00001', 4, 5)]
    """
    return [
        (f"block-{number:05d}", first, min(first + size, rows)) for number, first in enumerate(range(0, rows, size))
    ]


def hash_texts(texts: Iterable[str | bytes]) -> int:
    """The first eight bytes of the sha256 over texts and their lengths.

    Example:
        >>> hash_texts(["ab", "c"]) == hash_texts(["a", "bc"])
        False
    """
    digest = hashlib.sha256()
    for text in texts:
        encoded = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
        digest.update(len(encoded).to_bytes(8, "little"))
        digest.update(encoded)
    return int.from_bytes(digest.digest()[:8], "little")


def check_rows(rows: Rows, size: int) -> np.ndarray:
    """Row numbers as int64 `[m]`.

    Raises:
        TypeError: they are not whole numbers.
        IndexError: one is not in `0 .. size - 1`.

    Example:
        >>> check_rows([2, 0], 3).tolist()
        [2, 0]
    """
    index = np.asarray(rows)
    if index.size == 0:
        return np.zeros(0, dtype=np.int64)
    if index.dtype.kind not in "iu":
        raise TypeError(f"`rows` must be row numbers, found {index.dtype}; turn a mask into rows with `nonzero`.")
    low, high = int(index.min()), int(index.max())
    if low < 0 or high >= size:
        raise IndexError(f"`rows` must be in 0 .. {size - 1}, found {low if low < 0 else high}.")
    return index.astype(np.int64)
