"""Splits that are held in memory as one tensor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from guidestar.data.checks import check_finite, check_labels
from guidestar.data.split import RowSplit
from guidestar.errors import UserError

_CHANNELS = (1, 3, 4)
_COLUMNS_SHOWN = 8
_ROWS_AT_ONCE = 4096
_CLASSES_WITHOUT_QUESTION = 1000


class ArraySplit(RowSplit):
    """Inputs and labels in memory.

    Two-dimensional inputs `[n, columns]` (and one-dimensional ones, as a single column) are a table. Inputs with three
    or four dimensions are images: `[n, H, W]`, `[n, C, H, W]` or `[n, H, W, C]`. The channels are the last dimension if
    that is 1, 3 or 4 and the second is not; else the second, if that is 1, 3 or 4. Images are uint8, whole numbers in
    0 .. 255, or floats in [0, 1]; uint8 stays uint8 in memory and is divided by 255 when a batch is fetched.

    Args:
        inputs: numpy array or tensor, one entry of the first dimension a row.
        labels: class ids from 0, one a row.
        name: "train" or "test".
        class_names: names of the classes; default: the numbers 0 .. `num_classes` - 1.
        num_classes: how many classes there are; default: the number of names, else the largest label + 1.
        keys: a stable identity a row; default: the row number.
        texts: a line of text a row for display; default: made from the first columns.
        encoder: whatever encoded the rows, kept so that other rows can be encoded the same way.

    Raises:
        UserError: lengths differ, there are no rows, or a row holds NaN, infinity or a label out of range.

    Example:
        >>> split = ArraySplit(np.zeros((3, 8, 8), dtype=np.uint8), [0, 1, 1])
        >>> inputs, labels, rows = split.__getitems__([2, 0])
        >>> tuple(inputs.shape), labels.tolist(), split.kind, split.num_classes
        ((2, 1, 8, 8), [1, 0], 'image', 2)
    """

    def __init__(
        self,
        inputs: np.ndarray | torch.Tensor,
        labels: np.ndarray | torch.Tensor | Sequence[int],
        *,
        name: str = "train",
        class_names: Sequence[str] | None = None,
        num_classes: int | None = None,
        keys: Sequence[str] | None = None,
        texts: Sequence[str] | None = None,
        encoder: Any = None,
    ) -> None:
        if class_names is not None:
            num_classes = len(class_names)
        checked = check_labels(labels, num_classes=num_classes, rows=keys)
        if len(inputs) != checked.numel():
            raise UserError(
                "`inputs` and `labels` must have the same length: "
                f"found {len(inputs)} inputs, {checked.numel()} labels."
            )
        if checked.numel() == 0:
            raise UserError("`inputs` must have at least one row, found none.")
        tensor = _as_tensor(inputs)
        kind = "table" if tensor.ndim <= 2 else "image"
        self._inputs = _as_images(tensor) if kind == "image" else tensor.reshape(len(tensor), -1).to(torch.float32)
        if self._inputs.is_floating_point():
            check_finite(self._inputs, rows=keys)
            if kind == "image":
                _check_range(self._inputs)
        self._keys = None if keys is None else list(keys)
        self._texts = None if texts is None else list(texts)
        self.encoder = encoder
        if class_names is None:
            count = _count_classes(checked) if num_classes is None else num_classes
            class_names = [str(k) for k in range(count)]
        super().__init__(
            checked,
            class_names,
            name=name,
            kind=kind,
            input_shape=tuple(self._inputs.shape[1:]),
        )

    def _fetch(self, positions: torch.Tensor) -> torch.Tensor:
        batch = self._inputs.index_select(0, positions)
        return batch / 255 if batch.dtype == torch.uint8 else batch

    def _key(self, position: int) -> str:
        return str(position) if self._keys is None else self._keys[position]

    def _image(self, position: int) -> np.ndarray | None:
        if self.kind != "image":
            return None
        picture = self._inputs[position]
        if picture.dtype != torch.uint8:
            picture = (picture * 255).round().clamp(0, 255).to(torch.uint8)
        return picture[0].numpy() if picture.shape[0] < 3 else picture[:3].permute(1, 2, 0).contiguous().numpy()

    def _describe(self, position: int) -> str:
        if self._texts is not None:
            return self._texts[position]
        if self.kind == "image":
            return f"row {self._key(position)}"
        values = self._inputs[position, :_COLUMNS_SHOWN].tolist()
        more = ", ..." if self._inputs.shape[1] > _COLUMNS_SHOWN else ""
        return ", ".join(f"x{column}={value:.4g}" for column, value in enumerate(values)) + more

    def _content(self, positions: torch.Tensor) -> Iterator[bytes]:
        yield str(self._inputs.dtype).encode()
        for start in range(0, positions.numel(), _ROWS_AT_ONCE):
            yield self._inputs.index_select(0, positions[start : start + _ROWS_AT_ONCE]).numpy().tobytes()


def _count_classes(labels: torch.Tensor) -> int:
    highest = int(labels.max())
    if highest >= max(labels.numel(), _CLASSES_WITHOUT_QUESTION):
        raise UserError(
            f"`labels` must be class ids 0 .. classes - 1; found {highest} in row {int(labels.argmax())} (rows count "
            f"from 0) among {labels.numel()} rows. Number the classes from 0, or give `class_names`."
        )
    return highest + 1


def _as_tensor(inputs: np.ndarray | torch.Tensor) -> torch.Tensor:
    if isinstance(inputs, torch.Tensor):
        tensor = inputs.detach().cpu()
    else:
        array = np.asarray(inputs)
        if array.dtype.kind not in "biuf":
            raise UserError(f"`inputs` must be numbers, found an array of type {array.dtype}.")
        # torch knows neither all unsigned types nor extended floats, and wants memory that it may write to.
        if array.dtype.kind == "u" and array.dtype.itemsize > 1:
            array = array.astype(np.int64)
        elif array.dtype.kind == "f":
            with np.errstate(over="ignore"):  # what overflows becomes infinite and is reported with its row
                array = array.astype(np.float32)
        tensor = torch.from_numpy(np.require(array, requirements=["C", "W", "O"]))
    if not 1 <= tensor.ndim <= 4:
        raise UserError(
            "`inputs` must be [n, columns] (a table), or [n, H, W], [n, C, H, W] or [n, H, W, C] (images); "
            f"found shape {list(tensor.shape)}."
        )
    return tensor


def _as_images(tensor: torch.Tensor) -> torch.Tensor:
    """Channels first, uint8 or float32."""
    if tensor.dtype == torch.bool or tensor.is_floating_point():
        tensor = tensor.to(torch.float32)
    elif tensor.dtype != torch.uint8:
        low, high = int(tensor.min()), int(tensor.max())
        if low < 0 or high > 255:
            raise UserError(f"`inputs`: images of whole numbers must be in 0 .. 255, found {low} .. {high}.")
        tensor = tensor.to(torch.uint8)
    if tensor.ndim == 3:
        return tensor.unsqueeze(1).contiguous()
    first, last = tensor.shape[1], tensor.shape[3]
    if last in _CHANNELS and first not in _CHANNELS:
        return tensor.permute(0, 3, 1, 2).contiguous()
    if first in _CHANNELS:
        return tensor.contiguous()
    raise UserError(
        "`inputs`: images must have 1, 3 or 4 channels, as [n, C, H, W] or [n, H, W, C]; "
        f"found shape {list(tensor.shape)}."
    )


def _check_range(images: torch.Tensor) -> None:
    low, high = float(images.min()), float(images.max())
    if low < -1e-3 or high > 1 + 1e-3:
        raise UserError(
            f"`inputs`: images of floats must be in [0, 1], found values from {low:.4g} to {high:.4g}. "
            "Give uint8, or rescale them; normalisation belongs to the model (`mean`, `std`)."
        )
