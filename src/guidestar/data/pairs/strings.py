"""Many strings in two arrays, for the keys and captions of millions of rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Strings:
    """Strings one after the other as UTF-8; a Python list of them would need five times the memory.

    Args:
        data: all bytes, uint8.
        offsets: string i is bytes `offsets[i]` to `offsets[i + 1]`, int64 `[n + 1]`.

    Example:
        >>> names = Strings.of(["cat", "näh"])
        >>> len(names), names[1], names.data.size
        (2, 'näh', 7)
    """

    data: np.ndarray
    offsets: np.ndarray

    @staticmethod
    def of(texts: Iterable[str]) -> Strings:
        """Pack texts, in order."""
        encoded = [text.encode("utf-8", "surrogateescape") for text in texts]
        offsets = np.zeros(len(encoded) + 1, dtype=np.int64)
        np.cumsum([len(text) for text in encoded], out=offsets[1:])
        return Strings(np.frombuffer(b"".join(encoded), dtype=np.uint8), offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, position: int) -> str:
        return self.bytes_at(position).decode("utf-8", "surrogateescape")

    def bytes_at(self, position: int) -> bytes:
        """The UTF-8 bytes of a string."""
        return self.data[self.offsets[position] : self.offsets[position + 1]].tobytes()


@dataclass(frozen=True)
class CaptionLists:
    """The captions of each row.

    Args:
        texts: the captions of all rows, row by row.
        starts: row i has the captions `starts[i]` to `starts[i + 1]`, int64 `[n + 1]`.

    Example:
        >>> captions = CaptionLists.of([["a cat"], ["a dog", "one dog"]])
        >>> captions[1], captions.largest
        (['a dog', 'one dog'], 2)
    """

    texts: Strings
    starts: np.ndarray

    @staticmethod
    def of(captions: Sequence[Sequence[str]]) -> CaptionLists:
        """Pack the captions of rows, in order."""
        starts = np.zeros(len(captions) + 1, dtype=np.int64)
        np.cumsum([len(texts) for texts in captions], out=starts[1:])
        return CaptionLists(Strings.of(text for texts in captions for text in texts), starts)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, position: int) -> list[str]:
        return [self.texts[at] for at in range(int(self.starts[position]), int(self.starts[position + 1]))]

    @property
    def largest(self) -> int:
        """The largest number of captions of a row."""
        return int(np.diff(self.starts).max(initial=0))
