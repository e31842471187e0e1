"""open_clip models, where open_clip is installed; nothing is downloaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from guidestar.errors import UserError
from guidestar.files import write_json
from guidestar.models.pairs.dual import DualEncoder
from guidestar.models.pairs.settings import OpenClipOptions
from guidestar.models.pairs.tokenizer import SETTINGS_FILE, check_captions, fingerprint_of


class OpenClipTokenizer:
    """An open_clip tokenizer with the face of `guidestar.models.pairs.Tokenizer`.

    Args:
        name: the model's name.
        inner: what `open_clip.get_tokenizer(name)` gave: texts to whole rows of the full length.
    """

    def __init__(self, name: str, inner: Any) -> None:
        self.name = name
        self.inner = inner
        # An empty text is all padding at the end.
        empty = inner([""])[0]
        self.length: int = empty.numel()
        self.pad = int(empty[-1])
        self.vocabulary: int = len(self._words())

    def __call__(self, captions: Sequence[str]) -> list[list[int]]:
        """The numbers of each caption.

        Raises:
            TypeError: a caption is not a string.
        """
        check_captions(captions)
        if not captions:
            return []
        return [self._trim(row) for row in self.inner(list(captions)).tolist()]

    def fingerprint(self) -> str:
        """SHA-256 (hex) of what decides the numbers."""
        return fingerprint_of(self, self._words())

    def save(self, folder: Path) -> None:
        """Write the name into a folder, which is made; open_clip brings the rest.

        Raises:
            OSError: it cannot be written.
        """
        write_json(Path(folder) / SETTINGS_FILE, {"kind": "open_clip", "name": self.name})

    def _trim(self, row: list[int]) -> list[int]:
        # The text tower fills rows up again; one token stays where a row is all padding.
        end = len(row)
        while end > 1 and row[end - 1] == self.pad:
            end -= 1
        return row[:end]

    def _words(self) -> dict[str, int]:
        # open_clip's own tokenizer keeps `encoder`; those it takes from Transformers keep `tokenizer`.
        return dict(self.inner.encoder) if hasattr(self.inner, "encoder") else self.inner.tokenizer.get_vocab()


class OpenClipTower(nn.Module):
    """One side of an open_clip model.

    Args:
        inner: `model.visual` or `model.text`.
        length: for text, the full length, to which rows are filled up.
        pad: for text, the token that fills them.
    """

    def __init__(self, inner: nn.Module, length: int | None = None, pad: int = 0) -> None:
        super().__init__()
        self.inner = inner
        self.length = length
        self.pad = pad

    def checkpoint_gradients(self) -> None:
        """Compute the layers again in the backward pass instead of keeping what they gave."""
        inner: Any = self.inner
        inner.set_grad_checkpointing(True)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if self.length is not None:
            inputs = functional.pad(inputs, (0, self.length - inputs.shape[1]), value=self.pad)
        return self.inner(inputs)


def load_open_clip_tokenizer(name: str) -> OpenClipTokenizer:
    """The tokenizer of an open_clip model.

    Args:
        name: the model's name.

    Raises:
        ImportError: open_clip is not installed.
        UserError: open_clip has no such model.
    """
    return OpenClipTokenizer(name, _import(name).get_tokenizer(name))


def from_open_clip(name: str, options: OpenClipOptions, base: Path) -> DualEncoder:
    """An open_clip model with its own tokenizer, picture size and normalisation.

    Args:
        name: the model's name, as `open_clip.list_models()` gives it.
        options: a file of weights, or none.
        base: the folder where a relative path starts.

    Raises:
        ImportError: open_clip is not installed.
        FileNotFoundError: there is no such file of weights.
        UserError: open_clip has no such model, or its pictures are not square.
    """
    open_clip = _import(name)
    path = None if options.pretrained is None else base / Path(options.pretrained).expanduser()
    if path is not None and not path.is_file():
        raise FileNotFoundError(f"`model` 'open_clip:{name}': `pretrained` must be a file, found none at {path}.")
    # `force_custom_text` gives the text side a module of its own, so that it can be frozen or checkpointed alone.
    inner = open_clip.create_model(
        name, pretrained=None if path is None else str(path), force_custom_text=True, pretrained_hf=False
    )
    tokenizer = load_open_clip_tokenizer(name)
    model = DualEncoder(
        OpenClipTower(inner.visual),
        OpenClipTower(inner.text, tokenizer.length, tokenizer.pad),
        tokenizer=tokenizer,
        size=_side(inner.visual.image_size, name),
        width=open_clip.get_model_config(name)["embed_dim"],
        mean=inner.visual.image_mean,
        std=inner.visual.image_std,
    )
    with torch.no_grad():
        model.log_scale.copy_(inner.logit_scale.reshape(()))
        if getattr(inner, "logit_bias", None) is not None:
            model.bias.copy_(inner.logit_bias.reshape(()))
    return model


def _import(name: str) -> Any:
    try:
        import open_clip  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(f'`model` "open_clip:{name}" needs open_clip: pip install open_clip_torch') from error
    if name not in open_clip.list_models():
        close = [other for other in open_clip.list_models() if other.split("-")[0] == name.split("-")[0]][:10]
        raise UserError(
            f"`model`: open_clip has no model {name!r}" + (f"; it has: {', '.join(close)}." if close else ".")
        )
    return open_clip


def _side(size: int | tuple[int, int], name: str) -> int:
    height, width = (size, size) if isinstance(size, int) else size
    if height != width:
        raise UserError(f"`model` 'open_clip:{name}' must take square pictures, found {height} x {width}.")
    return height
