"""What scoring and joining need from a data split."""

from collections.abc import Sequence
from typing import Protocol

import torch


class ScorableSplit(Protocol):
    """A labelled data split with an identity for each row; every split of `guidestar.data` is one.

    `__getitems__(rows)` gives `(inputs [B, ...], labels [B], rows [B])`, `keys(rows)` a stable name for each row
    (a file name, or the row's number in the original file), and `fingerprint()` a hash over content, labels and order.
    """

    @property
    def name(self) -> str: ...

    @property
    def num_classes(self) -> int: ...

    @property
    def labels(self) -> torch.Tensor: ...

    def __len__(self) -> int: ...

    def __getitems__(self, rows: list[int], /) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]: ...

    def keys(self, rows: Sequence[int], /) -> list[str]: ...

    def fingerprint(self) -> str: ...
