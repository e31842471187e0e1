"""Hugging Face data sets that were written with `save_to_disk`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from guidestar.data.archives import limit_rows
from guidestar.data.arrays import ArraySplit
from guidestar.data.checks import check_labels, choose_class_names
from guidestar.data.pictures import PictureForm, PictureSplit
from guidestar.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class HubPictures:
    """The images of one column, by position; `rows` are their rows in the data set."""

    dataset: Dataset
    column: str
    rows: tuple[int, ...]

    def read(self, position: int) -> bytes:
        cell: dict[str, Any] | None = self.dataset[self.rows[position]][self.column]
        if cell is None:
            raise UserError(f"the image {self.where(position)} is missing.")
        return Path(cell["path"]).read_bytes() if cell["bytes"] is None else cell["bytes"]

    def key(self, position: int) -> str:
        return str(self.rows[position])

    def where(self, position: int) -> str:
        return f"in row {self.rows[position]}, column `{self.column}`"


def read_hub(
    path: Path,
    *,
    name: str,
    split: str | None,
    image: str | None,
    features: Sequence[str] | None,
    label: str,
    form: PictureForm,
    other: Sequence[str] | None = None,
    on_error: str = "raise",
    limit: int | None = None,
    limit_seed: int = 0,
) -> ArraySplit | PictureSplit:
    """A split of a data set on disk.

    Args:
        path: the folder that `save_to_disk` wrote.
        name: "train" or "test".
        split: which split of a `DatasetDict`; None: that called `name`.
        image: the column of images (an `Image` feature), or
        features: the columns of inputs: one of arrays, or any number of numeric ones.
        label: the column of labels (a `ClassLabel`, whole numbers, or texts).
        form: size and channels of images.
        other: class names of the training split, when this is the test split.
        on_error: "raise" or "skip", see `PictureSplit`.
        limit: keep a stratified random choice of so many rows.
        limit_seed: seed of that choice.

    Raises:
        ImportError: datasets (extra `hf`) is not installed.
        UserError: there is no such split or column, or a column is not of the kind that is needed.
        OSError: there is no data set at `path`.
    """
    try:
        import datasets
    except ImportError as error:
        raise ImportError('`source: hf` needs datasets: pip install "guidestar[hf]"') from error
    if not path.is_dir():
        raise NotADirectoryError(f"`path` must be a folder written by `save_to_disk`, found {path}.")
    dataset = _choose(datasets.load_from_disk(str(path)), split, name, path)
    for key, column in [("label", label), ("image", image), *(("features", column) for column in features or ())]:
        if column is not None and column not in dataset.column_names:
            raise UserError(f"`{key}`: {path} has no column `{column}`; it has: {', '.join(dataset.column_names)}.")
    labels, class_names = _labels(dataset, label, other, path)
    rows = limit_rows(labels, limit, limit_seed)
    if image is None:
        inputs = _features(dataset.select(rows), features or (), path)
        keys = [str(row) for row in rows]
        return ArraySplit(inputs, labels[rows], name=name, class_names=class_names, keys=keys)
    if not isinstance(dataset.features[image], datasets.Image):
        raise UserError(f"`image`: column `{image}` of {path} must hold images, found {dataset.features[image]}.")
    encoded = dataset.select_columns([image]).cast_column(image, datasets.Image(decode=False))
    pictures = HubPictures(encoded, image, tuple(rows.tolist()))
    return PictureSplit(pictures, labels[rows], class_names, name=name, form=form, on_error=on_error)


def _choose(found: Any, split: str | None, name: str, path: Path) -> Dataset:
    from datasets import DatasetDict

    if not isinstance(found, DatasetDict):
        if split is not None:
            raise UserError(f"`split`: {path} is a single data set without splits; leave `split` out.")
        return found
    wanted = split or name
    if wanted not in found:
        raise UserError(f"`split`: {path} has no split `{wanted}`; it has: {', '.join(map(str, found))}.")
    return found[wanted]


def _labels(dataset: Dataset, label: str, other: Sequence[str] | None, path: Path) -> tuple[torch.Tensor, list[str]]:
    values = list(dataset[label])
    missing = next((row for row, value in enumerate(values) if value is None), None)
    if missing is not None:
        raise UserError(f"`label`: row {missing} (rows count from 0) has none.")
    names = getattr(dataset.features[label], "names", None)
    if isinstance(values[0] if values else None, str):
        names = list(other) if other is not None else sorted(set(values))
        for row, value in enumerate(values):
            if value not in names:
                raise UserError(f"`label`: {value!r} in row {row} (rows count from 0) is not in the training data.")
        values = [names.index(value) for value in values]
    labels = check_labels(values)
    remedy = "name all classes by making the column a `ClassLabel`"
    return labels, choose_class_names(labels, names, other, what=f"`label`, column `{label}` of {path}", remedy=remedy)


def _features(dataset: Dataset, columns: Sequence[str], path: Path) -> np.ndarray:
    arrays = []
    for column in columns:
        try:
            array = np.asarray(dataset.with_format("numpy")[:][column])
        except ValueError as error:
            raise UserError(f"`features`: the arrays of column `{column}` of {path} must have one shape.") from error
        if array.dtype.kind not in "biuf":
            raise UserError(
                f"`features`: column `{column}` of {path} must be complete and numeric, found {array.dtype}."
            )
        arrays.append(array)
    if len(arrays) == 1:
        return arrays[0]
    for column, array in zip(columns, arrays, strict=True):
        if array.ndim != 1:
            raise UserError(
                f"`features`: several columns must each hold single numbers; `{column}` of {path} does not."
            )
    return np.stack(arrays, axis=1)
