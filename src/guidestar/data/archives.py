"""Splits from numpy files: arrays in one npz, arrays in two npy files, and JPEG images packed in an npz."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from guidestar.data.arrays import ArraySplit
from guidestar.data.checks import check_labels, choose_class_names
from guidestar.data.corrupt import stratified_rows
from guidestar.data.pictures import PictureForm, log_skipped, read_picture
from guidestar.errors import UserError

Names = Sequence[str] | str | None


def limit_rows(labels: torch.Tensor, limit: int | None, seed: int) -> np.ndarray:
    """All rows, or a stratified random choice of `limit` of them, in ascending order."""
    if limit is None or limit >= labels.numel():
        return np.arange(labels.numel())
    return stratified_rows(labels, limit, seed).numpy()


def read_npz(
    path: Path,
    inputs: str,
    labels: str,
    *,
    name: str,
    class_names: Names = None,
    other: Sequence[str] | None = None,
    limit: int | None = None,
    limit_seed: int = 0,
) -> ArraySplit:
    """The split in an npz file.

    Args:
        path: the file.
        inputs: name of the array of inputs.
        labels: name of the array of labels.
        name: "train" or "test".
        class_names: the names of the classes, or the name of an array in the file that holds them.
        other: class names of the training split, when this is the test split.
        limit: keep a stratified random choice of so many rows.
        limit_seed: seed of that choice.

    Raises:
        UserError: the file is no npz file, lacks an array, or its content breaks a rule of `ArraySplit`.
        OSError: the file cannot be read.
    """
    with _open(path) as archive:
        given = _class_names(archive, class_names, path)
        return _build(
            _member(archive, inputs, path),
            _member(archive, labels, path),
            name=name,
            class_names=given,
            other=other,
            limit=limit,
            limit_seed=limit_seed,
            what=f"`{labels}` of {path}",
        )


def read_npy(
    inputs: Path,
    labels: Path,
    *,
    name: str,
    class_names: Sequence[str] | None = None,
    other: Sequence[str] | None = None,
    limit: int | None = None,
    limit_seed: int = 0,
) -> ArraySplit:
    """The split in two npy files; arguments and errors as `read_npz`."""
    arrays = []
    for path in (inputs, labels):
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError, zipfile.BadZipFile, pickle.UnpicklingError) as error:
            raise UserError(f"{path} is no npy file of numbers ({error}).") from error
        if not isinstance(array, np.ndarray):
            array.close()
            raise UserError(f"{path} holds several arrays; use `source: npz` for it.")
        arrays.append(array)
    return _build(
        arrays[0],
        arrays[1],
        name=name,
        class_names=class_names,
        other=other,
        limit=limit,
        limit_seed=limit_seed,
        what=f"`labels`, {labels}",
    )


def read_jpeg_npz(
    path: Path,
    *,
    split_value: int | str | None,
    images: str,
    offsets: str,
    labels: str,
    split: str,
    form: PictureForm,
    name: str,
    class_names: Names = None,
    other: Sequence[str] | None = None,
    on_error: str = "raise",
    limit: int | None = None,
    limit_seed: int = 0,
) -> ArraySplit:
    """The split in an npz file of encoded images (JPEG, PNG, ...) packed one after the other.

    Image i is the bytes `offsets[i]` to `offsets[i + 1]` of the array `images`; rows are those whose entry in the
    array `split` equals `split_value` (all rows, if that is None). Images are decoded into memory as uint8; without a
    size in `form` they get that of the first. With `on_error="skip"` unreadable ones are left out, logged and listed in
    `skipped`.

    Raises:
        UserError: the file is no npz file or lacks an array, no row has that split value, or an image is unreadable.
        OSError: the file cannot be read.
    """
    with _open(path) as archive:
        packed, starts = _member(archive, images, path), _member(archive, offsets, path)
        values = check_labels(_member(archive, labels, path))
        rows = np.arange(len(values)) if split_value is None else _rows_of(archive, split, split_value, path)
        given = _class_names(archive, class_names, path)
    if len(starts) != len(values) + 1:
        raise UserError(
            f"{path}: `{offsets}` must have one entry more than `{labels}`; found {len(starts)} and {len(values)}."
        )
    where = f"`{labels}` of {path}"
    chosen = choose_class_names(values[rows], given, other, what=where, rows=[str(row) for row in rows])
    rows = rows[limit_rows(values[rows], limit, limit_seed)]
    pictures, kept, reasons = _decode(packed, starts, rows, form, str(path), on_error)
    log_skipped(name, reasons, len(rows))
    if not kept:
        raise UserError(f"the {name} split has no readable image.")
    keys = [str(row) for row in kept]
    result = ArraySplit(np.stack(pictures), values[kept], name=name, class_names=chosen, keys=keys)
    result.skipped = [str(row) for row in np.setdiff1d(rows, kept)]
    return result


def _decode(
    packed: np.ndarray, starts: np.ndarray, rows: np.ndarray, form: PictureForm, where: str, on_error: str
) -> tuple[list[np.ndarray], list[int], list[str]]:
    """The readable images, their rows, and why the others are not among them."""
    pictures: list[np.ndarray] = []
    kept: list[int] = []
    reasons: list[str] = []
    for row in rows.tolist():
        try:
            encoded = packed[starts[row] : starts[row + 1]].tobytes()
            picture = read_picture(encoded, form, f"{where}, image {row}", advise=on_error == "raise")
        except UserError as error:
            if on_error == "raise":
                raise
            reasons.append(str(error))
            continue
        if form.size is None:
            form = PictureForm(size=(picture.shape[1], picture.shape[2]), grey=form.grey)
        pictures.append(picture)
        kept.append(row)
    return pictures, kept, reasons


def _build(
    inputs: np.ndarray,
    labels: np.ndarray,
    *,
    name: str,
    class_names: Sequence[str] | None,
    other: Sequence[str] | None,
    limit: int | None,
    limit_seed: int,
    what: str,
) -> ArraySplit:
    checked = check_labels(labels)
    if inputs.ndim == 0 or len(inputs) != len(checked):
        found = len(inputs) if inputs.ndim else "no"
        raise UserError(
            f"`inputs` and `labels` must have the same length: found {found} inputs, {len(checked)} labels."
        )
    chosen = choose_class_names(checked, class_names, other, what=what)
    rows = limit_rows(checked, limit, limit_seed)
    if len(rows) == len(checked):
        return ArraySplit(inputs, checked, name=name, class_names=chosen)
    return ArraySplit(inputs[rows], checked[rows], name=name, class_names=chosen, keys=[str(row) for row in rows])


@contextmanager
def _open(path: Path) -> Iterator[np.lib.npyio.NpzFile]:
    # numpy leaves a file that it opened itself open when its content is broken.
    with path.open("rb") as stream:
        try:
            archive = np.load(stream, allow_pickle=False)
        except (ValueError, EOFError, zipfile.BadZipFile, pickle.UnpicklingError) as error:
            raise UserError(f"{path} is no npz file ({error}).") from error
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise UserError(f"{path} holds a single array; use `source: npy` for it.")
        yield archive


def _member(archive: np.lib.npyio.NpzFile, member: str, path: Path) -> np.ndarray:
    if member not in archive.files:
        raise UserError(f"{path} has no array `{member}`; it holds: {', '.join(sorted(archive.files))}.")
    try:
        return archive[member]
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: the array `{member}` cannot be read ({error}).") from error


def _class_names(archive: np.lib.npyio.NpzFile, names: Names, path: Path) -> list[str] | None:
    if names is None:
        return None
    return [str(name) for name in (_member(archive, names, path) if isinstance(names, str) else names)]


def _rows_of(archive: np.lib.npyio.NpzFile, split: str, value: int | str, path: Path) -> np.ndarray:
    values = _member(archive, split, path)
    rows = np.flatnonzero(values == value)
    if rows.size == 0:
        raise UserError(
            f"{path}: no row has `{split}` equal to {value!r} (`split_value`); "
            f"it holds: {np.unique(values).tolist()[:20]}."
        )
    return rows
