"""Image-text pairs in Hugging Face data sets that were written with `save_to_disk`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from guidestar.data.pairs.protocol import Part
from guidestar.data.pairs.rows import RowPairs, equal_blocks
from guidestar.data.pairs.settings import HubPairs
from guidestar.data.pairs.table import check_columns, check_image_type, table_pairs
from guidestar.errors import UserError

if TYPE_CHECKING:
    import pyarrow
    from datasets import Dataset


class HubReader:
    """A data set on a disk, by position; it is mapped into memory, so any row can be read.

    Args:
        dataset: the data set.
        image: the column of images.
        texts: the other columns that are wanted.
        source: what to call it.
    """

    def __init__(self, dataset: Dataset, image: str, texts: Sequence[str], source: str) -> None:
        self._images = dataset.select_columns([image]).with_format("arrow")
        self._texts = dataset.select_columns(list(texts)).with_format("arrow")
        self._image = image
        self._last: tuple[int, pyarrow.Table] | None = None
        self.source = source

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_last": None}

    def parts(self) -> list[Part]:
        return equal_blocks(len(self._images))

    def groups(self) -> list[Part]:
        return equal_blocks(len(self._images))

    def texts(self, group: int) -> pyarrow.Table:
        if self._last is None or self._last[0] != group:
            _, first, end = self.groups()[group]
            self._last = group, self._rows(self._texts, first, end)
        return self._last[1]

    def image(self, position: int) -> Any:
        return self._rows(self._images, position, position + 1).column(self._image)[0].as_py()

    def image_sizes(self, group: int) -> np.ndarray:
        from pyarrow import compute, types

        _, first, end = self.groups()[group]
        column = self._rows(self._images, first, end).column(self._image)
        if types.is_struct(column.type):
            column = compute.call_function("struct_field", [column], compute.StructFieldOptions(["bytes"]))
        sizes = compute.call_function("binary_length", [column])
        return compute.fill_null(sizes, -1).to_numpy()  # -1: the image is in a file of its own

    @staticmethod
    def _rows(dataset: Dataset, first: int, end: int) -> pyarrow.Table:
        # The format of the data set makes this a table; its annotations know only of dictionaries.
        return cast("pyarrow.Table", dataset[first:end])

    def row_name(self, position: int) -> str:
        return str(position)


def read_hub(settings: HubPairs, *, base: Path, name: str, other: Sequence[str] | None, on_error: str) -> RowPairs:
    """The pairs of a data set on disk.

    Args:
        settings: the folder, the split and the columns.
        base: the folder of the recipe.
        name: "train" or "test".
        other: class names of the training data, when this is the test data.
        on_error: "raise" or "skip" rows without a caption.

    Raises:
        ImportError: datasets (extra `hf`) is not installed.
        UserError: there is no such split or column, or a row lacks a caption.
        OSError: there is no data set at the path.
    """
    try:
        import datasets
    except ImportError as error:
        raise ImportError('`source: hub` needs datasets: pip install "guidestar[hf]"') from error
    path = base / settings.path
    if not path.is_dir():
        raise NotADirectoryError(f"`path` must be a folder written by `save_to_disk`, found {path}.")
    found = datasets.load_from_disk(str(path))
    if isinstance(found, datasets.DatasetDict):
        wanted = settings.split or name
        if wanted not in found:
            raise UserError(f"`split`: {path} has no split `{wanted}`; it has: {', '.join(map(str, found))}.")
        dataset = found[wanted]
    elif settings.split is not None:
        raise UserError(f"`split`: {path} is a single data set without splits; leave `split` out.")
    else:
        dataset = found
    texts = check_columns(settings, dataset.column_names, str(path))
    check_image_type(dataset.features.arrow_schema.field(settings.image).type, settings.image, str(path))
    feature = None if settings.label is None else dataset.features[settings.label]
    class_names = list(feature.names) if isinstance(feature, datasets.ClassLabel) else None
    reader = HubReader(dataset, settings.image, texts, str(path))
    return table_pairs(reader, settings, name=name, other=other, on_error=on_error, class_names=class_names)
