"""Image files with a table of their captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from guidestar.data.pairs.captions import caption_texts, log_skipped, rows_with_captions
from guidestar.data.pairs.decoding import decode_picture
from guidestar.data.pairs.labels import class_ids
from guidestar.data.pairs.protocol import Part
from guidestar.data.pairs.rows import RowPairs, equal_blocks, hash_texts
from guidestar.data.pairs.settings import FolderPairs
from guidestar.data.pairs.strings import CaptionLists, Strings
from guidestar.data.pairs.text_tables import read_rows
from guidestar.errors import UserError


class FolderContent:
    """Image files below a folder and their captions, by position.

    Args:
        root: the folder.
        files: the names of the files below it.
        keys: the identities.
        captions: the captions of each position.
        max_pixels: images of more pixels are not decoded.
    """

    def __init__(self, root: Path, files: Strings, keys: Strings, captions: CaptionLists, max_pixels: int) -> None:
        self._root, self._files, self._keys, self._captions = root, files, keys, captions
        self._max_pixels = max_pixels
        self.max_captions = captions.largest
        self.reading = "folder"

    def __len__(self) -> int:
        return len(self._files)

    def key(self, position: int) -> str:
        return self._keys[position]

    def captions(self, position: int) -> list[str]:
        return self._captions[position]

    def picture(self, position: int) -> Image.Image:
        path = self._root / self._files[position]
        return decode_picture(path.read_bytes(), f"{self.key(position)!r} ({path})", self._max_pixels)

    def digests(self, positions: np.ndarray) -> np.ndarray:
        found = [
            (
                hash_texts([self._keys.bytes_at(at), str((self._root / self._files[at]).stat().st_size)]),
                hash_texts(self._captions[at]),
            )
            for at in positions.tolist()
        ]
        return np.array(found, dtype=np.uint64).reshape(-1, 2)

    def parts(self) -> list[Part]:
        return equal_blocks(len(self))

    def blocks(self) -> list[Part]:
        return equal_blocks(len(self))


def read_folder(
    settings: FolderPairs, *, base: Path, name: str, other: Sequence[str] | None, on_error: str
) -> RowPairs:
    """The pairs of a table of file names and captions; rows with the same file name are one pair with their captions.

    Args:
        settings: the table, its columns and the folder.
        base: the folder of the recipe.
        name: "train" or "test".
        other: class names of the training data, when this is the test data.
        on_error: "raise", or "skip" images that are missing or without a caption.

    Raises:
        UserError: the table lacks a column, a value is not what it should be, or an image is missing.
        OSError: the table cannot be read.
    """
    table = base / settings.table
    root = table.parent if settings.images is None else base / settings.images
    if not root.is_dir():
        raise NotADirectoryError(f"`images` must be the folder of the images, found {root}.")
    images = list(_images(table, settings).values())
    with_text = rows_with_captions(
        [image.captions for image in images], lambda at: repr(images[at].key), on_error, str(table)
    )
    kept = _present(root, [images[at] for at in with_text.tolist()], on_error, table)
    labels, class_names = None, []
    if settings.label is not None:
        labels, class_names = class_ids(
            [image.label for image in kept],
            given=settings.class_names,
            other=other,
            key=lambda at: repr(kept[at].key),
        )
    content = FolderContent(
        root,
        Strings.of(image.file for image in kept),
        Strings.of(image.key for image in kept),
        CaptionLists.of([image.captions for image in kept]),
        settings.max_pixels,
    )
    return RowPairs(content, name=name, labels=labels, class_names=class_names)


@dataclass(frozen=True)
class _Listed:
    """An image of the table."""

    file: str
    key: str
    label: Any
    captions: list[str]


def _images(table: Path, settings: FolderPairs) -> dict[str, _Listed]:
    """The images of a table by file name, in the order in which they first occur."""
    images: dict[str, _Listed] = {}
    files: dict[str, str] = {}  # by key
    for line, cells in read_rows(table, [settings.image, *settings.caption_columns, settings.key, settings.label]):
        where = f"{table}, line {line}"
        file = cells[settings.image]
        if not isinstance(file, str) or not file.strip():
            raise UserError(f"{where}: `image` must be a file name, found {file!r} in column `{settings.image}`.")
        file = file.strip()
        key = file if settings.key is None else str(cells[settings.key]).strip()
        label = None if settings.label is None else cells[settings.label]
        image = images.setdefault(file, _Listed(file, key, label, []))
        if (key, label) != (image.key, image.label):
            raise UserError(
                f"{where}: {file!r} has key {key!r} and label {label!r}, but {image.key!r} and {image.label!r} in an "
                "earlier line. Rows of one image must agree."
            )
        if files.setdefault(key, file) != file:
            raise UserError(f"{where}: `key` {key!r} is that of {files[key]!r} already; keys must be unique.")
        texts = caption_texts([cells[column] for column in settings.caption_columns], lambda where=where: where)
        image.captions.extend(texts)
    return images


def _present(root: Path, images: Sequence[_Listed], on_error: str, table: Path) -> list[_Listed]:
    found = [(root / image.file).is_file() for image in images]
    missing = [image.file for image, there in zip(images, found, strict=True) if not there]
    if missing and (on_error == "raise" or len(missing) == len(images)):
        raise UserError(
            f"{table} names {len(missing)} images that are not in {root}, the first {missing[0]!r}. Set `images` to "
            "their folder, remove these rows, or set `on_error: skip`."
        )
    log_skipped(str(table), [f"{file!r} is not in {root}" for file in missing], len(images))
    return [image for image, there in zip(images, found, strict=True) if there]
