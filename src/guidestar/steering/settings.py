"""The settings of a risk, as they stand in a recipe: plain values that are checked first and built later."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

if TYPE_CHECKING:
    from guidestar.risks import Risk


class Settings(BaseModel):
    """The base of all settings: unknown keys, silent conversions, NaN and infinity are errors; nothing changes later.

    Example:
        >>> KLSettings(kind="kl", tau=0.5).tau
        0.5
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class CosineSettings(Settings):
    """gamma falls from 1 to `gamma_min` along half a cosine over the first `epochs` epochs, then stays.

    Example:
        >>> CosineSettings(schedule="cosine", gamma_min=0.5).epochs
        10
    """

    schedule: Literal["cosine"] = Field(description="The schedule of gamma: an epoch-wise cosine.")
    gamma_min: float = Field(default=0.2, gt=0, le=1, description="The last gamma, in (0, 1].")
    epochs: int = Field(default=10, ge=1, description="The number of epochs until gamma is `gamma_min`.")

    def build(self) -> Any:
        """The schedule object."""
        from guidestar import schedules

        return schedules.Cosine(self.gamma_min, self.epochs)


class ScentSettings(Settings):
    """gamma = alpha u / (1 + alpha u): the adaptive step of SCENT, where u is the tracked value.

    Example:
        >>> ScentSettings(schedule="scent").alpha
        1.0
    """

    schedule: Literal["scent"] = Field(description="The schedule of gamma: SCENT's adaptive step.")
    alpha: float = Field(default=1.0, gt=0, description="SCENT's alpha, positive: larger values forget faster.")

    def build(self) -> Any:
        """The schedule object."""
        from guidestar import schedules

        return schedules.Scent(self.alpha)


def _gamma_form(value: Any) -> str:
    return "settings" if isinstance(value, dict | BaseModel) else "number"


Gamma = Annotated[
    Annotated[float, Field(gt=0, le=1), Tag("number")]
    | Annotated[
        Annotated[CosineSettings | ScentSettings, Field(discriminator="schedule")],
        Tag("settings"),
    ],
    Discriminator(_gamma_form),
]
"""A number in (0, 1], or the settings of a schedule."""

_GAMMA = (
    "The share of the new mini-batch estimate in the running estimate, in (0, 1]; 1 keeps no memory. Or a schedule: "
    "{schedule: cosine, gamma_min: 0.2, epochs: 10} or {schedule: scent, alpha: 1.0}."
)


def built(gamma: float | CosineSettings | ScentSettings) -> Any:
    """The rate or the schedule that the settings of gamma stand for.

    Example:
        >>> built(0.9)
        0.9
    """
    return gamma.build() if isinstance(gamma, CosineSettings | ScentSettings) else gamma


class MeanSettings(Settings):
    """The plain mean: every sample counts the same.

    Example:
        >>> MeanSettings(kind="mean").kind
        'mean'
    """

    kind: Literal["mean"] = Field(default="mean", description="The risk: the plain mean.")

    def build(self) -> Risk:
        """The risk as a module."""
        from guidestar import risks

        return risks.Mean()


class KLSettings(Settings):
    """tau log mean exp(loss / tau): the KL-regularised worst case over the data set.

    Example:
        >>> KLSettings(kind="kl").gamma
        0.9
    """

    kind: Literal["kl"] = Field(default="kl", description="The risk: KL-regularised DRO.")
    tau: float = Field(default=1.0, gt=0, description="The temperature, positive; a large one gives the plain mean.")
    gamma: Gamma = Field(default=0.9, description=_GAMMA)

    def build(self) -> Risk:
        """The risk as a module with one row: the whole data set."""
        from guidestar import risks

        return risks.KL(self.tau, num_rows=1, gamma=built(self.gamma))


class KLStagesSettings(Settings):
    """The KL-regularised worst case with a large temperature in the first epochs, and a smaller one from then on.

    Example:
        >>> KLStagesSettings(kind="kl_stages", first_tau=100.0, first_epochs=10).tau
        1.0
    """

    kind: Literal["kl_stages"] = Field(description="The risk: KL-regularised DRO in two stages.")
    first_tau: float = Field(gt=0, description="The temperature of the first stage, positive.")
    first_epochs: int = Field(ge=1, description="The number of epochs of the first stage.")
    tau: float = Field(default=1.0, gt=0, description="The temperature of the second stage, positive.")
    gamma: Gamma = Field(default=0.9, description=_GAMMA)

    def build(self) -> Risk:
        """The risk as a module with one row in each stage: the whole data set."""
        from guidestar import risks

        first, then = (risks.KL(tau, num_rows=1, gamma=built(self.gamma)) for tau in (self.first_tau, self.tau))
        return risks.Stages(first, then, epochs=self.first_epochs)


class KLBallSettings(Settings):
    """The worst case over all weightings of the data within a KL ball of radius `rho`; the temperature is learnt.

    Example:
        >>> KLBallSettings(kind="kl_ball", rho=0.5).tau
        1.0
    """

    kind: Literal["kl_ball"] = Field(description="The risk: DRO in a KL ball.")
    rho: float = Field(ge=0, description="The radius of the KL ball; 0 gives the plain mean.")
    tau: float = Field(default=1.0, gt=0, description="The temperature at the start, at least `tau_min`.")
    tau_min: float = Field(default=1e-2, gt=0, description="The smallest temperature.")
    gamma: Gamma = Field(default=0.9, description=_GAMMA)
    lr: float = Field(default=0.01, gt=0, description="The temperature's step size, positive.")

    @model_validator(mode="after")
    def _tau_above_its_floor(self) -> KLBallSettings:
        if self.tau < self.tau_min:
            raise ValueError(f"must have `tau` at least `tau_min`, found {self.tau} and {self.tau_min}")
        return self

    def build(self) -> Risk:
        """The risk as a module with one row and one temperature."""
        from guidestar import risks

        return risks.KLBall(self.rho, tau=self.tau, tau_min=self.tau_min, gamma=built(self.gamma), lr=self.lr)


class CVaRSettings(Settings):
    """The mean of the worst share `alpha` of the data set; the quantile is learnt along the way.

    Example:
        >>> CVaRSettings(kind="cvar", alpha=0.1).smoothing
        0.0
    """

    kind: Literal["cvar"] = Field(description="The risk: CVaR with a learnt quantile.")
    alpha: float = Field(gt=0, le=1, description="The worst share that counts, in (0, 1].")
    lr: float = Field(default=0.1, gt=0, description="The quantile's step size, positive.")
    smoothing: float = Field(default=0.0, ge=0, description="The width of the smoothed hinge; 0 is the exact hinge.")

    def build(self) -> Risk:
        """The risk as a module with one row: the whole data set."""
        from guidestar import risks

        return risks.CVaR(self.alpha, num_rows=1, lr=self.lr, smoothing=self.smoothing)


class TopKSettings(Settings):
    """The mean of the worst share `alpha` of the mini-batch, exactly.

    Example:
        >>> TopKSettings(kind="top_k", alpha=0.25).alpha
        0.25
    """

    kind: Literal["top_k"] = Field(description="The risk: the mean of the worst share of the mini-batch.")
    alpha: float = Field(gt=0, le=1, description="The worst share that counts, in (0, 1].")

    def build(self) -> Risk:
        """The risk as a module."""
        from guidestar import risks

        return risks.TopK(self.alpha)


class ChiSquareSettings(Settings):
    """The worst case over the weightings that are near the uniform one in chi-square divergence.

    Example:
        >>> ChiSquareSettings(kind="chi_square", rho=1.0).ball
        True
    """

    kind: Literal["chi_square"] = Field(description="The risk: chi-square DRO.")
    rho: float = Field(ge=0, description="The radius of the ball, or the weight of the penalty, which is positive.")
    ball: bool = Field(default=True, description="true: a ball of radius `rho`; false: a penalty.")
    lr: float | None = Field(
        default=None,
        gt=0,
        description="The step size of the threshold, which is then tracked over the data set; null: exact in the mini-batch.",
    )
    gamma: Gamma = Field(default=1.0, description=f"{_GAMMA} Of the ball's second moment, with `lr`.")

    @model_validator(mode="after")
    def _fits_together(self) -> ChiSquareSettings:
        if self.rho == 0 and not self.ball:
            raise ValueError("must have a positive `rho` beside `ball: false`, found 0")
        if self.lr is None and self.gamma != 1.0:
            raise ValueError("must have `lr` beside `gamma`, which belongs to the tracked form; found no `lr`")
        return self

    def build(self) -> Risk:
        """The risk as a module."""
        from guidestar import risks

        return risks.ChiSquare(self.rho, ball=self.ball, gamma=built(self.gamma), lr=self.lr)


class SuperquantileSettings(Settings):
    """Equal weights for the worst share `alpha` of the losses.

    Example:
        >>> SuperquantileSettings(shape="superquantile", alpha=0.5).alpha
        0.5
    """

    shape: Literal["superquantile"] = Field(description="The spectrum: that of CVaR.")
    alpha: float = Field(gt=0, le=1, description="The worst share that counts, in (0, 1].")

    def build(self) -> Any:
        """The spectrum."""
        from guidestar.risks import spectra

        return spectra.superquantile(self.alpha)


class ExtremileSettings(Settings):
    """The mean of the largest of `r` losses that are drawn at random.

    Example:
        >>> ExtremileSettings(shape="extremile").r
        2.0
    """

    shape: Literal["extremile"] = Field(description="The spectrum: the extremile's.")
    r: float = Field(default=2.0, ge=1, description="How many losses the largest is of, at least 1; 1 is the mean.")

    def build(self) -> Any:
        """The spectrum."""
        from guidestar.risks import spectra

        return spectra.extremile(self.r)


class ESRMSettings(Settings):
    """Weights that fall exponentially with the rank.

    Example:
        >>> ESRMSettings(shape="esrm").rho
        1.0
    """

    shape: Literal["esrm"] = Field(description="The spectrum: the exponential spectral risk measure's.")
    rho: float = Field(default=1.0, gt=0, description="The risk aversion, positive; towards 0 it is the mean.")

    def build(self) -> Any:
        """The spectrum."""
        from guidestar.risks import spectra

        return spectra.esrm(self.rho)


class SpectralSettings(Settings):
    """Losses weighted by their ranks in the mini-batch, exactly.

    Example:
        >>> SpectralSettings(kind="spectral", spectrum={"shape": "extremile", "r": 3.0}).penalty
        'chi_square'
    """

    kind: Literal["spectral"] = Field(description="The risk: a spectral risk.")
    spectrum: SuperquantileSettings | ExtremileSettings | ESRMSettings = Field(
        discriminator="shape",
        description="How the weight falls with the rank: {shape: superquantile, alpha: 0.5}, {shape: extremile, r: 2.0} or "
        "{shape: esrm, rho: 1.0}.",
    )
    nu: float = Field(default=0.0, ge=0, description="The price of weights that are far from uniform; 0 for none.")
    penalty: Literal["chi_square", "kl"] = Field(default="chi_square", description="How far: in which divergence.")

    def build(self) -> Risk:
        """The risk as a module."""
        from guidestar import risks

        return risks.Spectral(self.spectrum.build(), nu=self.nu, penalty=self.penalty)


RiskSettings = Annotated[
    MeanSettings
    | KLSettings
    | KLBallSettings
    | CVaRSettings
    | TopKSettings
    | ChiSquareSettings
    | SpectralSettings
    | KLStagesSettings,
    Field(discriminator="kind"),
]
"""The settings of one risk, told apart by `kind`."""
