"""The objectives of a recipe for image-text pairs: plain values that are checked first and built later."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from guidestar.steering.settings import Gamma, Settings, built

if TYPE_CHECKING:
    from guidestar.risks import Risk

_GAMMA = (
    "The share of the mini-batch estimate in each sample's running estimate, in (0, 1]; 1 keeps no memory. Or a "
    "schedule: {schedule: cosine, gamma_min: 0.2, epochs: 10}."
)


class ConstantTemperature(Settings):
    """The same temperature for all samples at all times.

    Example:
        >>> ConstantTemperature().tau
        0.05
    """

    kind: Literal["constant"] = Field(default="constant", description="The temperature: a constant.")
    tau: float = Field(default=0.05, gt=0, description="The temperature, positive.")
    gamma: Gamma = Field(default=1.0, description=_GAMMA)

    def build(self, num_rows: int) -> Risk:
        """The risk of one direction."""
        from guidestar import risks

        return risks.KL(self.tau, num_rows, built(self.gamma))


class LearntTemperature(Settings):
    """Temperatures that are learnt as duals of a KL ball.

    Example:
        >>> LearntTemperature(kind="learnt", rho=2.0).shared
        'both'
    """

    kind: Literal["learnt"] = Field(description="The temperature: learnt, as the dual of a KL ball.")
    rho: float = Field(ge=0, description="The radius of the KL ball.")
    shared: Literal["both", "direction", "none"] = Field(
        default="both",
        description="both: one temperature; direction: one each for images and texts; none: one a sample.",
    )
    tau: float = Field(default=0.05, gt=0, description="The temperature at the start, at least `tau_min`.")
    tau_min: float = Field(default=0.01, gt=0, description="The smallest temperature.")
    lr: float = Field(default=1e-4, gt=0, description="The step size of the temperature.")
    gamma: Gamma = Field(default=1.0, description=_GAMMA)

    @model_validator(mode="after")
    def _tau_above_its_floor(self) -> LearntTemperature:
        if self.tau < self.tau_min:
            raise ValueError(f"must have `tau` at least `tau_min`, found {self.tau} and {self.tau_min}")
        return self

    def build(self, num_rows: int) -> Risk:
        """The risk of one direction."""
        from guidestar import risks

        return risks.KLBall(
            self.rho,
            tau=self.tau,
            tau_min=self.tau_min,
            per_row=self.shared == "none",
            num_rows=num_rows,
            gamma=built(self.gamma),
            lr=self.lr,
        )


class PredictedTemperature(Settings):
    """Temperatures that a small network predicts from the features (TempNet).

    Example:
        >>> PredictedTemperature(kind="predicted", rho=2.0).hidden
        256
    """

    kind: Literal["predicted"] = Field(description="The temperature: predicted from the features by a small network.")
    rho: float = Field(ge=0, description="The radius of the KL ball.")
    tau: float = Field(default=0.05, gt=0, description="The temperature at the start, between the two bounds.")
    tau_min: float = Field(default=0.005, gt=0, description="The smallest temperature.")
    tau_max: float = Field(default=0.2, gt=0, description="The largest temperature.")
    hidden: int = Field(default=256, ge=1, description="The width of the network's hidden layer.")
    gamma: Gamma = Field(default=1.0, description=_GAMMA)

    @model_validator(mode="after")
    def _in_order(self) -> PredictedTemperature:
        if not self.tau_min < self.tau < self.tau_max:
            raise ValueError(
                f"must have `tau_min` < `tau` < `tau_max`, found {self.tau_min}, {self.tau} and {self.tau_max}"
            )
        return self


Temperature = Annotated[ConstantTemperature | LearntTemperature | PredictedTemperature, Field(discriminator="kind")]


class ContrastSettings(Settings):
    """The global contrastive risk of the strategies dro, steer, steer_init and steer+distill.

    Example:
        >>> ContrastSettings().temperature.kind
        'constant'
    """

    temperature: Temperature = Field(
        default=ConstantTemperature(),
        description="The temperature, by its kind: constant, learnt or predicted, with that kind's keys.",
    )
    eps: float | None = Field(
        default=None,
        ge=0,
        description="What is added to the mean within the logarithm; null: 1/batch, the mean over all.",
    )


class FastCLIPSettings(Settings):
    """The strategy fastclip.

    Example:
        >>> FastCLIPSettings().version
        3
    """

    version: Literal[0, 1, 2, 3] = Field(default=3, description="FastCLIP's version: v0, v1, v2 or v3.")
    tau: float = Field(default=0.07, gt=0, description="The temperature at the start.")
    rho: float = Field(default=6.5, ge=0, description="The radius (v2, v3).")
    gamma_min: float = Field(default=0.2, gt=0, le=1, description="The last gamma of the cosine, in (0, 1].")
    lr: float = Field(default=1e-4, gt=0, description="The step size of the temperature.")
    eps: float = Field(default=1e-14, ge=0, description="What is added to the mean within the logarithm.")


class PairDistillSettings(Settings):
    """The distillation of the strategies distill and steer+distill.

    Example:
        >>> PairDistillSettings().weight
        0.5
    """

    weight: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="The weight of the teacher's soft labels beside the contrastive loss, in [0, 1].",
    )
    teacher_tau: float = Field(default=0.05, gt=0, description="The teacher's own temperature.")
    features: float = Field(
        default=0.0, ge=0, description="The weight of the squared distance to the teacher's features; 0: without."
    )


class PairObjectiveSettings(Settings):
    """Everything that the strategies of pairs minimise.

    Example:
        >>> PairObjectiveSettings().tiled
        False
    """

    contrast: ContrastSettings = Field(
        default=ContrastSettings(), description="The risk of dro, steer, steer_init and steer+distill."
    )
    fastclip: FastCLIPSettings = Field(default=FastCLIPSettings(), description="Settings of fastclip.")
    distill: PairDistillSettings = Field(
        default=PairDistillSettings(), description="Settings of distill and steer+distill."
    )
    tiled: bool = Field(default=False, description="Never form the matrix of similarities; for large batches.")
    several_positives: bool = Field(
        default=False,
        description="Pairs of one group (see `data.groups`) are further positives; false: they are only no negatives.",
    )
