"""Image-text pairs in Parquet files that hold the bytes of the images."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from guidestar.data.pairs.patterns import find_files, part_names
from guidestar.data.pairs.protocol import Part
from guidestar.data.pairs.rows import RowPairs
from guidestar.data.pairs.settings import ParquetPairs
from guidestar.data.pairs.table import check_columns, check_image_type, table_pairs
from guidestar.errors import UserError

if TYPE_CHECKING:
    import pyarrow
    from pyarrow import parquet

_MEMORY = 512 << 20  # bytes of row groups that a process keeps


class ParquetReader:
    """The row groups of Parquet files, by position; those read last stay in memory, up to 512 MiB.

    Args:
        paths: the files.
        image: the column of images.
        texts: the other columns that are wanted.

    Raises:
        UserError: a file is no Parquet file.
        OSError: a file cannot be read.
    """

    def __init__(self, paths: Sequence[Path], image: str, texts: Sequence[str]) -> None:
        self._paths, self._names = list(paths), part_names(paths)
        self._image, self._texts = image, list(texts)
        self._files: dict[int, parquet.ParquetFile] = {}
        self._kept: OrderedDict[tuple[int, bool], pyarrow.Table] = OrderedDict()
        self._groups: list[tuple[int, int]] = []  # file, and group in it
        self._ends: list[int] = []
        self._parts: list[Part] = []
        end = 0
        for number, name in enumerate(self._names):
            metadata, first = self._file(number).metadata, end
            for group in range(metadata.num_row_groups):
                end += metadata.row_group(group).num_rows
                self._groups.append((number, group))
                self._ends.append(end)
            if end > first:
                self._parts.append((name, first, end))
        self.source = str(paths[0]) if len(paths) == 1 else f"{len(paths)} Parquet files ({paths[0]}, ...)"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": {}, "_kept": OrderedDict()}  # open files do not travel to other processes

    def schema(self, number: int) -> pyarrow.Schema:
        """The names and types of the columns of a file."""
        return self._file(number).schema_arrow

    def parts(self) -> list[Part]:
        return list(self._parts)

    def groups(self) -> list[Part]:
        firsts = [0, *self._ends[:-1]]
        runs = zip(self._groups, firsts, self._ends, strict=True)
        return [(f"{self._names[number]}:{group}", first, end) for (number, group), first, end in runs]

    def texts(self, group: int) -> pyarrow.Table:
        return self._read(group, image=False)

    def image(self, position: int) -> Any:
        group = int(np.searchsorted(self._ends, position, side="right"))
        first = 0 if group == 0 else self._ends[group - 1]
        return self._read(group, image=True).column(self._image)[position - first].as_py()

    def image_sizes(self, group: int) -> np.ndarray:
        # The size of the column in the file; those of the images are known only after reading all of them.
        number, at = self._groups[group]
        found = self._file(number).metadata.row_group(at)
        columns = (found.column(column) for column in range(found.num_columns))
        size = sum(
            column.total_compressed_size for column in columns if column.path_in_schema.split(".")[0] == self._image
        )
        return np.full(found.num_rows, size, dtype=np.int64)

    def row_name(self, position: int) -> str:
        part = int(np.searchsorted([end for _, _, end in self._parts], position, side="right"))
        name, first, _ = self._parts[part]
        return f"{name}:{position - first}"

    def _file(self, number: int) -> parquet.ParquetFile:
        import pyarrow
        from pyarrow import parquet

        if number not in self._files:
            try:
                self._files[number] = parquet.ParquetFile(self._paths[number])
            except pyarrow.ArrowInvalid as error:
                raise UserError(f"{self._paths[number]} is no Parquet file ({error}).") from error
        return self._files[number]

    def _read(self, group: int, *, image: bool) -> pyarrow.Table:
        found = self._kept.get((group, image))
        if found is None:
            number, at = self._groups[group]
            columns = [self._image] if image else self._texts
            # Without Arrow's own threads: worker processes are many already, and forked.
            found = self._file(number).read_row_group(at, columns=columns, use_threads=False)
            self._kept[group, image] = found
            while len(self._kept) > 1 and sum(table.nbytes for table in self._kept.values()) > _MEMORY:
                self._kept.popitem(last=False)
        self._kept.move_to_end((group, image))
        return found


def read_parquet(
    settings: ParquetPairs, *, base: Path, name: str, other: Sequence[str] | None, on_error: str
) -> RowPairs:
    """The pairs of Parquet files.

    Args:
        settings: the files and their columns.
        base: the folder of the recipe.
        name: "train" or "test".
        other: class names of the training data, when this is the test data.
        on_error: "raise" or "skip" rows without a caption.

    Raises:
        ImportError: pyarrow (extra `tables`) is not installed.
        UserError: a file lacks a column, or a row a caption.
        OSError: a file cannot be read.
    """
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise ImportError('`source: parquet` needs pyarrow: pip install "guidestar[tables]"') from error
    paths = find_files(settings.files, base, "files")
    reader = ParquetReader(paths, settings.image, [])
    for number, path in enumerate(paths):
        schema = reader.schema(number)
        texts = check_columns(settings, schema.names, str(path))
        check_image_type(schema.field(settings.image).type, settings.image, str(path))
    reader = ParquetReader(paths, settings.image, texts)
    return table_pairs(reader, settings, name=name, other=other, on_error=on_error)
