"""Pairs in columns of Arrow tables, which are read group by group."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from PIL import Image

from guidestar.data.pairs.captions import caption_texts, log_skipped
from guidestar.data.pairs.decoding import decode_picture
from guidestar.data.pairs.labels import class_ids
from guidestar.data.pairs.protocol import Part, Unreadable
from guidestar.data.pairs.rows import RowPairs, hash_texts
from guidestar.data.pairs.settings import ColumnSettings
from guidestar.errors import UserError

if TYPE_CHECKING:
    import pyarrow


class TableReader(Protocol):
    """Arrow tables on a disk, by position; picklable.

    `texts` gives the wanted columns but the image of a group of rows, `image` one cell of the image column, and
    `image_sizes` a number a row of a group that changes when images do. `row_name` is unique.
    """

    @property
    def source(self) -> str: ...

    def parts(self) -> list[Part]: ...
    def groups(self) -> list[Part]: ...
    def texts(self, group: int) -> pyarrow.Table: ...
    def image(self, position: int) -> Any: ...
    def image_sizes(self, group: int) -> np.ndarray: ...
    def row_name(self, position: int) -> str: ...


class TableContent:
    """Pairs in Arrow tables, by position; texts are looked through once, images are read when they are wanted.

    Args:
        reader: where the tables are.
        settings: which columns hold what.

    Attributes:
        counts: the number of captions of each position, int64 `[n]`.
        labels: the value of the label column of each position; empty without one.

    Raises:
        UserError: a key is missing or there twice, or a caption is no text.
    """

    def __init__(self, reader: TableReader, settings: ColumnSettings) -> None:
        self._reader, self._settings = reader, settings
        groups = reader.groups()
        self._starts = np.array([first for _, first, _ in groups] + [groups[-1][2] if groups else 0], dtype=np.int64)
        self.counts = np.zeros(len(self), dtype=np.int64)
        self._digests = np.zeros((len(self), 2), dtype=np.uint64)
        self._key_hashes = np.zeros(len(self), dtype=np.uint64)
        self.labels: list[Any] = []
        for group in range(len(groups)):
            self._look_through(group)
        self._check_keys()
        self.max_captions = int(self.counts.max(initial=0))
        self.reading = f"table {settings.caption_columns} {settings.key}"

    def __len__(self) -> int:
        return int(self._starts[-1])

    def key(self, position: int) -> str:
        if self._settings.key is None:
            return self._reader.row_name(position)
        return str(self._cell(position, self._settings.key))

    def captions(self, position: int) -> list[str]:
        cells = [self._cell(position, column) for column in self._settings.caption_columns]
        return caption_texts(cells, lambda: self._reader.row_name(position))

    def picture(self, position: int) -> Image.Image:
        where = f"{self.key(position)!r} ({self._reader.row_name(position)} of {self._reader.source})"
        encoded = image_bytes(self._reader.image(position), where)
        return decode_picture(encoded, where, self._settings.max_pixels)

    def digests(self, positions: np.ndarray) -> np.ndarray:
        return self._digests[positions]

    def parts(self) -> list[Part]:
        return self._reader.parts()

    def blocks(self) -> list[Part]:
        return self._reader.groups()

    def _cell(self, position: int, column: str) -> Any:
        group = int(np.searchsorted(self._starts, position, side="right")) - 1
        return self._reader.texts(group).column(column)[position - int(self._starts[group])].as_py()

    def _look_through(self, group: int) -> None:
        settings, first = self._settings, int(self._starts[group])
        table = self._reader.texts(group)
        columns = [table.column(column).to_pylist() for column in settings.caption_columns]
        keys = None if settings.key is None else table.column(settings.key).to_pylist()
        sizes = self._reader.image_sizes(group).tolist()
        for at, size in enumerate(sizes):
            position = first + at
            name = self._reader.row_name(position)
            texts = caption_texts([column[at] for column in columns], lambda name=name: name)
            key = name if keys is None else keys[at]
            if key is None or key == "":
                raise UserError(f"`key`: {name} of {self._reader.source} has no key in column `{settings.key}`.")
            self.counts[position] = len(texts)
            self._key_hashes[position] = hash_texts([str(key)])
            self._digests[position] = hash_texts([str(key), str(size)]), hash_texts(texts)
        if settings.label is not None:
            self.labels += table.column(settings.label).to_pylist()

    def _check_keys(self) -> None:
        if self._settings.key is None:
            return
        ordered = np.sort(self._key_hashes)
        repeated = ordered[1:][ordered[1:] == ordered[:-1]]
        if repeated.size:
            position = int(np.flatnonzero(self._key_hashes == repeated[0])[0])
            raise UserError(
                f"`key`: column `{self._settings.key}` of {self._reader.source} holds {self.key(position)!r} in several "
                "rows; keys must be unique."
            )


def table_pairs(
    reader: TableReader,
    settings: ColumnSettings,
    *,
    name: str,
    other: Sequence[str] | None,
    on_error: str,
    class_names: Sequence[str] | None = None,
) -> RowPairs:
    """The pairs of Arrow tables.

    Args:
        reader: where the tables are.
        settings: which columns hold what.
        name: "train" or "test".
        other: class names of the training data, when this is the test data.
        on_error: "raise" or "skip" rows without a caption.
        class_names: names that the source itself gives to labels 0, 1, ...

    Raises:
        UserError: a row has no caption, no key, or no label, or all lack captions.
    """
    content = TableContent(reader, settings)
    lacking = np.flatnonzero(content.counts == 0).tolist()
    if len(lacking) == len(content):
        raise UserError(f"{reader.source} has no row with a caption in {', '.join(settings.caption_columns)}.")
    if lacking and on_error == "raise":
        raise UserError(
            f"{reader.source}: {reader.row_name(lacking[0])} has no caption in {', '.join(settings.caption_columns)} "
            f"({len(lacking)} of {len(content)} rows have none). Add one, or set `on_error: skip`."
        )
    log_skipped(reader.source, [f"{reader.row_name(at)} has no caption" for at in lacking], len(content))
    kept = np.setdiff1d(np.arange(len(content)), lacking)
    pairs = RowPairs(content, name=name)
    pairs = pairs if not lacking else pairs.subset(kept)
    if settings.label is not None:
        given = settings.class_names or class_names
        values = [content.labels[at] for at in kept.tolist()]
        pairs.labels, pairs.class_names = class_ids(
            values, given=given, other=None if given else other, key=lambda at: reader.row_name(int(kept[at]))
        )
        content.labels = []  # they are in `pairs` now
    return pairs


def image_bytes(cell: Any, where: str) -> bytes:
    """The encoded image in a cell: bytes, or {"bytes": ..., "path": ...} as Hugging Face stores it.

    Raises:
        Unreadable: there is none.

    Example:
        >>> image_bytes({"bytes": b"content", "path": "a.jpg"}, "the example")
        b'content'
    """
    if isinstance(cell, bytes):
        return cell
    if isinstance(cell, dict):
        if isinstance(cell.get("bytes"), bytes):
            return cell["bytes"]
        if isinstance(cell.get("path"), str) and Path(cell["path"]).is_file():
            return Path(cell["path"]).read_bytes()
        raise Unreadable(f"the image of {where} is missing: it has no bytes, and no file at {cell.get('path')!r}.")
    raise Unreadable(f"the image of {where} is missing: the cell is empty.")


def check_image_type(kind: pyarrow.DataType, column: str, source: str) -> None:
    """Raise if a column cannot hold encoded images.

    Raises:
        UserError: it is neither of bytes nor of {"bytes": ..., "path": ...}.
    """
    from pyarrow import types

    names = [kind.field(at).name for at in range(kind.num_fields)] if types.is_struct(kind) else []
    if not ("bytes" in names or types.is_binary(kind) or types.is_large_binary(kind)):
        raise UserError(f"`image`: column `{column}` of {source} must hold the bytes of images, found {kind}.")


def check_columns(settings: ColumnSettings, present: Sequence[str], source: str) -> list[str]:
    """The columns that are wanted besides the image.

    Raises:
        UserError: one is not there; names its key in the settings.

    Example:
        >>> check_columns(ColumnSettings(captions=["title"]), ["image", "title", "id"], "the example")
        ['title']
    """
    wanted = [("image", settings.image), *(("captions", column) for column in settings.caption_columns)]
    wanted += [(key, column) for key, column in (("key", settings.key), ("label", settings.label)) if column]
    for key, column in wanted:
        if column not in present:
            raise UserError(f"`{key}`: {source} has no column `{column}`; it has: {', '.join(present)}.")
    return list(dict.fromkeys(column for key, column in wanted if key != "image"))
