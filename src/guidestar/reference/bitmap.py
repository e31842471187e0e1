"""Which rows of a store have been written: one bit a row."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from guidestar.reference.arrays import ArrayFile, create_array

_BITS = np.dtype("uint8")
_CHUNK = 1 << 20  # bytes looked at in one go


class Bitmap:
    """The validity bits of a store's rows; row i is bit i % 8 of byte i // 8.

    Processes that write at the same time must not share a byte: they own runs that begin at multiples of 8 rows.

    Args:
        path: The file, made by `create_bitmap`.
        rows: How many rows there are.
        writable: Whether `set` may be called.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "valid.npy"
        >>> create_bitmap(path, 10)
        >>> bitmap = Bitmap(path, 10, writable=True)
        >>> bitmap.set(7, 9, True)
        >>> bitmap.close()
        >>> bitmap.count(), bitmap.missing(limit=3), bitmap.all(7, 9)
        (2, [0, 1, 2], True)
    """

    def __init__(self, path: Path, rows: int, *, writable: bool) -> None:
        self._rows = rows
        self._file = ArrayFile(path, (_num_bytes(rows),), _BITS, writable=writable)

    def set(self, start: int, stop: int, valid: bool) -> None:
        """Set the bits of rows `start` to `stop - 1`.

        Args:
            start: The first row.
            stop: The row after the last.
            valid: The value of the bits.
        """
        first = start // 8
        packed = self._file.data[first : _num_bytes(stop)]
        bits = np.unpackbits(packed, bitorder="little")
        bits[start - 8 * first : stop - 8 * first] = valid
        self._file.write(first, np.packbits(bits, bitorder="little"))

    def sync(self) -> None:
        """Return when the bits are on the disk."""
        self._file.sync()

    def close(self) -> None:
        """Close the handle for writing; the bits stay readable."""
        self._file.close()

    def get(self, rows: np.ndarray) -> np.ndarray:
        """The bits of some rows.

        Args:
            rows: Row numbers in range, int64, any shape.
        """
        return (self._file.data[rows >> 3] >> (rows & 7).astype(np.uint8) & 1).astype(bool)

    def span(self, start: int, stop: int) -> np.ndarray:
        """The bits of rows `start` to `stop - 1`, as bool.

        Args:
            start: The first row.
            stop: The row after the last.
        """
        first = start // 8
        bits = np.unpackbits(self._file.data[first : _num_bytes(stop)], bitorder="little")
        return bits[start - 8 * first : stop - 8 * first].astype(bool)

    def all(self, start: int, stop: int) -> bool:
        """Whether every row from `start` to `stop - 1` is valid.

        Args:
            start: The first row.
            stop: The row after the last.
        """
        return bool(self.span(start, stop).all())

    def count(self) -> int:
        """How many rows are valid."""
        return sum(int(bits.sum()) for _, bits in self._spans())

    def missing(self, limit: int) -> list[int]:
        """The first rows that are not valid.

        Args:
            limit: How many rows to return at most.
        """
        found: list[int] = []
        for start, bits in self._spans():
            found += (start + np.flatnonzero(~bits)[: limit - len(found)]).tolist()
            if len(found) == limit:
                break
        return found

    def _spans(self) -> Iterator[tuple[int, np.ndarray]]:
        for start in range(0, self._rows, 8 * _CHUNK):
            yield start, self.span(start, min(start + 8 * _CHUNK, self._rows))


def create_bitmap(path: Path, rows: int) -> None:
    """Create the file of a bitmap in which no row is valid.

    Args:
        path: The file.
        rows: How many rows there are.
    """
    create_array(path, (_num_bytes(rows),), _BITS)


def _num_bytes(rows: int) -> int:
    return (rows + 7) // 8
