"""A small vision transformer."""

from __future__ import annotations

import torch
from torch import nn

from guidestar.errors import UserError
from guidestar.models.small import check_dropout, check_image_shape, check_positive


class ViT(nn.Module):
    """Patches as tokens, learnt positions, pre-norm transformer layers, the mean of the tokens through a linear layer.

    Args:
        input_shape: (C, H, W).
        num_classes: number of logits.
        patch: side of a patch; must divide H and W.
        dim: width of a token; `heads` must divide it.
        depth: number of layers.
        heads: attention heads a layer.
        dropout: probability of dropping, inside the layers.

    Raises:
        UserError: the inputs are no images, or the options do not fit them or each other.

    Example:
        >>> ViT((1, 8, 8), 10, patch=4, dim=16, depth=1, heads=2)(torch.zeros(5, 1, 8, 8)).shape
        torch.Size([5, 10])
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        num_classes: int,
        *,
        patch: int = 4,
        dim: int = 128,
        depth: int = 4,
        heads: int = 4,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_image_shape(input_shape, "vit")
        check_positive(patch=patch, dim=dim, depth=depth, heads=heads)
        check_dropout(dropout)
        channels, height, width = input_shape
        if height % patch or width % patch:
            raise UserError(f"`patch` must divide the image size {height} x {width}, found {patch}.")
        if dim % heads:
            raise UserError(f"`heads` must divide `dim` {dim}, found {heads}.")
        self.patches = nn.Conv2d(channels, dim, patch, stride=patch)
        self.positions = nn.Parameter(torch.empty(1, (height // patch) * (width // patch), dim))
        nn.init.trunc_normal_(self.positions, std=0.02)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                dim, heads, 4 * dim, dropout, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, num_classes)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        tokens = self.patches(inputs).flatten(2).transpose(1, 2) + self.positions
        for layer in self.layers:
            tokens = layer(tokens)
        return self.head(self.norm(tokens).mean(1))
