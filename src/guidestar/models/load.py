"""Models by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from guidestar.errors import UserError
from guidestar.models.external import check_options, from_function, from_timm, from_transformers
from guidestar.models.resnet import ResNet18
from guidestar.models.small import CNN, MLP
from guidestar.models.vit import ViT

_BUILT_IN = {"mlp": MLP, "cnn": CNN, "vit": ViT, "resnet18": ResNet18}


class ModelSpec(Protocol):
    """What names a model: `name` and the `options` of its class or function."""

    @property
    def name(self) -> str: ...
    @property
    def options(self) -> Mapping[str, Any]: ...


def build_model(
    spec: ModelSpec, input_shape: tuple[int, ...], num_classes: int, *, base: Path | None = None
) -> nn.Module:
    """The model that a name stands for, giving logits `[B, num_classes]`; its random weights come from torch's seed.

    Args:
        spec: `name` is "mlp", "cnn", "vit", "resnet18", "package.module:function" (called with `input_shape`,
            `num_classes` and the options), "timm:NAME" or "transformers:PATH"; `options` are keyword arguments.
        input_shape: shape of one input; images (C, H, W).
        num_classes: number of logits.
        base: the folder of the recipe, where relative paths start; default: the current one.

    Raises:
        UserError: an unknown name or option, or options that do not fit the inputs.
        TypeError: the function returns something that is not a Module.
        ImportError: an optional package is missing; names the extra.

    Example:
        >>> from types import SimpleNamespace
        >>> model = build_model(SimpleNamespace(name="mlp", options={"hidden": [4]}), (3,), 2)
        >>> sum(parameter.numel() for parameter in model.parameters())
        26
    """
    folder = Path() if base is None else base
    built_in = _BUILT_IN.get(spec.name)
    if built_in is not None:
        check_options(built_in, spec.options, spec.name)
        return built_in(input_shape, num_classes, **spec.options)
    origin, _, rest = spec.name.partition(":")
    if origin == "timm" and rest:
        return from_timm(rest, spec.options, input_shape, num_classes)
    if origin == "transformers" and rest:
        return from_transformers(folder / Path(rest).expanduser(), spec.options, num_classes)
    if origin and rest.isidentifier():
        return from_function(spec.name, spec.options, input_shape, num_classes, folder)
    raise UserError(
        f"`model` must be one of {', '.join(_BUILT_IN)}, or of the form package.module:function, timm:NAME or "
        f"transformers:PATH; found {spec.name!r}."
    )
