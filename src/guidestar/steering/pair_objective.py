"""What each strategy minimises on image-text pairs."""

from __future__ import annotations

from torch import Tensor

from guidestar.losses.base import Loss
from guidestar.losses.clip import CLIPLoss
from guidestar.losses.clip_distillation import CLIPDistillationLoss
from guidestar.losses.drrho_clip import DRRhoCLIPLoss
from guidestar.losses.fast_clip import FastCLIPLoss
from guidestar.losses.feature_distillation import FeatureDistillationLoss
from guidestar.losses.siglip import SigLIPLoss
from guidestar.losses.tempnet import TempNetLoss
from guidestar.networks.temp_net import TempNet
from guidestar.steering.pair_settings import LearntTemperature, PairObjectiveSettings, PredictedTemperature
from guidestar.steering.settings import built

#: Strategies that minimise the loss relative to the reference's.
STEERED = ("steer", "steer_init", "steer+distill")
_GLOBAL = ("dro", *STEERED)


class PairObjective(Loss):
    r"""A contrastive loss and, if asked for, distillation.

    $(1 - \lambda)\, F / \tau_0 + \lambda\, \mathrm{KD} + \mu\, \mathrm{FD}$, with F the contrastive loss and $\tau_0$ its
    temperature at the start where F is in units of similarities (1 where it is a cross-entropy): all terms are then in
    the same units.

    Equations:
        6.39, 6.40, 6.48 to 6.50, 6.121; section 6.9 for the strategies.

    Args:
        task: the contrastive loss.
        steered: whether it is given the reference's features.
        unit: $\tau_0$.
        distillation: soft-label distillation, or None.
        features: feature distillation, or None.
        weight, feature_weight: $\lambda$ in [0, 1], and $\mu$.

    Shapes:
        `image`, `text` `[B, d]`, `rows` int64 `[B]`, `reference_image`, `reference_text` `[B, d']`, `groups` int64 `[B]`
        -> scalar; `scale` (1/tau of the model) and `bias` are differentiable scalars for losses that learn them with the
        model.

    State:
        that of the losses.

    Raises:
        ValueError: the reference's features are missing where they are needed.

    Example:
        >>> import torch
        >>> objective = PairObjective(CLIPLoss())
        >>> objective(torch.eye(2), torch.eye(2), torch.tensor([0, 1]), scale=torch.tensor(1.0))
        tensor(0.6265)
    """

    def __init__(
        self,
        task: Loss,
        *,
        steered: bool = False,
        unit: float = 1.0,
        distillation: CLIPDistillationLoss | None = None,
        features: FeatureDistillationLoss | None = None,
        weight: float = 0.0,
        feature_weight: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0.0 <= weight <= 1.0:
            raise ValueError(f"`weight` must be in [0, 1]. Found {weight}.")
        self.task = task
        self.steered = steered
        self.unit = unit
        self.distillation = distillation
        self.features = features
        self.weight = weight if distillation is not None else 0.0
        self.feature_weight = feature_weight

    @property
    def needs_reference(self) -> bool:
        """Whether the reference's features are needed."""
        return self.steered or self.distillation is not None or self.features is not None

    def forward(
        self,
        image: Tensor,
        text: Tensor,
        rows: Tensor,
        *,
        scale: Tensor | None = None,
        bias: Tensor | None = None,
        reference_image: Tensor | None = None,
        reference_text: Tensor | None = None,
        groups: Tensor | None = None,
    ) -> Tensor:
        """The objective of the batch."""
        if self.needs_reference and (reference_image is None or reference_text is None):
            raise ValueError("`reference_image` and `reference_text` must be given to this objective. Found None.")
        tau = None if scale is None else 1.0 / scale
        both = {"reference_image": reference_image, "reference_text": reference_text}
        if isinstance(self.task, SigLIPLoss):
            task = self.task(image, text, rows, groups=groups, tau=tau, bias=bias)
        elif isinstance(self.task, CLIPLoss):
            task = self.task(image, text, rows, groups=groups, tau=tau)
        elif self.steered:
            task = self.task(image, text, rows, groups=groups, **both)
        else:
            task = self.task(image, text, rows, groups=groups)
        total = task / self.unit
        if self.distillation is not None:
            # With a temperature of its own the contrastive loss teaches the model's scale nothing: the model's is used.
            soft = self.distillation(image, text, rows, tau=tau, **both)
            total = (1.0 - self.weight) * total + self.weight * soft
        if self.features is not None:
            total = total + self.feature_weight * self.features(image, text, rows, **both)
        return total


def build_pair_objective(
    strategy: str,
    settings: PairObjectiveSettings,
    *,
    num_rows: int,
    epochs: int,
    width: int,
    reference_width: int | None = None,
) -> PairObjective:
    """The objective of a strategy, new.

    Args:
        strategy: a strategy of a recipe for pairs.
        settings: the recipe's objective section.
        num_rows: training pairs.
        epochs: of the training, for schedules.
        width, reference_width: of the model's and the reference's features.

    Example:
        >>> build_pair_objective("steer", PairObjectiveSettings(), num_rows=10, epochs=2, width=8).steered
        True
    """
    tiled, several = settings.tiled, settings.several_positives
    unit = 1.0
    if strategy in _GLOBAL:
        task = _contrast(settings, num_rows, width)
        unit = settings.contrast.temperature.tau
    elif strategy == "fastclip":
        fast = settings.fastclip
        task = FastCLIPLoss(
            num_rows,
            epochs,
            version=fast.version,
            tau=fast.tau,
            rho=fast.rho,
            gamma_min=fast.gamma_min,
            lr=fast.lr,
            eps=fast.eps,
            tiled=tiled,
            several_positives=several,
        )
        unit = 1.0 if fast.version == 0 else fast.tau
    elif strategy == "siglip":
        task = SigLIPLoss(tiled=tiled, several_positives=several)
    else:
        task = CLIPLoss(tiled=tiled, several_positives=several)
    distills = "distill" in strategy
    distill = settings.distill
    soft = distills and distill.weight > 0
    return PairObjective(
        task,
        steered=strategy in STEERED,
        unit=unit,
        distillation=CLIPDistillationLoss(distill.teacher_tau, tiled=tiled) if soft else None,
        features=FeatureDistillationLoss(width, reference_width or width)
        if distills and distill.features > 0
        else None,
        weight=distill.weight,
        feature_weight=distill.features,
    )


def _contrast(settings: PairObjectiveSettings, num_rows: int, width: int) -> Loss:
    temperature, eps = settings.contrast.temperature, settings.contrast.eps
    if isinstance(temperature, PredictedTemperature):
        bounds = {"tau_min": temperature.tau_min, "tau_max": temperature.tau_max, "tau": temperature.tau}
        nets = [TempNet(width, hidden=temperature.hidden, **bounds) for _ in range(2)]
        return TempNetLoss(
            nets[0],
            nets[1],
            temperature.rho,
            num_rows=num_rows,
            gamma=built(temperature.gamma),
            eps=eps,
            tiled=settings.tiled,
            several_positives=settings.several_positives,
        )
    joint = isinstance(temperature, LearntTemperature) and temperature.shared == "both"
    return DRRhoCLIPLoss(
        temperature.build(num_rows),
        tiled=settings.tiled,
        eps=eps,
        joint_temperature=joint,
        several_positives=settings.several_positives,
    )
