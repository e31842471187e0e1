"""Rows of CSV, TSV and JSONL files."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from guidestar.errors import UserError

_DELIMITERS = {".csv": ",", ".tsv": "\t"}


def read_rows(table: Path, columns: Sequence[str | None]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each row of a table by column, with the number of its line.

    Args:
        table: a .csv, .tsv or .jsonl file in UTF-8, or one of these with .gz.
        columns: each row must have these; None stands for no column.

    Raises:
        UserError: it is another kind of file, lacks a column, or has a malformed line.
        OSError: it cannot be read.
    """
    suffix = Path(table.name.removesuffix(".gz")).suffix.lower()
    if suffix not in (*_DELIMITERS, ".jsonl"):
        raise UserError(f"`table` must be a .csv, .tsv or .jsonl file, or one of these with .gz; found {table}.")
    with _open(table) as stream:
        rows = _json_rows(stream, table) if suffix == ".jsonl" else _csv_rows(stream, table, _DELIMITERS[suffix])
        try:
            for line, cells in rows:
                for column in columns:
                    if column is not None and column not in cells:
                        raise UserError(
                            f"{table}, line {line}: there is no column `{column}`; it has: {', '.join(cells)}."
                        )
                yield line, cells
        except UnicodeDecodeError as error:
            raise UserError(f"{table} must be UTF-8 text ({error}).") from error


def _open(table: Path) -> TextIO:
    # The "sig" drops the byte order mark that spreadsheets write.
    if table.suffix == ".gz":
        return gzip.open(table, "rt", encoding="utf-8-sig", newline="")
    return table.open(encoding="utf-8-sig", newline="")


def _csv_rows(stream: TextIO, table: Path, delimiter: str) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.reader(stream, delimiter=delimiter)
    header = next(reader, [])
    for values in reader:
        if not values:
            continue
        if len(values) != len(header):
            raise UserError(f"{table}, line {reader.line_num}: expected {len(header)} values, found {len(values)}.")
        yield reader.line_num, dict(zip(header, values, strict=True))


def _json_rows(stream: TextIO, table: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, text in enumerate(stream, start=1):
        if not text.strip():
            continue
        try:
            cells = json.loads(text)
        except json.JSONDecodeError as error:
            raise UserError(f"{table}, line {line}: this is not JSON ({error}).") from error
        if not isinstance(cells, dict):
            raise UserError(f"{table}, line {line}: expected an object, found {type(cells).__name__}.")
        yield line, cells
