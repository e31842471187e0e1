"""A text tower without order: the mean of the token embeddings and a small network."""

from __future__ import annotations

import torch
from torch import nn

from guidestar.models.small import check_positive


class BagTower(nn.Module):
    """h = norm(mean of the embeddings of a row's tokens, padding left out); a linear layer of h + mlp(h).

    Args:
        vocabulary: number of tokens.
        pad: the token that fills rows up.
        width: width of the embeddings.
        hidden: width of a token.

    Shapes:
        tokens [B, T] -> [B, width].

    Raises:
        UserError: an option is not positive.

    Example:
        >>> tower = BagTower(10, 0, 4, hidden=8)
        >>> short, long = tower(torch.tensor([[2, 5]])), tower(torch.tensor([[5, 2, 0, 0]]))
        >>> torch.allclose(short, long)
        True
    """

    def __init__(self, vocabulary: int, pad: int, width: int, *, hidden: int = 128) -> None:
        super().__init__()
        check_positive(vocabulary=vocabulary, width=width, text_hidden=hidden)
        self.embedding = nn.EmbeddingBag(vocabulary, hidden, mode="mean", padding_idx=pad)
        self.norm = nn.LayerNorm(hidden)
        self.body = nn.Sequential(nn.Linear(hidden, 2 * hidden), nn.GELU(), nn.Linear(2 * hidden, hidden))
        self.projection = nn.Linear(hidden, width)

    def checkpoint_gradients(self) -> None:
        """Nothing changes: this tower keeps only a few vectors a row for the backward pass."""

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        mean = self.norm(self.embedding(tokens))
        return self.projection(mean + self.body(mean))
