"""A reference model's forward pass."""

import torch
from torch import nn

from guidestar.errors import UserError

PRECISIONS = ("fp32", "bf16")


class Forward:
    """A model's forward pass on its device, in a precision of its own; the result is float32.

    Args:
        model: The model, on `device`.
        device: Where inputs go.
        precision: "fp32" (whatever autocast is around it) or "bf16".

    Raises:
        UserError: The precision is neither.

    Example:
        >>> Forward(nn.Identity(), torch.device("cpu"), "fp32")(torch.ones(1, 2, dtype=torch.float64))
        tensor([[1., 1.]])
    """

    def __init__(self, model: nn.Module, device: torch.device, precision: str) -> None:
        if precision not in PRECISIONS:
            raise UserError(f"`precision` must be one of {', '.join(PRECISIONS)}, found {precision!r}.")
        self._model = model
        self._device = device
        self._half = precision == "bf16"

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """Logits [B, C] of inputs [B, ...]."""
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._half):
            return self._model(inputs.to(self._device, non_blocking=True)).float()


def input_mean(inputs: torch.Tensor) -> torch.Tensor:
    """The mean of each row's inputs, float32 [B]: a cheap mark of the content, to tell other data with the same keys.

    Args:
        inputs: [B, ...].

    Example:
        >>> input_mean(torch.tensor([[1.0, 3.0], [0.0, 0.0]])).tolist()
        [2.0, 0.0]
    """
    return inputs.flatten(1).float().mean(dim=1)
