"""The settings of a model of image-text pairs and of its tokenizer, as they stand in a recipe."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, field_validator, model_validator

SPECIAL_TOKENS = 3
SMALLEST_VOCABULARY = 256 + SPECIAL_TOKENS
_NAMES = "dual, transformers:PATH or open_clip:NAME"


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class TokenizerSettings(_Settings):
    """How the tokenizer of a built-in model is trained on the captions.

    Example:
        >>> TokenizerSettings(length=16).vocabulary
        4096
    """

    vocabulary: int = Field(
        default=4096,
        ge=SMALLEST_VOCABULARY,
        description="Largest number of tokens, the 256 bytes and 3 marks included.",
    )
    length: int = Field(default=32, ge=3, description="Longest caption in tokens, start and end included.")


class DualOptions(_Settings):
    """The options of the built-in model, `dual`: an image tower and a text tower of one embedding width.

    Example:
        >>> DualOptions(image="vit", size=48).patch_side
        8
    """

    image: Literal["cnn", "vit"] = Field(default="cnn", description="The image tower: cnn (convolutions) or vit.")
    text: Literal["bag", "transformer"] = Field(
        default="bag", description="The text tower: bag (mean of the token embeddings) or transformer."
    )
    width: PositiveInt = Field(default=128, description="Width of the embeddings.")
    size: int = Field(default=40, ge=8, description="Side of the pictures in pixels.")
    image_hidden: PositiveInt | None = Field(
        default=None, description="cnn: channels of the first stage (null: 32); vit: width of a patch (null: 128)."
    )
    image_layers: PositiveInt | None = Field(
        default=None, description="cnn: stages, each halves the side and doubles the channels; vit: layers. null: 4."
    )
    image_heads: PositiveInt | None = Field(default=None, description="vit: attention heads (null: 4).")
    patch: PositiveInt | None = Field(default=None, description="vit: side of a patch; divides `size` (null: 8).")
    text_hidden: PositiveInt | None = Field(default=None, description="Width of a token (null: 128).")
    text_layers: PositiveInt | None = Field(default=None, description="transformer: layers (null: 3).")
    text_heads: PositiveInt | None = Field(default=None, description="transformer: attention heads (null: 4).")

    @property
    def patch_side(self) -> int:
        """The side of a ViT's patch."""
        return 8 if self.patch is None else self.patch

    @model_validator(mode="after")
    def _fit(self) -> DualOptions:
        only = {"image_heads": ("image", "vit"), "patch": ("image", "vit")}
        only |= {"text_layers": ("text", "transformer"), "text_heads": ("text", "transformer")}
        for option, (tower, kind) in only.items():
            if getattr(self, option) is not None and getattr(self, tower) != kind:
                raise ValueError(f"`{option}` is for `{tower}: {kind}`; found `{tower}: {getattr(self, tower)}`")
        if self.image == "vit" and (self.size < self.patch_side or self.size % self.patch_side):
            raise ValueError(f"`patch` must divide `size` {self.size}, found {self.patch_side}")
        for tower, kind in (("image", "vit"), ("text", "transformer")):
            hidden, heads = getattr(self, f"{tower}_hidden") or 128, getattr(self, f"{tower}_heads") or 4
            if getattr(self, tower) == kind and hidden % heads:
                raise ValueError(f"`{tower}_heads` must divide `{tower}_hidden` {hidden}, found {heads}")
        return self


class TransformersOptions(_Settings):
    """The options of `transformers:PATH`.

    Example:
        >>> TransformersOptions().pretrained
        True
    """

    pretrained: bool = Field(default=True, description="Read the folder's weights; false: random ones.")


class OpenClipOptions(_Settings):
    """The options of `open_clip:NAME`.

    Example:
        >>> OpenClipOptions(pretrained="ViT-B-32.pt").pretrained
        'ViT-B-32.pt'
    """

    pretrained: str | None = Field(default=None, description="A file of weights; null: random ones.")


class PairModelSettings(_Settings):
    """A model of image-text pairs by name, with its options.

    Example:
        >>> PairModelSettings(options={"image": "vit", "size": 48}).dual.width
        128
        >>> PairModelSettings(name="transformers:clip").brings_weights
        True
    """

    name: str = Field(default="dual", description=f"{_NAMES}.")
    options: dict[str, Any] = Field(
        default_factory=dict, validate_default=True, description="Options of the model, by name."
    )

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        origin, _, rest = name.partition(":")
        if name != "dual" and not (origin in ("transformers", "open_clip") and rest):
            raise ValueError(f"must be {_NAMES}, found {name!r}")
        return name

    @model_validator(mode="after")
    def _options(self) -> PairModelSettings:
        kind = DualOptions
        if self.name != "dual":
            kind = TransformersOptions if self.name.startswith("transformers:") else OpenClipOptions
        try:
            kind(**self.options)
        except ValidationError as error:
            raise ValueError(_first(error, self.name, kind)) from error
        return self

    @property
    def dual(self) -> DualOptions:
        """The options of the built-in model."""
        return DualOptions(**self.options)

    @property
    def transformers(self) -> TransformersOptions:
        """The options of a model from a Transformers folder."""
        return TransformersOptions(**self.options)

    @property
    def open_clip(self) -> OpenClipOptions:
        """The options of an open_clip model."""
        return OpenClipOptions(**self.options)

    @property
    def brings_tokenizer(self) -> bool:
        """Whether the model has a tokenizer of its own, so that none is trained on the captions."""
        return self.name != "dual"

    @property
    def brings_weights(self) -> bool:
        """Whether the model arrives trained."""
        if self.name.startswith("transformers:"):
            return self.transformers.pretrained
        return self.name.startswith("open_clip:") and self.open_clip.pretrained is not None

    def same_architecture(self, other: PairModelSettings | None) -> bool:
        """Whether weights of one fit the other: the same name and options, however the first weights come about."""
        if other is None or self.name != other.name:
            return False
        return self.name != "dual" or self.dual == other.dual


def _first(error: ValidationError, name: str, kind: type[BaseModel]) -> str:
    found = error.errors()[0]
    message = found["msg"].removeprefix("Value error, ")
    if not found["loc"]:
        return message
    option = found["loc"][0]
    if found["type"] == "extra_forbidden":
        return f"`model` {name!r} has no option `{option}`; the options are: {', '.join(kind.model_fields)}"
    return f"option `{option}`: {message}, found {found['input']!r}"
