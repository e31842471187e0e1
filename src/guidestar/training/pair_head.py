"""Training only a head on each tower of the reference, from embeddings that were computed once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from guidestar.data.pairs.batches import PairBatch
from guidestar.data.pairs.protocol import Pairs
from guidestar.models.pairs import DualEncoder
from guidestar.models.pairs.dual import Tower


class HeadTower(nn.Module):
    """A frozen tower and a trained head: h(f(x) / |f(x)|).

    Args:
        inner: the tower; its weights take no gradient and it stays in evaluation mode.
        before, width: widths of the tower's embeddings and of the head's.
        hidden: width of the head's hidden layer; None: the head is linear.

    Example:
        >>> tower = HeadTower(nn.Linear(3, 4), 4, 2, hidden=None)
        >>> tower(torch.ones(5, 3)).shape, tower.inner.weight.requires_grad
        (torch.Size([5, 2]), False)
    """

    def __init__(self, inner: nn.Module, before: int, width: int, *, hidden: int | None) -> None:
        super().__init__()
        self.inner = inner.requires_grad_(False).eval()
        self.head: nn.Module = (
            nn.Linear(before, width)
            if hidden is None
            else nn.Sequential(nn.Linear(before, hidden), nn.GELU(), nn.Linear(hidden, width))
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """Embeddings of the tower's inputs."""
        return self.head(functional.normalize(self.inner(inputs).float(), dim=-1))

    def checkpoint_gradients(self) -> None:
        """The frozen tower keeps nothing."""
        cast(Tower, self.inner).checkpoint_gradients()

    def train(self, mode: bool = True) -> HeadTower:
        """The mode of the head."""
        super().train(mode)
        self.inner.eval()
        return self


class HeadedEncoder(DualEncoder):
    """A reference with a trained head on each tower; `forward` also takes the reference's embeddings themselves.

    Args:
        reference: the model below the heads, which becomes part of this one.
        width: width of the heads' embeddings; None: that of the reference.
        hidden: width of each head's hidden layer; None: the heads are linear.

    Shapes:
        `forward`: images `[B, 3, S, S]` and tokens `[B, T]`, or unit embeddings of the reference `[B, d]` twice ->
        two times `[B, width]`.
    """

    def __init__(self, reference: DualEncoder, *, width: int | None, hidden: int | None) -> None:
        own = width or reference.width
        super().__init__(
            HeadTower(reference.image_tower, reference.width, own, hidden=hidden),
            HeadTower(reference.text_tower, reference.width, own, hidden=hidden),
            tokenizer=reference.tokenizer,
            size=reference.size,
            width=own,
            mean=reference.mean.tolist(),
            std=reference.std.tolist(),
        )

    def forward(self, images: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Unit embeddings of pairs, or of what the reference says about them."""
        if images.ndim == 4:
            return super().forward(images, tokens)
        towers = (cast(HeadTower, self.image_tower), cast(HeadTower, self.text_tower))
        image, text = (
            functional.normalize(tower.head(given).float(), dim=-1)
            for tower, given in zip(towers, (images, tokens), strict=True)
        )
        return image, text


class CachedRows(torch.utils.data.Dataset[PairBatch]):
    """Batches without pictures and tokens, for what is trained on a reference's embeddings: rows, and their captions.

    Args:
        pairs: the pairs.
        captions: "random" or "first".
        seed: decides the captions, with the number of the batch and the row.
    """

    def __init__(self, pairs: Pairs, captions: Literal["random", "first"], seed: int) -> None:
        self.pairs, self.captions, self.seed = pairs, captions, seed

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, row: int) -> PairBatch:
        return self.__getitems__((0, [row]))

    def __getitems__(self, request: tuple[int, Sequence[int]]) -> PairBatch:
        """The batch of a request: its number, and its rows."""
        number, rows = request
        nothing = torch.zeros(len(rows), 0)
        choice = [0 if self.captions == "first" else self._draw(number, row) for row in rows]
        return PairBatch(
            images=nothing,
            tokens=nothing,
            rows=torch.tensor(rows, dtype=torch.int64),
            choice=torch.tensor(choice, dtype=torch.int64),
            replaced=torch.zeros(0, dtype=torch.int64),
        )

    def _draw(self, number: int, row: int) -> int:
        return int(np.random.default_rng((self.seed, number, row)).random() * len(self.pairs.captions(row)))
