"""The files of a store, and the order in which they are written."""

import errno
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from guidestar.reference.arrays import ArrayFile, create_array
from guidestar.reference.bitmap import Bitmap, create_bitmap
from guidestar.reference.meta import StoreMeta

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


class StoreFiles:
    """One file an array, and the validity bitmap; values are on the disk before their bits are.

    Args:
        path: The store's folder, made by `create_files`.
        meta: What the store should contain.
        writable: Whether `write` may be called.

    Raises:
        UserError: A file is missing or damaged.

    Example:
        >>> import tempfile
        >>> from guidestar.reference.meta import make_meta
        >>> path = Path(tempfile.mkdtemp()) / "store"
        >>> about = {"reference": {"name": "mlp", "weights": "w"}, "dataset": {"name": "train", "fingerprint": "f"}}
        >>> arrays = {"loss": ((), None)}
        >>> rest = {"preprocessing": None, "command": "", "block": 8}
        >>> meta = make_meta(kind="classification", rows=4, arrays=arrays, **about, **rest)
        >>> create_files(path, meta)
        >>> files = StoreFiles(path, meta, writable=True)
        >>> files.write(np.array([0, 2]), {"loss": np.array([1.0, 2.0], dtype="float32")})
        >>> files.commit()
        >>> files.close()
        >>> files.arrays["loss"].data.tolist(), files.valid.span(0, 4).tolist()
        ([1.0, 0.0, 2.0, 0.0], [True, False, True, False])
    """

    def __init__(self, path: Path, meta: StoreMeta, *, writable: bool) -> None:
        self.arrays = {
            name: ArrayFile(path / f"{name}.npy", (meta.rows, *shape), np.dtype(dtype), writable=writable)
            for name, (shape, dtype) in meta.arrays.items()
        }
        self.valid = Bitmap(path / "valid.npy", meta.rows, writable=writable)
        self.writable = writable
        self._path = path
        self._rows = meta.rows
        self._pending: list[tuple[int, int]] = []

    def write(self, rows: np.ndarray, arrays: Mapping[str, np.ndarray]) -> None:
        """Write values; their rows become valid with the next `commit`.

        Args:
            rows: Row numbers, sorted, each once.
            arrays: Name -> contiguous values [len(rows), ...] of the array's own type, for every array.

        Raises:
            OSError: The disk is full.
        """
        runs = _runs(rows)
        with self._disk_full_explained():
            self._invalidate(runs)
            offset = 0
            for start, stop in runs:
                for name, values in arrays.items():
                    self.arrays[name].write(start, values[offset : offset + stop - start])
                offset += stop - start
        self._pending += runs

    def commit(self) -> None:
        """Bring what was written to the disk, and only then mark its rows as valid.

        Raises:
            OSError: The disk is full.
        """
        # Taken out first: a sync that failed once may succeed when repeated although the values are lost.
        pending, self._pending = self._pending, []
        if not pending:
            return
        with self._disk_full_explained():
            for file in self.arrays.values():
                file.sync()
            for start, stop in pending:
                self.valid.set(start, stop, True)
            self.valid.sync()

    def close(self) -> None:
        """Stop writing; everything stays readable."""
        for file in (*self.arrays.values(), self.valid):
            file.close()
        self.writable = False

    def _invalidate(self, runs: list[tuple[int, int]]) -> None:
        """Rows that are written over must not be valid while they are half old and half new."""
        overwritten = [run for run in runs if self.valid.span(*run).any()]
        for start, stop in overwritten:
            self.valid.set(start, stop, False)
        if overwritten:
            self.valid.sync()

    @contextmanager
    def _disk_full_explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in _DISK_FULL:
                raise
            raise OSError(
                error.errno,
                f"The disk is full: {self.valid.count():,} of {self._rows:,} rows of the reference store are finished "
                "and safe. Free some space and continue with `guidestar score RECIPE --resume`",
                str(self._path),
            ) from error


def create_files(path: Path, meta: StoreMeta) -> None:
    """Make a store's files, at full size and empty, unless another process does so first.

    Args:
        path: The store's folder: not there yet, or empty.
        meta: What the store should contain.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # A folder of its own, renamed when it is whole: a store is there completely or not at all.
    aside = path.parent / f".{path.name}.{uuid.uuid4().hex}"
    aside.mkdir()
    try:
        for name, (shape, dtype) in meta.arrays.items():
            create_array(aside / f"{name}.npy", (meta.rows, *shape), np.dtype(dtype))
        create_bitmap(aside / "valid.npy", meta.rows)
        meta.save(aside)
        os.rename(aside, path)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _runs(rows: np.ndarray) -> list[tuple[int, int]]:
    """Sorted rows as (start, stop) of consecutive ones."""
    if not len(rows):
        return []
    cuts = np.flatnonzero(np.diff(rows) != 1) + 1
    starts, stops = rows[[0, *cuts]], rows[[*(cuts - 1), -1]] + 1
    return list(zip(starts.tolist(), stops.tolist(), strict=True))
