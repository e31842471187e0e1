"""Tables as they are in a CSV or Parquet file: named columns and a column of labels."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import numpy as np

from guidestar.errors import UserError

if TYPE_CHECKING:
    import pyarrow

# One column: numbers with NaN where a value is missing, or texts.
Column = np.ndarray | list[str]
_COLUMNS_SHOWN = 8


@dataclass(frozen=True)
class Table:
    """The content of a table file.

    Args:
        path: where it was read, for error messages.
        columns: the columns of inputs by name; float64 arrays (NaN: missing) or lists of texts.
        labels: the label column, numbers or texts.
        rows: the number of each row in the file, from 0.
    """

    path: str
    columns: Mapping[str, Column]
    labels: Column
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, positions: Sequence[int] | np.ndarray) -> Table:
        """The table of these rows, in this order."""
        columns = {name: _take(column, positions) for name, column in self.columns.items()}
        return Table(
            self.path, columns, _take(self.labels, positions), self.rows[np.asarray(positions, dtype=np.int64)]
        )

    def describe(self, position: int) -> str:
        """The first columns of a row in a line of text."""
        shown = list(self.columns.items())[:_COLUMNS_SHOWN]
        more = ", ..." if len(self.columns) > _COLUMNS_SHOWN else ""
        return ", ".join(f"{name}={as_text(column[position])}" for name, column in shown) + more


def as_text(value: float | str) -> str:
    """A cell as text: whole numbers without a decimal point, missing numbers as nothing."""
    if isinstance(value, str):
        return value.strip()
    if np.isnan(value):
        return ""
    return str(int(value)) if np.isfinite(value) and value == int(value) else str(float(value))


def read_csv(path: Path, label: str, *, drop: Sequence[str] = (), delimiter: str = ",") -> Table:
    """A CSV file (UTF-8, first line: the names of the columns); `.csv.gz` is unpacked while reading.

    Args:
        path: the file.
        label: the column of labels.
        drop: columns to leave out.
        delimiter: what stands between two values.

    Raises:
        UserError: not a table with these columns; names the line at fault.
        OSError: the file cannot be read.
    """
    with _csv_rows(path, delimiter) as reader:
        header = next(reader, (0, []))[1]
        _check_delimiter(path, header, label, delimiter)
        _check_columns(path, header, label, drop)
        columns: list[list[str]] = [[] for _ in header]
        for line, values in reader:
            if not values:
                continue
            if len(values) != len(header):
                raise UserError(f"{path}, line {line}: expected {len(header)} values, found {len(values)}.")
            for column, value in zip(columns, values, strict=True):
                column.append(value)
    named = dict(zip(header, columns, strict=True))
    return _table(path, named, label, drop)


def read_parquet(path: Path, label: str, *, drop: Sequence[str] = ()) -> Table:
    """A Parquet file; arguments and errors as `read_csv`.

    Raises:
        ImportError: pyarrow (extra `tables`) is not installed.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ImportError('`source: parquet` needs pyarrow: pip install "guidestar[tables]"') from error
    if not path.is_file():
        raise FileNotFoundError(f"`path` must be a Parquet file, found none at {path}.")
    try:
        content = parquet.ParquetFile(path).read()
    except pyarrow.ArrowInvalid as error:
        raise UserError(f"{path} is no Parquet file ({error}).") from error
    _check_columns(path, content.column_names, label, drop)
    named = {
        name: _from_arrow(content.column(name), f"{path}, column `{name}`")
        for name in content.column_names
        if name not in drop
    }
    return _table(path, named, label, drop)


def _table(path: Path, named: Mapping[str, Column], label: str, drop: Sequence[str]) -> Table:
    labels = named[label]
    if len(labels) == 0:
        raise UserError(f"{path} must have at least one row below its header, found none.")
    columns = {name: column for name, column in named.items() if name != label and name not in drop}
    return Table(str(path), columns, labels, np.arange(len(labels)))


@contextmanager
def _csv_rows(path: Path, delimiter: str) -> Iterator[Iterator[tuple[int, list[str]]]]:
    """The rows of the file, each with the number of its last line."""

    def rows(stream: TextIO) -> Iterator[tuple[int, list[str]]]:
        reader = csv.reader(stream, delimiter=delimiter, strict=True)
        try:
            for values in reader:
                yield reader.line_num, values
        except csv.Error as error:
            raise UserError(
                f"{path}, line {reader.line_num}: no valid CSV with `delimiter` {delimiter!r} ({error})."
            ) from error
        except UnicodeDecodeError as error:
            where = f" after line {reader.line_num}" if reader.line_num else ""
            raise UserError(f"{path} is not UTF-8 text{where} ({error}); save it as CSV in UTF-8.") from error

    if path.suffix == ".gz":
        with gzip.open(path, "rt", encoding="utf-8-sig", newline="") as stream:
            yield rows(stream)
    else:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            yield rows(stream)


def _check_delimiter(path: Path, header: Sequence[str], label: str, delimiter: str) -> None:
    """A first line that is one cell with another separator in it was most likely cut in the wrong places."""
    if len(header) != 1 or header[0] == label:
        return
    for other, written in ((";", '";"'), ("\t", '"\\t"'), (",", '","')):
        if other != delimiter and other in header[0]:
            raise UserError(
                f"`label`: {path} has no column `{label}`; with `delimiter` {delimiter!r} its first line is a single "
                f"column. Did you mean `delimiter: {written}`?"
            )


def _check_columns(path: Path, header: Sequence[str], label: str, drop: Sequence[str]) -> None:
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise UserError(f"{path}: column names must differ, found `{twice[0]}` more than once.")
    for key, name in [("label", label), *(("drop", name) for name in drop)]:
        if name not in header:
            raise UserError(f"`{key}`: {path} has no column `{name}`; it has: {', '.join(header)}.")
    if label in drop:
        raise UserError(f"`drop` must not hold the label column `{label}`.")
    if set(header) == {label, *drop}:
        raise UserError(f"{path} must have a column besides `label` and `drop`, found none.")


def _from_arrow(column: pyarrow.ChunkedArray, where: str) -> Column:
    from pyarrow import types

    kind = column.type.value_type if types.is_dictionary(column.type) else column.type
    if types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind) or types.is_decimal(kind):
        values = column.to_pylist()
        return np.array([np.nan if value is None else float(value) for value in values], dtype=np.float64)
    if types.is_nested(kind):
        raise UserError(f"{where}: each value must be a number or a text, found type {column.type}; list it in `drop`.")
    return ["" if value is None else str(value) for value in column.to_pylist()]


def _take(column: Column, positions: Sequence[int] | np.ndarray) -> Column:
    if isinstance(column, np.ndarray):
        return column[np.asarray(positions, dtype=np.int64)]
    return [column[position] for position in positions]
