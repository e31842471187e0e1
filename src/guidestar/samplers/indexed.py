"""`Indexed`: a data set that also yields each sample's row number, which trackers and stores are addressed by."""

from __future__ import annotations

from typing import Any

from torch.utils.data import Dataset


class Indexed(Dataset):
    """A map-style data set whose samples end with their row number.

    `index` is what a per-sample objective needs to find its memory, whatever the shuffling.

    Args:
        dataset: any data set with `__getitem__` and `__len__`.

    Raises:
        TypeError: the data set has no length.

    Example:
        >>> Indexed([("a", 0), ("b", 1)])[1]
        ('b', 1, 1)
        >>> Indexed([10, 20])[0]
        (10, 0)
        >>> Indexed([10, 20])[-1]
        (20, 1)
    """

    def __init__(self, dataset: Any) -> None:
        if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
            raise TypeError(
                f"`dataset` must be map-style, with `__getitem__` and `__len__`. Found {type(dataset).__name__}. "
                "A stream has no row numbers; give its samples stable ones first."
            )
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        sample = self.dataset[index]
        if index < 0:  # counted from the end; memory is addressed by the row itself
            index += len(self)
        if isinstance(sample, tuple | list):
            return (*sample, index)
        return (sample, index)
