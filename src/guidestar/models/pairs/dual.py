"""A model of image-text pairs: an image tower and a text tower into one space."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, Protocol, cast

import torch
from torch import nn
from torch.nn import functional

from guidestar.errors import UserError
from guidestar.models.pairs.tokenizer import Tokenizer

SMALLEST_TAU = 0.01
_EPS = 1e-6


class Tower(Protocol):
    """One side: a Module that gives embeddings [B, width] that need not be of unit norm."""

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor: ...

    def checkpoint_gradients(self) -> None:
        """Compute inner activations again in the backward pass instead of keeping them."""
        ...


class DualEncoder(nn.Module):
    """Images and captions as unit vectors: f(x) / |f(x)| and g(y) / |g(y)|, in float32 (float64 for float64 weights).

    The normalisation of the pictures is part of the model. The tokenizer's fingerprint is a buffer, so that weights that
    were trained with another tokenizer are refused.

    Args:
        image: normalised pictures [B, 3, size, size] to [B, width]; see `Tower`.
        text: tokens [B, T] to [B, width].
        tokenizer: captions to tokens.
        size: side of the pictures in pixels.
        width: width of the embeddings.
        mean: mean of each channel.
        std: standard deviation of each channel.

    Raises:
        UserError: `mean` or `std` are not three finite numbers, or `std` is not positive.

    Example:
        >>> from guidestar.models.pairs import PairModelSettings, build_dual_encoder, train_tokenizer
        >>> tokenizer = train_tokenizer(["a red shoe", "a blue shirt"], vocabulary=300, length=8)
        >>> model = build_dual_encoder(PairModelSettings(options={"width": 16}), tokenizer=tokenizer)
        >>> image, text = model(torch.rand(2, 3, 40, 40), torch.tensor(tokenizer(["red", "blue"])))
        >>> image.shape, torch.allclose(text.norm(dim=1), torch.ones(2))
        (torch.Size([2, 16]), True)
    """

    mean: torch.Tensor
    std: torch.Tensor
    tokenizer_hash: torch.Tensor

    def __init__(
        self,
        image: nn.Module,
        text: nn.Module,
        *,
        tokenizer: Tokenizer,
        size: int,
        width: int,
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.25, 0.25, 0.25),
    ) -> None:
        super().__init__()
        self.image_tower = image
        self.text_tower = text
        self.tokenizer = tokenizer
        self.size = size
        self.width = width
        self.register_buffer("mean", _statistic("mean", mean))
        self.register_buffer("std", _statistic("std", std))
        if not bool((self.std > 0).all()):
            raise UserError(f"`std` must be positive, found {list(std)}.")
        self.register_buffer("tokenizer_hash", _digest(tokenizer))
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        # Only a sigmoid loss has a bias; a parameter that waits for a gradient in vain would stop a distributed run.
        self.bias = nn.Parameter(torch.tensor(0.0), requires_grad=False)
        self.frozen: set[str] = set()

    def tau(self) -> torch.Tensor:
        """The temperature, a differentiable scalar: max(exp(-log_scale), 0.01).

        At the bound the gradient is that of exp(-log_scale), so that tau can leave it again.
        """
        return 1 / self.scale()

    def scale(self) -> torch.Tensor:
        """1 / tau, a differentiable scalar: min(exp(log_scale), 100)."""
        excess = (self.log_scale.detach() - math.log(1 / SMALLEST_TAU)).clamp(min=0)
        return (self.log_scale - excess).exp()

    @torch.no_grad()
    def clamp_scale(self) -> None:
        """Bring `log_scale` back to where tau is at least 0.01; call it after each step of the optimizer."""
        self.log_scale.clamp_(max=math.log(1 / SMALLEST_TAU))

    @torch.no_grad()
    def fix_tau(self, tau: float) -> None:
        """Set the temperature and learn it no longer.

        Args:
            tau: at least 0.01.

        Raises:
            UserError: it is smaller or not finite.
        """
        if not (math.isfinite(tau) and tau >= SMALLEST_TAU):
            raise UserError(f"`tau` must be finite and at least {SMALLEST_TAU}, found {tau}.")
        self.log_scale.fill_(math.log(1 / tau)).requires_grad_(False)

    @torch.no_grad()
    def init_siglip(self) -> None:
        """Learn scale and bias; they start as SigLIP's, at 10 and -10, unless the model came with a bias."""
        if self.bias == 0:
            self.log_scale.fill_(math.log(10))
            self.bias.fill_(-10)
        self.log_scale.requires_grad_(True)
        self.bias.requires_grad_(True)

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        """Unit vectors of pictures.

        Args:
            images: float [B, 3, S, S] in [0, 1]; another side than `size` is resized (bilinear, antialiased).

        Returns:
            [B, width].

        Raises:
            UserError: it has another shape or type.
        """
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise UserError(
                f"`images` must be floating-point numbers [B, 3, S, S] in [0, 1], found {images.dtype} "
                f"{list(images.shape)}. Divide bytes by 255."
            )
        side = (self.size, self.size)
        if images.shape[2:] != side:
            images = functional.interpolate(images, side, mode="bilinear", antialias=True, align_corners=False)
        normalised = (images.to(self.mean.dtype) - self.mean.view(1, 3, 1, 1)) / self.std.view(1, 3, 1, 1)
        return _unit(self.image_tower(normalised))

    def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
        """Unit vectors of captions.

        Args:
            tokens: whole numbers [B, T] with T at most `tokenizer.length`, filled up with `tokenizer.pad`.

        Returns:
            [B, width].

        Raises:
            UserError: it has another shape or type, or is too long.
        """
        if tokens.ndim != 2 or tokens.is_floating_point() or not 1 <= tokens.shape[1] <= self.tokenizer.length:
            raise UserError(
                f"`tokens` must be whole numbers [B, T] with T from 1 to {self.tokenizer.length} (`tokenizer.length`), "
                f"found {tokens.dtype} {list(tokens.shape)}."
            )
        return _unit(self.text_tower(tokens))

    def forward(self, images: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.encode_image(images), self.encode_text(tokens)

    def checkpoint_gradients(self) -> None:
        """Trade time for memory: both towers compute inner activations again in the backward pass."""
        for tower in (self.image_tower, self.text_tower):
            cast(Tower, tower).checkpoint_gradients()

    def freeze(self, tower: Literal["image", "text"]) -> None:
        """Train a tower no longer: its parameters take no gradient and it stays in evaluation mode.

        Args:
            tower: "image" or "text".

        Raises:
            UserError: it is neither.
        """
        if tower not in ("image", "text"):
            raise UserError(f"`freeze` must be image or text, found {tower!r}.")
        self.frozen.add(tower)
        self.get_submodule(f"{tower}_tower").requires_grad_(False).eval()

    def train(self, mode: bool = True) -> DualEncoder:
        """Training or evaluation mode, without the frozen towers, which stay in evaluation mode."""
        super().train(mode)
        for tower in self.frozen:
            self.get_submodule(f"{tower}_tower").eval()
        return self

    def _load_from_state_dict(self, state_dict: Mapping[str, torch.Tensor], prefix: str, *rest: object) -> None:
        found = state_dict.get(f"{prefix}tokenizer_hash")
        if found is not None and not torch.equal(found.cpu(), self.tokenizer_hash.cpu()):
            raise UserError(
                "`weights` were trained with another tokenizer: its fingerprint begins with "
                f"{_hex(found)}, the model's with {_hex(self.tokenizer_hash)}. Use the tokenizer that was saved with them."
            )
        super()._load_from_state_dict(state_dict, prefix, *rest)  # pyright: ignore[reportArgumentType]


@torch.no_grad()
def initialise_from(model: DualEncoder, state: Mapping[str, torch.Tensor]) -> list[str]:
    """Copy from another model's state what has the same name and shape.

    The text tower is left alone where the other model's tokenizer is another one: its tokens mean something else. So are
    a temperature and a bias that are not learnt.

    Args:
        model: changed in place.
        state: `other.state_dict()`.

    Returns:
        The names that were taken.

    Raises:
        UserError: nothing fits.

    Example:
        >>> from guidestar.models.pairs import PairModelSettings, build_dual_encoder, train_tokenizer
        >>> tokenizer = train_tokenizer(["a shoe"], vocabulary=300, length=8)
        >>> small, large = (
        ...     build_dual_encoder(PairModelSettings(options={"text_hidden": hidden}), tokenizer=tokenizer)
        ...     for hidden in (16, 32)
        ... )
        >>> taken = initialise_from(large, small.state_dict())
        >>> "image_tower.projection.weight" in taken, "text_tower.projection.weight" in taken
        (True, False)
    """
    own = model.state_dict()
    theirs = state.get("tokenizer_hash")
    other_words = theirs is None or not torch.equal(theirs.cpu(), model.tokenizer_hash.cpu())
    fixed = {name for name in ("log_scale", "bias") if not model.get_parameter(name).requires_grad}
    taken = [
        name
        for name, tensor in own.items()
        if name in state
        and state[name].shape == tensor.shape
        and name not in {"tokenizer_hash", *fixed}
        and not (other_words and name.startswith("text_tower."))
    ]
    if not any("_tower." in name for name in taken):
        raise UserError(
            "`initialise_from` found nothing of the same name and shape in the other model. Give both models the same "
            "towers, or start from random weights."
        )
    for name in taken:
        own[name].copy_(state[name])
    return taken


def _unit(features: torch.Tensor) -> torch.Tensor:
    # Half precision would lose the unit norm; the small floor keeps a zero vector zero and its gradient finite.
    features = features.to(torch.promote_types(features.dtype, torch.float32))
    return functional.normalize(features, dim=-1, eps=_EPS)


def _statistic(name: str, values: Sequence[float]) -> torch.Tensor:
    statistic = torch.tensor(list(values), dtype=torch.float32)
    if statistic.numel() != 3 or not bool(torch.isfinite(statistic).all()):
        raise UserError(f"`{name}` must be three finite numbers, one a channel, found {list(values)}.")
    return statistic


def _digest(tokenizer: Tokenizer) -> torch.Tensor:
    return torch.frombuffer(bytearray.fromhex(tokenizer.fingerprint()), dtype=torch.uint8)


def _hex(digest: torch.Tensor) -> str:
    return bytes(digest.cpu().tolist()).hex()[:12]
