"""Models from elsewhere: a function of the user's own, timm, and Transformers folders; nothing is downloaded."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from guidestar.errors import UserError
from guidestar.plugins import resolve


def from_function(
    name: str, options: Mapping[str, Any], input_shape: tuple[int, ...], num_classes: int, base: Path
) -> nn.Module:
    """The model that a user's function (see `guidestar.plugins`) returns for `(input_shape, num_classes, **options)`.

    Args:
        name: the function; its module may lie in `base`.
        options: keyword arguments for it.
        input_shape: shape of one input.
        num_classes: number of logits.
        base: the folder of the recipe.

    Raises:
        UserError: there is no such module or function, or it does not take an option.
        TypeError: it returns something that is not a Module.
    """
    function = resolve(name, base, "model")
    check_options(function, options, name)
    model = function(input_shape, num_classes, **options)
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` {name!r} must return a torch.nn.Module, found {type(model).__name__}.")
    return model


def check_options(function: Callable[..., Any], options: Mapping[str, Any], name: str) -> None:
    """Raise if a function that is called as `function(input_shape, num_classes, **options)` lacks an option.

    Args:
        function: a model class, or a function that returns a model.
        options: the options to check.
        name: the name of the model, for the message.

    Raises:
        UserError: names the option and those that there are.
    """
    parameters = list(inspect.signature(function).parameters.values())
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return
    keyword = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    # The first two positional parameters are the input shape and the number of classes.
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)][:2]
    allowed = [p.name for p in parameters if p.kind in keyword and p not in positional]
    for option in options:
        if option not in allowed:
            there = f"the options are: {', '.join(allowed)}" if allowed else "it takes none"
            raise UserError(f"`model` {name!r} has no option `{option}`; {there}.")


def from_timm(name: str, options: Mapping[str, Any], input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """A timm model with random weights (load trained ones with `weights`).

    Args:
        name: the architecture, as timm calls it.
        options: keyword arguments for `timm.create_model`.
        input_shape: (C, H, W).
        num_classes: number of logits.

    Raises:
        ImportError: timm (extra `timm`) is not installed.
        UserError: timm has no such model, or an option sets what guidestar sets.
    """
    try:
        import timm  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(f'`model` "timm:{name}" needs timm: pip install "guidestar[timm]"') from error
    _refuse(options, ("pretrained", "num_classes", "in_chans"), f"timm:{name}")
    if name not in timm.list_models():
        close = ", ".join(timm.list_models(f"*{name.split('_')[0]}*")[:10])
        raise UserError(f"`model`: timm has no model {name!r}" + (f"; it has: {close}." if close else "."))
    return timm.create_model(name, pretrained=False, num_classes=num_classes, in_chans=input_shape[0], **options)


class TransformersClassifier(nn.Module):
    """A Transformers image classifier that takes pixels and returns logits.

    Args:
        model: what `AutoModelForImageClassification` gave.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.model(pixel_values=inputs).logits


def from_transformers(path: Path, options: Mapping[str, Any], num_classes: int) -> nn.Module:
    """An image classifier from a local Transformers folder.

    Args:
        path: the folder, with `config.json` and, unless `pretrained` is false, weights.
        options: `pretrained` (default true): read the weights; false: random ones and a head for the data's classes.
        num_classes: number of logits.

    Raises:
        ImportError: transformers (extra `llm`) is not installed.
        UserError: it is for another number of classes, its weights are incomplete, or an option is unknown.
        NotADirectoryError: there is no such folder.
    """
    name = f"transformers:{path}"
    try:
        from transformers import AutoConfig, AutoModelForImageClassification
    except ImportError as error:
        raise ImportError(f'`model` "{name}" needs transformers: pip install "guidestar[llm]"') from error
    for option in options:
        if option != "pretrained":
            raise UserError(f"`model` {name!r} has no option `{option}`; the options are: pretrained.")
    if not (path / "config.json").is_file():
        raise NotADirectoryError(f"`model` {name!r}: there must be a folder with config.json, found none.")
    if not options.get("pretrained", True):
        config = AutoConfig.from_pretrained(path, local_files_only=True, num_labels=num_classes)
        return TransformersClassifier(AutoModelForImageClassification.from_config(config))
    config = AutoConfig.from_pretrained(path, local_files_only=True)
    if config.num_labels != num_classes:
        raise UserError(
            f"`model` {name!r} is for {config.num_labels} classes, but the data has {num_classes}. Use the option "
            "`pretrained: false` to train that architecture from scratch."
        )
    model, report = AutoModelForImageClassification.from_pretrained(
        path, local_files_only=True, output_loading_info=True
    )
    # Transformers fills what is missing with random numbers and only warns.
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise UserError(f"`model` {name!r}: the weights are incomplete; missing: {', '.join(missing[:5])}.")
    return TransformersClassifier(model)


def _refuse(options: Mapping[str, Any], taken: tuple[str, ...], name: str) -> None:
    for option in taken:
        if option in options:
            raise UserError(f"`model` {name!r}: the option `{option}` is set from the data; leave it out.")
