"""What every set of image-text pairs looks like to the rest of the package."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from PIL import Image

from guidestar.errors import UserError

Rows = Sequence[int] | np.ndarray | torch.Tensor
# A run of rows: its name, first row and end row (exclusive).
Part = tuple[str, int, int]


class Unreadable(UserError):
    """The picture or the captions of a single row cannot be read; `PairDataset` can put another row in its place.

    Example:
        >>> issubclass(Unreadable, UserError)
        True
    """


@runtime_checkable
class Pairs(Protocol):
    """Image-text pairs with rows 0 .. n-1, any of which can be read at any time; any object with these members will do.

    `captions` gives all captions of a row (at least one), `picture` its image, decoded, upright and RGB; both raise
    `Unreadable` for a row that is broken. `labels` are int64 class ids `[n]`, or None. `keys` are the identities by
    which embeddings of a reference are joined.

    `parts` cuts all rows, in order, into named runs: a tar shard, a Parquet file, or 4,096 rows; the embeddings of a
    reference are stored one file a part. `blocks` cuts them into the runs that are read at once, for a shuffle that is
    kind to the disk. `max_captions` is the largest number of captions of a row; a subset keeps that of its source.
    """

    @property
    def name(self) -> str: ...
    @property
    def labels(self) -> torch.Tensor | None: ...
    @property
    def class_names(self) -> list[str]: ...
    @property
    def max_captions(self) -> int: ...

    def __len__(self) -> int: ...
    def keys(self, rows: Rows) -> list[str]: ...
    def captions(self, row: int) -> list[str]: ...
    def picture(self, row: int) -> Image.Image: ...
    def parts(self) -> list[Part]: ...
    def blocks(self) -> list[Part]: ...
    def fingerprint(self) -> str: ...
    def subset(self, rows: Rows, name: str | None = None) -> Pairs: ...
    def with_captions(self, captions: Sequence[Sequence[str]]) -> Pairs: ...
