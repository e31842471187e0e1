"""What every data set looks like to the rest of the package: a split, rows of inputs with labels and identities."""

from __future__ import annotations

import copy
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
import torch

from guidestar.data.checks import check_labels
from guidestar.errors import UserError

Rows = Sequence[int] | np.ndarray | torch.Tensor


@runtime_checkable
class Split(Protocol):
    """A labelled data set with rows 0 .. n-1; any object with these members will do.

    Inputs come as float32: images channels first with values in [0, 1], tables as encoded columns. `__getitems__` is
    what a `torch.utils.data.DataLoader` calls to fetch a whole batch (its `collate_fn` is then the identity).
    """

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def num_classes(self) -> int: ...
    @property
    def class_names(self) -> list[str]: ...
    @property
    def input_shape(self) -> tuple[int, ...]: ...
    @property
    def labels(self) -> torch.Tensor: ...

    def __len__(self) -> int: ...
    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]: ...
    def __getitems__(self, rows: list[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]: ...
    def keys(self, rows: Rows) -> list[str]: ...
    def image(self, row: int) -> np.ndarray | None: ...
    def describe(self, row: int) -> str: ...
    def fingerprint(self) -> str: ...
    def subset(self, rows: Rows, name: str | None = None) -> Split: ...
    def with_labels(self, labels: torch.Tensor) -> Split: ...


class RowSplit(ABC):
    """Rows that point at positions of some content; subsets and relabelled copies share the content.

    A subclass says how content is fetched, shown and hashed, by position. Everything that is about rows (labels,
    subsets, identities, range checks) is here.

    Args:
        labels: class ids, int64 `[n]`, already checked.
        class_names: one name a class, in the order of the ids.
        name: "train" or "test".
        kind: "image" or "table".
        input_shape: shape of one input, images `(C, H, W)`.

    Attributes:
        skipped: keys of images that could not be read and were left out.
    """

    def __init__(
        self, labels: torch.Tensor, class_names: Sequence[str], *, name: str, kind: str, input_shape: tuple[int, ...]
    ) -> None:
        self.labels = labels
        self.class_names = [str(class_name) for class_name in class_names]
        self.name = name
        self.kind = kind
        self.input_shape = input_shape
        self.skipped: list[str] = []
        self._positions = torch.arange(labels.numel())
        self._fingerprint: str | None = None

    @abstractmethod
    def _fetch(self, positions: torch.Tensor) -> torch.Tensor:
        """The float32 inputs at `positions`."""

    @abstractmethod
    def _key(self, position: int) -> str:
        """The stable identity of the content at `position`."""

    @abstractmethod
    def _image(self, position: int) -> np.ndarray | None:
        """The content at `position` for display, uint8 `[H, W]` or `[H, W, 3]`, if it is an image."""

    @abstractmethod
    def _describe(self, position: int) -> str:
        """The content at `position` in a line of text."""

    @abstractmethod
    def _content(self, positions: torch.Tensor) -> Iterator[bytes]:
        """Bytes that determine the content at `positions`, in this order, for the fingerprint."""

    @property
    def num_classes(self) -> int:
        """How many classes there are, whether or not each has rows here."""
        return len(self.class_names)

    def __len__(self) -> int:
        return self.labels.numel()

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        inputs, labels, _ = self.__getitems__([row])
        return inputs[0], int(labels[0])

    def __getitems__(self, rows: Rows) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        index = self._index(rows)
        return self._fetch(self._positions[index]), self.labels[index], index

    def __iter__(self) -> Iterator[tuple[torch.Tensor, int]]:
        return (self[row] for row in range(len(self)))

    def keys(self, rows: Rows) -> list[str]:
        """A stable identity for each of `rows`: the file name, or the row number in the original file."""
        return [self._key(position) for position in self._positions[self._index(rows)].tolist()]

    def image(self, row: int) -> np.ndarray | None:
        """Row `row` for display, uint8 `[H, W]` or `[H, W, 3]`; None when rows are not images."""
        return self._image(int(self._positions[self._index([row])]))

    def describe(self, row: int) -> str:
        """Row `row` in a line of text, for display."""
        return self._describe(int(self._positions[self._index([row])]))

    def fingerprint(self) -> str:
        """SHA-256 (hex) over content, labels, classes and order; the name of the split does not count."""
        if self._fingerprint is None:
            digest = hashlib.sha256()
            digest.update(repr((self.kind, self.input_shape, self.class_names, len(self))).encode())
            digest.update(self.labels.numpy().tobytes())
            for part in self._content(self._positions):
                digest.update(part)
            self._fingerprint = digest.hexdigest()
        return self._fingerprint

    def subset(self, rows: Rows, name: str | None = None) -> Self:
        """The split of these rows, in this order; shares the data.

        Raises:
            IndexError: a row is out of range.
            TypeError: `rows` are not whole numbers (a mask is not a list of rows).
        """
        index = self._index(rows)
        return self._copy(
            labels=self.labels[index], _positions=self._positions[index], name=self.name if name is None else name
        )

    def with_labels(self, labels: torch.Tensor) -> Self:
        """The same rows with other labels; shares the data.

        Raises:
            UserError: there is not one label in `0 .. num_classes - 1` for each row.
        """
        checked = check_labels(labels, num_classes=self.num_classes)
        if checked.numel() != len(self):
            raise UserError(f"`labels` must hold one label a row: the split has {len(self)}, found {checked.numel()}.")
        return self._copy(labels=checked)

    def with_classes(self, class_names: Sequence[str]) -> Self:
        """The same rows with other class names, of which there may be more than before."""
        check_labels(self.labels, num_classes=len(class_names))
        return self._copy(class_names=[str(name) for name in class_names])

    def _copy(self, **changes: Any) -> Self:
        other = copy.copy(self)
        other._fingerprint = None
        for attribute, value in changes.items():
            setattr(other, attribute, value)
        return other

    def _index(self, rows: Rows) -> torch.Tensor:
        index = torch.as_tensor(rows)
        if index.numel() == 0:
            return torch.zeros(0, dtype=torch.int64)
        if index.dtype == torch.bool or index.is_floating_point():
            raise TypeError(f"`rows` must be row numbers, found {index.dtype}; turn a mask into rows with `nonzero`.")
        low, high = index.min().item(), index.max().item()
        if low < 0 or high >= len(self):
            raise IndexError(f"`rows` must be in 0 .. {len(self) - 1}, found {low if low < 0 else high}.")
        return index.to(torch.int64)
