"""One array of a store: an .npy file of full size, read through a memory map and written through a file handle."""

import os
from io import FileIO
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from guidestar.errors import UserError


class ArrayFile:
    """An .npy file whose rows are read and written in place, in constant memory.

    Writing goes through a file handle and not through the map: a full disk is then an `OSError`, where a write to a
    page of a map that cannot be allocated would end the process with a bus error.

    Args:
        path: The file, made by `create_array`.
        shape: The whole array's shape, rows first.
        dtype: The array's type.
        writable: Whether `write` may be called.

    Raises:
        UserError: The file is missing, is not an .npy file, was cut short, or holds another shape or type.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "loss.npy"
        >>> create_array(path, (4,), np.dtype("float32"))
        >>> file = ArrayFile(path, (4,), np.dtype("float32"), writable=True)
        >>> file.write(1, np.array([2.0, 3.0], dtype="float32"))
        >>> file.close()
        >>> file.data.tolist()
        [0.0, 2.0, 3.0, 0.0]
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: np.dtype, *, writable: bool) -> None:
        self._offset = _check(path, shape, dtype)
        self._row_bytes = dtype.itemsize * int(np.prod(shape[1:]))
        self._path = path
        # asarray drops the memmap subclass, whose indexing is several times slower; the pages stay mapped.
        self.data: np.ndarray = np.asarray(np.memmap(path, dtype=dtype, mode="r", offset=self._offset, shape=shape))
        # Unbuffered: nothing may wait in this process when it is killed.
        self._handle: FileIO | None = FileIO(path, "r+") if writable else None

    def write(self, start: int, values: np.ndarray) -> None:
        """Write consecutive rows.

        Args:
            start: The first row.
            values: Contiguous rows of the file's own type.

        Raises:
            OSError: The file was opened for reading only, or the disk is full.
        """
        handle = self._writable()
        handle.seek(self._offset + start * self._row_bytes)
        write_all(handle, values)

    def sync(self) -> None:
        """Return when everything that was written is on the disk."""
        os.fsync(self._writable().fileno())

    def close(self) -> None:
        """Close the handle for writing; `data` stays readable."""
        if self._handle is not None:
            self._handle.close()
            self._handle = None

    def _writable(self) -> FileIO:
        if self._handle is None:
            raise OSError(f"{self._path} is open for reading only")
        return self._handle


def create_array(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """Create an .npy file of full size, filled with zeros, that takes disk space only where it is written.

    Args:
        path: The file.
        shape: The whole array's shape, rows first.
        dtype: The array's type.
    """
    with open(path, "wb") as file:
        header = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        npy.write_array_header_1_0(file, header)
        file.truncate(file.tell() + dtype.itemsize * int(np.prod(shape)))
        file.flush()
        os.fsync(file.fileno())


def write_all(handle: FileIO, values: np.ndarray) -> None:
    """Write all bytes of an array: an unbuffered handle may take fewer than it is given.

    Args:
        handle: Where to write, at its present position.
        values: A contiguous array.
    """
    left = values.reshape(-1).view(np.uint8).data
    while left:
        left = left[handle.write(left) :]


def _check(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> int:
    """Compare a file with what the store says it is, and return where its values begin."""
    again = "The store is damaged: delete its folder and score again (`guidestar score RECIPE`)."
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            npy.read_magic(file)
            found_shape, fortran, found_dtype = npy.read_array_header_1_0(file)
            offset = file.tell()
    except FileNotFoundError:
        raise UserError(f"Array file {path} is missing. {again}") from None
    except ValueError as error:
        raise UserError(f"Array file {path} is not a readable .npy file ({error}). {again}") from error
    if fortran or tuple(found_shape) != shape or found_dtype != dtype:
        raise UserError(
            f"Array file {path} holds {found_dtype} {tuple(found_shape)}, but meta.json says {dtype} {shape}. {again}"
        )
    expected = offset + dtype.itemsize * int(np.prod(shape))
    if size != expected:
        raise UserError(f"Array file {path} should have {expected:,} bytes, found {size:,}: it was cut short. {again}")
    return offset
