"""The RHO loss: a loss minus what a reference model lost on the same thing."""

from __future__ import annotations

from torch import Tensor

from guidestar.state import math_dtype


def excess(losses: Tensor, reference_losses: Tensor) -> Tensor:
    r"""$\hat\ell_i(w) = \ell_i(w) - \ell_i(w_{ref})$, in float32 at least, without gradient by the reference.

    Equations:
        6.113.

    Args:
        losses: of any shape.
        reference_losses: of the same shape.

    Raises:
        ValueError: the shapes differ.
        TypeError: one of them is not floating point.

    Example:
        >>> import torch
        >>> excess(torch.tensor([1.5]), torch.tensor([0.5]))
        tensor([1.])
    """
    dtype = math_dtype(losses)
    math_dtype(reference_losses)
    if losses.shape != reference_losses.shape:
        raise ValueError(
            f"`reference_losses` must have the shape of `losses`, {tuple(losses.shape)}. Found "
            f"{tuple(reference_losses.shape)}."
        )
    return losses.to(dtype) - reference_losses.detach().to(losses.device)  # Eq. 6.113
