"""Small models for tables and images: a multi-layer perceptron and a convolutional network."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from guidestar.errors import UserError


def check_image_shape(input_shape: tuple[int, ...], name: str) -> None:
    """Raise unless the inputs are images.

    Args:
        input_shape: shape of one input.
        name: the model, for the message.

    Raises:
        UserError: the shape is not (C, H, W).
    """
    if len(input_shape) != 3:
        raise UserError(
            f"`model` {name!r} needs images of shape (C, H, W), found inputs of shape {tuple(input_shape)}; "
            "use `mlp` for tables."
        )


def check_dropout(dropout: float) -> None:
    """Raise unless the dropout probability is in [0, 1).

    Args:
        dropout: the probability.

    Raises:
        UserError: it is out of range.
    """
    if not 0 <= dropout < 1:
        raise UserError(f"`dropout` must be in [0, 1), found {dropout}.")


def check_positive(**options: int) -> None:
    """Raise unless every option is a whole number of at least 1.

    Args:
        options: the options by name.

    Raises:
        UserError: names the first that is not.
    """
    for name, value in options.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UserError(f"`{name}` must be a whole number of at least 1, found {value!r}.")


class MLP(nn.Module):
    """Linear layers with ReLU between them, for inputs of any shape (they are flattened).

    Args:
        input_shape: shape of one input.
        num_classes: number of logits.
        hidden: widths of the hidden layers; none gives a linear model.
        dropout: probability of dropping a hidden unit.

    Raises:
        UserError: a width or the dropout is out of range.

    Example:
        >>> MLP((1, 8, 8), 10, hidden=[32])(torch.zeros(5, 1, 8, 8)).shape
        torch.Size([5, 10])
    """

    def __init__(
        self, input_shape: tuple[int, ...], num_classes: int, *, hidden: Sequence[int] = (128,), dropout: float = 0.0
    ) -> None:
        super().__init__()
        if isinstance(hidden, int | str):
            raise UserError(f"`hidden` must be a list of widths such as [128], found {hidden!r}.")
        for width in hidden:
            check_positive(hidden=width)
        check_dropout(dropout)
        layers: list[nn.Module] = [nn.Flatten()]
        width = math.prod(input_shape)
        for next_width in hidden:
            layers += [nn.Linear(width, next_width), nn.ReLU(), nn.Dropout(dropout)]
            width = next_width
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(width, num_classes)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(inputs))


class CNN(nn.Module):
    """Three stages of two 3 x 3 convolutions (with batch norm and ReLU) of `width`, 2 `width` and 4 `width` channels.

    The size is halved between stages; the last stage's mean over positions goes through one linear layer. With width 32
    it has 0.29 M parameters.

    Args:
        input_shape: (C, H, W), of any size.
        num_classes: number of logits.
        width: channels of the first stage.
        dropout: probability of dropping a feature before the last layer.

    Raises:
        UserError: the inputs are no images, or an option is out of range.

    Example:
        >>> CNN((3, 32, 32), 10, width=8)(torch.zeros(5, 3, 32, 32)).shape
        torch.Size([5, 10])
    """

    def __init__(
        self, input_shape: tuple[int, ...], num_classes: int, *, width: int = 32, dropout: float = 0.0
    ) -> None:
        super().__init__()
        check_image_shape(input_shape, "cnn")
        check_positive(width=width)
        check_dropout(dropout)
        channels = [input_shape[0], width, 2 * width, 4 * width]
        layers: list[nn.Module] = []
        for stage in range(3):
            if stage:
                # ceil_mode lets images smaller than 4 pixels through.
                layers.append(nn.MaxPool2d(2, ceil_mode=True))
            layers += _convolution(channels[stage], channels[stage + 1])
            layers += _convolution(channels[stage + 1], channels[stage + 1])
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout))
        self.head = nn.Linear(channels[-1], num_classes)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(inputs))


def _convolution(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
