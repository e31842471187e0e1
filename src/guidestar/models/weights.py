"""Weights on disk: reading with every mismatch named, writing that cannot leave half a file, and their hash."""

from __future__ import annotations

import hashlib
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import nn

from guidestar.errors import UserError
from guidestar.files import replacing
from guidestar.models.preprocess import Preprocess

_SHOWN = 5


def load_weights(model: nn.Module, path: Path) -> None:
    """Fill a model with the weights in a file.

    `*.safetensors` is read as such, anything else as a torch checkpoint (tensors only, no code is run): a state dict, or
    one under "state_dict" or "model". Prefixes that `DataParallel` and `torch.compile` add are removed. Weights of a bare
    model fit a `Preprocess` around that model too; its own normalisation is then kept.

    Args:
        model: changed in place, only if everything fits.
        path: the file.

    Raises:
        UserError: the file is broken or holds no state dict, names or shapes differ, the number of classes differs, or
            a weight is NaN or infinite.
        OSError: the file cannot be read.
    """
    state = _strip(_read(Path(path)))
    target = model
    if isinstance(model, Preprocess) and not any(key.startswith("model.") or key in ("mean", "std") for key in state):
        target = model.model
    _check_fit(target, state, path)
    for key, tensor in state.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise UserError(f"`weights`: {path} holds NaN or infinity in `{key}`.")
    target.load_state_dict(state)


def save_weights(model: nn.Module, path: Path) -> None:
    """Write a model's weights as safetensors; after a crash the file is the old one or the new one, never half.

    Args:
        model: the model.
        path: ends in `.safetensors`; missing folders are made.

    Raises:
        UserError: another suffix, or the disk is full.
        OSError: the file cannot be written.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise UserError(f"`path` must end in .safetensors, found {path.name}.")
    # Copies, since safetensors refuses tensors that share memory (tied weights).
    state = {key: tensor.contiguous().clone() for key, tensor in _tensors(model).items()}
    with replacing(path) as stream:
        stream.write(safetensors.torch.save(state))


def weights_hash(model: nn.Module) -> str:
    """SHA-256 (hex) over the names, types, shapes and bytes of a model's state dict, sorted by name.

    Args:
        model: the model; where it lies (CPU, GPU) does not matter.

    Example:
        >>> linear = nn.Linear(2, 1)
        >>> before = weights_hash(linear)
        >>> _ = linear.weight.data.add_(1)
        >>> before == weights_hash(linear)
        False
    """
    digest = hashlib.sha256()
    for key, tensor in sorted(_tensors(model).items()):
        digest.update(repr((key, str(tensor.dtype), tuple(tensor.shape))).encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.detach().cpu() for key, value in model.state_dict().items() if isinstance(value, torch.Tensor)}


def _read(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"`weights` must be a file, found none at {path}.")
    if path.suffix == ".safetensors":
        try:
            return safetensors.torch.load_file(path)
        except safetensors.SafetensorError as error:
            raise UserError(f"`weights`: {path} is no readable safetensors file ({error}).") from error
    try:
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"`weights`: {path} is no checkpoint of tensors only, and nothing else is loaded, since it could run code. "
            f"Save `model.state_dict()` alone. ({str(error).splitlines()[0]})"
        ) from error
    except (RuntimeError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"`weights`: {path} is no readable torch checkpoint ({error}).") from error
    for key in ("state_dict", "model"):
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping) or not found or not all(isinstance(v, torch.Tensor) for v in found.values()):
        raise UserError(
            f'`weights`: {path} must hold a state dict, or one under "state_dict" or "model"; '
            f"found {type(found).__name__}{_keys_of(found)}."
        )
    return dict(found)


def _keys_of(found: Any) -> str:
    return f" with {', '.join(map(str, list(found)[:_SHOWN]))}" if isinstance(found, Mapping) and found else ""


def _strip(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    for prefix in ("_orig_mod.", "module.", "_orig_mod."):
        if all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def _check_fit(model: nn.Module, state: Mapping[str, torch.Tensor], path: Path) -> None:
    wanted = _tensors(model)
    missing = [key for key in wanted if key not in state]
    unexpected = [key for key in state if key not in wanted]
    shapes = [key for key in wanted if key in state and wanted[key].shape != state[key].shape]
    if not (missing or unexpected or shapes):
        return
    if not (missing or unexpected):
        _check_classes(wanted, state, shapes, path)
    parts = [
        f"{title}: {', '.join(keys[:_SHOWN])}{', ...' if len(keys) > _SHOWN else ''} ({len(keys)} in all)"
        for title, keys in (("missing", missing), ("unexpected", unexpected))
        if keys
    ]
    if shapes:
        texts = [f"{key} {list(state[key].shape)} instead of {list(wanted[key].shape)}" for key in shapes[:_SHOWN]]
        parts.append(f"of another shape: {', '.join(texts)} ({len(shapes)} in all)")
    raise UserError(f"`weights`: {path} does not fit the model; {'; '.join(parts)}. Check `model` and its options.")


def _check_classes(
    wanted: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor], shapes: list[str], path: Path
) -> None:
    """Where only the first dimension of the output layer differs, the number of classes is what is wrong."""
    if "tokenizer_hash" in wanted:  # two towers have no classes: it is the width or the vocabulary
        return
    sizes = {
        (tuple(state[key].shape[:1]), tuple(wanted[key].shape[:1]))
        for key in shapes
        if state[key].shape[1:] == wanted[key].shape[1:]
    }
    agree = all(state[key].shape[1:] == wanted[key].shape[1:] for key in shapes)
    if agree and len(sizes) == 1:
        (found, needed) = next(iter(sizes))
        if found and needed:
            raise UserError(
                f"`weights`: {path} is for {found[0]} classes, but the model must have {needed[0]} as the data has "
                f"({', '.join(shapes[:_SHOWN])} differ in nothing else)."
            )
