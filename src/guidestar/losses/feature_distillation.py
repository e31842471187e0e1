"""Feature distillation of two towers: the student's features are drawn to the teacher's."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from guidestar.losses.base import Loss
from guidestar.pairwise.anchors import anchor_mean, count_idle
from guidestar.pairwise.towers import towers
from guidestar.state import Counter


class FeatureDistillationLoss(Loss):
    r"""Squared distance to the teacher's features, in both towers.

    $F = \frac1B \sum_i \|P_1 e^1_i - r^1_i\|^2 + \|P_2 e^2_i - r^2_i\|^2$; P is the identity where the widths agree,
    else a linear map that is learnt.

    Equations:
        composed with 6.121 in the strategy steer+distill (section 6.9).

    Args:
        width, reference_width: d and d'; give both where they differ, and pass `loss.parameters()` to the optimizer.

    Shapes:
        `image`, `text` `[B, d]`, `reference_image`, `reference_text` `[B, d']`, `mask` bool `[B]` -> scalar. `index` is
        accepted for a common signature.

    State:
        none; parameters where the widths differ.

    Value and gradient:
        F over all ranks' pairs; gradient by the features and P.

    Raises:
        ValueError: shapes; widths that differ without a map; reference features that are missing.
        TypeError: features that are not floating point.

    Source:
        Yang et al., "CLIP-KD: An Empirical Study of CLIP Model Distillation", CVPR 2024.

    Example:
        >>> one = torch.eye(2)
        >>> FeatureDistillationLoss()(one, one, reference_image=one, reference_text=-one)
        tensor(4.)
    """

    def __init__(self, width: int | None = None, reference_width: int | None = None) -> None:
        super().__init__()
        if (width is None) != (reference_width is None):
            raise ValueError(f"`width` and `reference_width` go together. Found {width} and {reference_width}.")
        maps = width is not None and reference_width is not None and width != reference_width
        self.image_map = nn.Linear(width, reference_width, bias=False) if maps else nn.Identity()  # pyright: ignore[reportArgumentType]
        self.text_map = nn.Linear(width, reference_width, bias=False) if maps else nn.Identity()  # pyright: ignore[reportArgumentType]
        self.empty = Counter()

    def forward(
        self,
        image: Tensor,
        text: Tensor,
        index: Tensor | None = None,
        *,
        reference_image: Tensor | None = None,
        reference_text: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """The loss of the batch."""
        learning = self.training and torch.is_grad_enabled()
        with torch.autocast(image.device.type, enabled=False):
            batch = towers(
                image, text, reference_x=reference_image, reference_y=reference_text, mask=mask, learning=False
            )
            own = batch.own
            if own.reference_x is None or own.reference_y is None:
                raise ValueError("`reference_image` and `reference_text` are needed: they are what is distilled.")
            x, y = _mapped(self.image_map, own.x), _mapped(self.text_map, own.y)
            if x.shape != own.reference_x.shape:
                raise ValueError(
                    f"features of width {x.shape[1]} cannot be compared with the reference's of width "
                    f"{own.reference_x.shape[1]}. Give `width` and `reference_width` for a linear map."
                )
            distance = (x - own.reference_x).square().sum(-1) + (y - own.reference_y).square().sum(-1)
            if learning:
                count_idle(self.empty, mask, len(distance))
            return anchor_mean(distance, mask, spread=learning)


def _mapped(layer: nn.Module, features: Tensor) -> Tensor:
    """The layer in the features' precision, whatever the module was cast to."""
    return functional.linear(features, layer.weight.to(features)) if isinstance(layer, nn.Linear) else features
