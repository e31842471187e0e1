"""Towers made of the parts of Transformers' CLIP: from a small configuration, or out of a trained model."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from guidestar.errors import UserError
from guidestar.models.pairs.settings import DualOptions


class ClipImageTower(nn.Module):
    """Transformers' CLIP vision model and its projection, under the names that they have in a `CLIPModel`.

    Args:
        vision_model: gives `pooler_output` from `pixel_values`.
        projection: a bias-free linear layer, as `CLIPModel.visual_projection`.
    """

    def __init__(self, vision_model: nn.Module, projection: nn.Module) -> None:
        super().__init__()
        self.vision_model = vision_model
        self.visual_projection = projection

    def checkpoint_gradients(self) -> None:
        """Compute the layers again in the backward pass instead of keeping what they gave."""
        enable_checkpointing(self.vision_model)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.visual_projection(self.vision_model(pixel_values=images).pooler_output)


class ClipTextTower(nn.Module):
    """Transformers' CLIP text model and its projection; the vector is taken at the first end mark.

    Attention looks back only and rows are filled up at the end, so that no mask is needed.

    Args:
        text_model: gives `pooler_output` from `input_ids`.
        projection: a bias-free linear layer, as `CLIPModel.text_projection`.
    """

    def __init__(self, text_model: nn.Module, projection: nn.Module) -> None:
        super().__init__()
        self.text_model = text_model
        self.text_projection = projection

    def checkpoint_gradients(self) -> None:
        """Compute the layers again in the backward pass instead of keeping what they gave."""
        enable_checkpointing(self.text_model)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.text_projection(self.text_model(input_ids=tokens).pooler_output)


def small_image_tower(options: DualOptions) -> ClipImageTower:
    """A vision transformer with random weights.

    Args:
        options: `size`, `patch`, `width`, `image_hidden`, `image_layers`, `image_heads`.

    Raises:
        ImportError: transformers (extra `clip`) is not installed.
    """
    transformers = import_transformers("`image: vit`")
    hidden = options.image_hidden or 128
    config = transformers.CLIPVisionConfig(
        image_size=options.size,
        patch_size=options.patch_side,
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=options.image_layers or 4,
        num_attention_heads=options.image_heads or 4,
        projection_dim=options.width,
        hidden_act="gelu",
    )
    model: Any = transformers.CLIPVisionModelWithProjection(config)
    return ClipImageTower(model.vision_model, model.visual_projection)


def small_text_tower(options: DualOptions, tokenizer: Any) -> ClipTextTower:
    """A text transformer with random weights.

    Args:
        options: `width`, `text_hidden`, `text_layers`, `text_heads`.
        tokenizer: a `BytePairTokenizer`; its length and end mark become the model's.

    Raises:
        UserError: the tokenizer has no end mark.
        ImportError: transformers (extra `clip`) is not installed.
    """
    end = getattr(tokenizer, "end", None)
    if end is None:
        raise UserError("`text: transformer` needs a tokenizer with an end mark; use `train_tokenizer`.")
    transformers = import_transformers("`text: transformer`")
    hidden = options.text_hidden or 128
    config = transformers.CLIPTextConfig(
        vocab_size=tokenizer.vocabulary,
        max_position_embeddings=tokenizer.length,
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=options.text_layers or 3,
        num_attention_heads=options.text_heads or 4,
        projection_dim=options.width,
        hidden_act="gelu",
        pad_token_id=tokenizer.pad,
        eos_token_id=end,
        bos_token_id=tokenizer.start,
    )
    model: Any = transformers.CLIPTextModelWithProjection(config)
    return ClipTextTower(model.text_model, model.text_projection)


def enable_checkpointing(model: Any) -> None:
    """Gradient checkpointing of a Transformers model, in the form that works with hooks of distributed training.

    Args:
        model: a `PreTrainedModel`.
    """
    if hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable({"use_reentrant": False})
    else:  # older releases of Transformers
        model.gradient_checkpointing_enable({"use_reentrant": False})


def import_transformers(what: str) -> Any:
    """The transformers package.

    Args:
        what: what needs it, for the message.

    Raises:
        ImportError: it (extra `clip`) is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise ImportError(f'{what} needs transformers: pip install "guidestar[clip]"') from error
    return transformers
