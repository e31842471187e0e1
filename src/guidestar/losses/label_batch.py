"""What the losses of logits and labels share: shapes, the mask, and labels that are not classes."""

from __future__ import annotations

import torch
from torch import Tensor

from guidestar.risks.base import as_mask
from guidestar.state import math_dtype, may_look


def class_batch(logits: Tensor, labels: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Logits in float32 at least, labels int64, and the mask `[B]`; masked entries are zeros, whatever they held.

    Args:
        logits: `[B, C]` with at least two classes.
        labels: `[B]`, whole numbers in [0, C).
        mask: bool, which samples count.

    Raises:
        ValueError: shapes do not fit, fewer than two classes, a label on the CPU that is no class.
        TypeError: logits that are not floating point, labels that are, a mask that is not bool.

    Example:
        >>> class_batch(torch.zeros(2, 3), torch.tensor([2, -100]), torch.tensor([True, False]))[1]
        tensor([2, 0])
    """
    logits = logits.to(math_dtype(logits))
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(
            f"`logits` must be [B, C] and `labels` [B]. Found {tuple(logits.shape)} and {tuple(labels.shape)}."
        )
    classes = logits.shape[1]
    if classes < 2:
        raise ValueError(f"`logits` must have at least 2 classes (columns). Found {classes}.")
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise TypeError(f"`labels` must hold the number of each sample's class, int64. Found dtype {labels.dtype}.")
    if mask is not None:
        mask = as_mask(logits[:, 0], mask)
        logits = torch.where(mask.unsqueeze(1), logits, 0.0)  # a NaN that is masked must not reach the gradient
        labels = torch.where(mask.to(labels.device), labels, 0)
    if labels.device.type == "cpu" and labels.numel() and not torch.compiler.is_compiling():
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= classes:
            raise ValueError(
                f"`labels` must lie in [0, {classes}), as the logits have {classes} columns. Found "
                f"{low if low < 0 else high}. Mask out samples without a class."
            )
    return logits, labels.to(logits.device, torch.int64), mask


def binary_labels(logits: Tensor, labels: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """The same for `logits` `[B]` of one class against the rest, with labels 0 and 1 of any dtype; labels are bool.

    Raises:
        ValueError: shapes do not fit, a label on the CPU that is neither 0 nor 1.
        TypeError: logits that are not floating point, a mask that is not bool.

    Example:
        >>> binary_labels(torch.zeros(2), torch.tensor([1.0, 0.0]), None)[1]
        tensor([ True, False])
    """
    logits = logits.to(math_dtype(logits))
    if logits.ndim != 1 or labels.shape != logits.shape:
        raise ValueError(
            f"`logits` and `labels` must both be [B]. Found {tuple(logits.shape)} and {tuple(labels.shape)}."
        )
    if mask is not None:
        mask = as_mask(logits, mask)
        logits = torch.where(mask, logits, 0.0)
        labels = torch.where(mask.to(labels.device), labels, 0)
    positive = labels == 1
    if may_look(labels) and not (positive | (labels == 0)).all():
        other = labels[~positive & (labels != 0)]
        raise ValueError(
            f"`labels` must be 0 or 1 for logits [B]. Found {other[0].item()}. For labels of -1 and 1 pass "
            "(labels > 0); for several classes pass logits [B, C]."
        )
    return logits, positive.to(logits.device), mask


def check_class_weights(name: str, values: Tensor, logits: Tensor) -> Tensor:
    """`values` `[C]` where and in the dtype that `logits` `[B, C]` are.

    Raises:
        ValueError: there are not as many as classes.

    Example:
        >>> check_class_weights("priors", torch.ones(2, dtype=torch.float64), torch.zeros(1, 2))
        tensor([1., 1.])
    """
    if values.shape != logits.shape[1:]:
        raise ValueError(
            f"`{name}` must have one number for each class. Found {len(values)} for logits with {logits.shape[1]} columns."
        )
    return values.to(logits)
