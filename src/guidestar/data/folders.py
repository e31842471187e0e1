"""Image folders: one sub-folder a class."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from guidestar.data.archives import limit_rows
from guidestar.data.pictures import PictureForm, PictureSplit
from guidestar.errors import UserError

_log = logging.getLogger(__name__)
SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}


@dataclass(frozen=True)
class FolderPictures:
    """Image files below a folder, by position."""

    root: Path
    names: tuple[str, ...]

    def read(self, position: int) -> bytes:
        return (self.root / self.names[position]).read_bytes()

    def key(self, position: int) -> str:
        return self.names[position]

    def where(self, position: int) -> str:
        return str(self.root / self.names[position])


def read_image_folder(
    path: Path,
    *,
    name: str,
    form: PictureForm,
    other: Sequence[str] | None = None,
    on_error: str = "raise",
    limit: int | None = None,
    limit_seed: int = 0,
) -> PictureSplit:
    """The split in a folder with one sub-folder a class, classes and files in sorted order.

    Files count as images by their suffix, at any depth below the class; hidden folders and files do not count.
    The key of a row is its path below the folder. A class of the training data without an image here is logged.

    Args:
        path: the folder.
        name: "train" or "test".
        form: size and channels; without a size, that of the first image.
        other: class names of the training split, when this is the test split.
        on_error: "raise" or "skip", see `PictureSplit`.
        limit: keep a stratified random choice of so many images.
        limit_seed: seed of that choice.

    Raises:
        UserError: there is no class, a class without an image (in training), or a class that training does not have.
        NotADirectoryError: `path` is not a folder.
    """
    if not path.is_dir():
        raise NotADirectoryError(f"`path` must be a folder with one sub-folder a class, found {path}.")
    classes = sorted(entry.name for entry in path.iterdir() if entry.is_dir() and _shown(entry))
    if not classes:
        raise UserError(f"{path} must have one sub-folder a class, found no sub-folder.")
    unknown = [] if other is None else sorted(set(classes) - set(other))
    if unknown:
        raise UserError(f"{path}: class `{unknown[0]}` is not in the training data, which has {_some(other or [])}.")
    class_names = classes if other is None else list(other)
    names: list[str] = []
    ids: list[int] = []
    for class_name in classes:
        found = sorted(_images_below(path / class_name))
        if not found and other is None:
            raise UserError(
                f"{path / class_name} must hold at least one image ({_some(sorted(SUFFIXES))}), found none."
            )
        names += [image.relative_to(path).as_posix() for image in found]
        ids += [class_names.index(class_name)] * len(found)
    labels = torch.tensor(ids, dtype=torch.int64)
    absent = sorted({*range(len(class_names))} - {*ids})
    if absent:
        _log.warning(
            "%s: the %s data has no image of class %s", path, name, _some([f"`{class_names[k]}`" for k in absent])
        )
    rows = limit_rows(labels, limit, limit_seed)
    pictures = FolderPictures(path, tuple(names[row] for row in rows))
    return PictureSplit(pictures, labels[rows], class_names, name=name, form=form, on_error=on_error)


def _shown(path: Path) -> bool:
    return not path.name.startswith((".", "__"))


def _images_below(folder: Path) -> list[Path]:
    found: list[Path] = []
    for entry in folder.iterdir():
        if not _shown(entry):
            continue
        if entry.is_dir():
            found += _images_below(entry)
        elif entry.suffix.lower() in SUFFIXES:
            found.append(entry)
    return found


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
