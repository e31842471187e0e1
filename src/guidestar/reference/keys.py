"""Joining rows by their keys."""

import hashlib
from collections.abc import Callable, Sequence

import numpy as np

from guidestar.errors import UserError

_SHOWN = 5  # keys named in an error
_CHUNK = 1 << 16  # rows of the key column looked at in one go


def hash_keys(keys: Sequence[str]) -> np.ndarray:
    """The first eight bytes of each key's sha256, as uint64.

    Two different keys among n share a hash with probability about n^2 / 2^65: 0.2 % for 255 million rows.

    Args:
        keys: Row keys.

    Example:
        >>> hash_keys(["cat.png", "dog.png", "cat.png"])[0] == hash_keys(["cat.png"])[0]
        np.True_
    """
    digests = b"".join([hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()[:8] for key in keys])
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)


def join_keys(
    keys: Sequence[str], column: np.ndarray, valid: Callable[[int, int], np.ndarray], what: str
) -> np.ndarray:
    """The row of each key, int64 [len(keys)].

    Args:
        keys: Row keys.
        column: The key column, uint64 [n].
        valid: (start, stop) -> which of those rows count, bool.
        what: What the column belongs to, for the error message.

    Raises:
        UserError: A key is not in the column, or is there more than once.

    Example:
        >>> column = hash_keys(["a", "b", "c"])
        >>> join_keys(["c", "a"], column, lambda start, stop: np.full(stop - start, True), "the example").tolist()
        [2, 0]
    """
    rows, counts = find_hashes(hash_keys(keys), column, valid)
    for bad, where in ((counts == 0, "not in"), (counts > 1, "more than once in")):
        found = np.flatnonzero(bad)
        if len(found):
            names = ", ".join(repr(keys[i]) for i in found[:_SHOWN].tolist())
            more = ", ..." if len(found) > _SHOWN else ""
            raise UserError(
                f"{len(found):,} of {len(keys):,} row keys are {where} {what}: {names}{more}. "
                "Point to the store that was made for this data, or score it into another folder "
                "(`guidestar score RECIPE`)."
            )
    return rows


def find_hashes(
    wanted: np.ndarray, column: np.ndarray, valid: Callable[[int, int], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Where hashes are in a key column, in one pass over it; memory grows with `wanted` only.

    Args:
        wanted: Hashes, uint64 [m]; repeats are allowed.
        column: The key column, uint64 [n].
        valid: (start, stop) -> which of those rows count, bool.

    Returns:
        The row of each wanted hash, -1 where there is none, and how many rows have it (more than 1: no single answer).

    Example:
        >>> column = np.array([7, 8, 9, 8], dtype=np.uint64)
        >>> rows, counts = find_hashes(np.array([9, 8, 5], dtype=np.uint64), column, lambda a, b: np.full(b - a, True))
        >>> rows[0].item(), rows[2].item(), counts.tolist()
        (2, -1, [1, 2, 0])
    """
    unique, inverse = np.unique(wanted, return_inverse=True)
    rows = np.full(len(unique), -1, dtype=np.int64)
    counts = np.zeros(len(unique), dtype=np.int64)
    for start in range(0, len(column) if len(unique) else 0, _CHUNK):
        stop = min(start + _CHUNK, len(column))
        chunk = column[start:stop]
        place = np.minimum(np.searchsorted(unique, chunk), len(unique) - 1)
        hits = np.flatnonzero((unique[place] == chunk) & valid(start, stop))
        rows[place[hits]] = start + hits
        np.add.at(counts, place[hits], 1)
    return rows[inverse], counts[inverse]
