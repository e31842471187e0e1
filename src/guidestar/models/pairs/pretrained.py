"""CLIP and SigLIP models from a Transformers folder on disk; nothing is downloaded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import nn
from torch.nn import functional

from guidestar.errors import UserError
from guidestar.files import write_json
from guidestar.models.pairs.clip_towers import ClipImageTower, ClipTextTower, enable_checkpointing, import_transformers
from guidestar.models.pairs.dual import DualEncoder
from guidestar.models.pairs.settings import TransformersOptions
from guidestar.models.pairs.tokenizer import SETTINGS_FILE, check_captions, fingerprint_of

_PROCESSORS = ("preprocessor_config.json", "processor_config.json")
_VOCABULARIES = ("tokenizer.json", "vocab.json", "spiece.model", "tokenizer.model")


class TransformersTokenizer:
    """A Transformers tokenizer with the face of `guidestar.models.pairs.Tokenizer`.

    Args:
        inner: what `AutoTokenizer` gave.
        length: longest caption in tokens.

    Raises:
        UserError: it has neither a padding token nor an end token to fill rows up with.
    """

    def __init__(self, inner: Any, length: int) -> None:
        pad = inner.eos_token_id if inner.pad_token_id is None else inner.pad_token_id
        if pad is None:
            raise UserError("`tokenizer` must have a padding token or an end token, found neither.")
        self.inner = inner
        self.length = length
        self.pad: int = pad
        self.vocabulary: int = max(inner.get_vocab().values()) + 1

    def __call__(self, captions: Sequence[str]) -> list[list[int]]:
        """The numbers of each caption.

        Raises:
            TypeError: a caption is not a string.
        """
        check_captions(captions)
        # One at a time: a whole list starts threads, and a worker process forked after that prints a warning.
        return [self.inner(text, truncation=True, max_length=self.length)["input_ids"] for text in captions]

    def fingerprint(self) -> str:
        """SHA-256 (hex) of what decides the numbers."""
        return fingerprint_of(self, self.inner.get_vocab())

    def save(self, folder: Path) -> None:
        """Write the tokenizer's own files and the length into a folder, which is made.

        Raises:
            OSError: it cannot be written.
        """
        self.inner.save_pretrained(folder)
        write_json(Path(folder) / SETTINGS_FILE, {"kind": "transformers", "length": self.length})


class SiglipImageTower(nn.Module):
    """SigLIP's vision model; its pooling head is the embedding.

    Args:
        vision_model: gives `pooler_output` from `pixel_values`.
    """

    def __init__(self, vision_model: nn.Module) -> None:
        super().__init__()
        self.vision_model = vision_model

    def checkpoint_gradients(self) -> None:
        """Compute the layers again in the backward pass instead of keeping what they gave."""
        enable_checkpointing(self.vision_model)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.vision_model(pixel_values=images).pooler_output


class SiglipTextTower(nn.Module):
    """SigLIP's text model, whose vector stands at the last place: each row is filled up to the full length.

    Args:
        text_model: gives `pooler_output` from `input_ids`.
        length: the full length.
        pad: the token that fills rows up.
    """

    def __init__(self, text_model: nn.Module, length: int, pad: int) -> None:
        super().__init__()
        self.text_model = text_model
        self.length = length
        self.pad = pad

    def checkpoint_gradients(self) -> None:
        """Compute the layers again in the backward pass instead of keeping what they gave."""
        enable_checkpointing(self.text_model)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        filled = functional.pad(tokens, (0, self.length - tokens.shape[1]), value=self.pad)
        return self.text_model(input_ids=filled).pooler_output


def load_pretrained_tokenizer(folder: Path, length: int) -> TransformersTokenizer:
    """The tokenizer in a Transformers folder.

    Args:
        folder: the folder.
        length: longest caption in tokens.

    Raises:
        ImportError: transformers (extra `clip`) is not installed.
        UserError: there is no tokenizer in the folder that can be read.
    """
    transformers = import_transformers("a Transformers tokenizer")
    # Without any of them Transformers makes a tokenizer that knows no word, and says nothing.
    if not any((folder / name).is_file() for name in _VOCABULARIES):
        raise UserError(f"`tokenizer`: {folder} must hold one of {', '.join(_VOCABULARIES)}, found none.")
    try:
        inner = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"`tokenizer`: {folder} holds none that Transformers can read ({error}).") from error
    return TransformersTokenizer(inner, length)


def from_transformers(folder: Path, options: TransformersOptions) -> DualEncoder:
    """The CLIP or SigLIP model in a folder, with its own tokenizer, picture size and normalisation.

    Args:
        folder: holds `config.json`, `model.safetensors`, the tokenizer and `preprocessor_config.json`.
        options: whether to read the weights.

    Raises:
        ImportError: transformers (extra `clip`) is not installed.
        NotADirectoryError: there is no such folder.
        UserError: it holds another kind of model, or one of its files is missing or does not fit.
    """
    transformers = import_transformers(f'`model` "transformers:{folder}"')
    if not (folder / "config.json").is_file():
        raise NotADirectoryError(f"`model`: there must be a folder with config.json at {folder}, found none.")
    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    kinds = {"clip": transformers.CLIPModel, "siglip": transformers.SiglipModel}
    if config.model_type not in kinds:
        raise UserError(f"`model`: {folder} must hold a clip or siglip model, found {config.model_type!r}.")
    statistics = _statistics(folder)
    tokenizer = load_pretrained_tokenizer(folder, config.text_config.max_position_embeddings)
    if tokenizer.vocabulary > config.text_config.vocab_size:
        raise UserError(
            f"`model`: the tokenizer in {folder} has {tokenizer.vocabulary} tokens, but the text model only "
            f"{config.text_config.vocab_size}; it is the tokenizer of another model."
        )
    inner = _weights(kinds[config.model_type], folder, config, options)
    image, text, width = (_clip if config.model_type == "clip" else _siglip)(inner, tokenizer, folder)
    model = DualEncoder(
        image, text, tokenizer=tokenizer, size=config.vision_config.image_size, width=width, **statistics
    )
    with torch.no_grad():
        model.log_scale.copy_(inner.logit_scale.reshape(()))
        if hasattr(inner, "logit_bias"):
            model.bias.copy_(inner.logit_bias.reshape(()))
    return model


def _weights(kind: Any, folder: Path, config: Any, options: TransformersOptions) -> Any:
    if not options.pretrained:
        return kind(config)
    try:
        model, report = kind.from_pretrained(folder, local_files_only=True, output_loading_info=True)
    except (OSError, RuntimeError, safetensors.SafetensorError) as error:
        raise UserError(f"`model`: the weights in {folder} cannot be read ({error}).") from error
    # Transformers fills what is missing with random numbers and only warns.
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise UserError(f"`model`: the weights in {folder} are incomplete; missing: {', '.join(missing[:5])}.")
    return model.float()


def _clip(inner: Any, tokenizer: TransformersTokenizer, folder: Path) -> tuple[nn.Module, nn.Module, int]:
    image = ClipImageTower(inner.vision_model, inner.visual_projection)
    return image, ClipTextTower(inner.text_model, inner.text_projection), inner.projection_dim


def _siglip(inner: Any, tokenizer: TransformersTokenizer, folder: Path) -> tuple[nn.Module, nn.Module, int]:
    width, other = inner.config.vision_config.hidden_size, inner.config.text_config.projection_size
    if width != other:
        raise UserError(f"`model`: the towers in {folder} must have one width, found {width} and {other}.")
    text = SiglipTextTower(inner.text_model, tokenizer.length, tokenizer.pad)
    return SiglipImageTower(inner.vision_model), text, width


def _statistics(folder: Path) -> dict[str, list[float]]:
    for name in _PROCESSORS:
        if (folder / name).is_file():
            found = json.loads((folder / name).read_text(encoding="utf-8"))
            found = found.get("image_processor", found)
            if "image_mean" in found and "image_std" in found:
                return {"mean": found["image_mean"], "std": found["image_std"]}
    raise UserError(
        f"`model`: {folder} must hold preprocessor_config.json with image_mean and image_std, found none. "
        "Save the model's image processor there."
    )
