"""The robust global contrastive loss of two towers, steered by a reference model's features when they are given."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from guidestar.losses.base import Loss
from guidestar.pairwise.anchors import (
    Entropic,
    anchor_inner,
    anchor_mean,
    anchor_risk,
    check_tau,
    count_idle,
    temperature,
)
from guidestar.pairwise.statistics import Side
from guidestar.pairwise.towers import Towers, check_index, towers
from guidestar.risks.base import Risk, check_risk
from guidestar.risks.kl import KL
from guidestar.risks.kl_ball import KLBall
from guidestar.state import Counter, PerSampleState


class DRRhoCLIPLoss(Loss):
    r"""A risk over all texts for each image, and over all images for each text, of losses relative to a reference.

    $F = \frac1B \sum_i \mathrm{risk}_j\big(\ell_1(i, j)\big) + \frac1B \sum_i \mathrm{risk}_j\big(\ell_2(i, j)\big)$
    with $\ell_1(i, j) = (s_{ij} - s_{ii}) - (r_{ij} - r_{ii})$, $\ell_2(i, j) = (s_{ji} - s_{ii}) - (r_{ji} - r_{ii})$,
    $s_{ij} = \langle e^1_i, e^2_j \rangle$ = `image` times `text`, and r the same of the reference's features.

    With `KL` and `KLBall`, $\mathrm{risk}_j = \tau \log(\varepsilon + u_i)\,(+\,\tau\rho)$, where $u_i$ averages
    $\frac{1}{B} \sum_j e^{\ell(i,j)/\tau}$ over the steps (rate gamma of the risk). Without a reference r = 0: the
    robust global contrastive loss of SogCLR and FastCLIP. Both directions are added, as in the book (not halved).

    Equations:
        6.44 to 6.50, 6.121; Alg. 35 for two towers. DRRho-CLIP, RGCL, RGCL-g.

    Args:
        image_risk: the risk over the texts of each image: `KL(tau)` for a constant temperature, `KLBall(rho)` for
            one that is learnt, `KLBall(rho, per_row=True, num_rows=n)` for one a sample; with gamma < 1 and
            `num_rows=n` it keeps one average a sample. Any other risk is taken over the matrix of the losses.
        text_risk: the same over the images of each text; None: a copy of `image_risk`, with memory of its own.
        tiled: never form the B x B matrix; memory of the order of B d. For `KL` and `KLBall`.
        eps: None: the mean is over all j, the own pair (whose loss is 0) included. A number: the own pair is left out
            of the sum, which is still divided by B, and $\varepsilon$ is added; `eps=1/B` is None.
        negatives_only: the mean is over the negatives alone ($|\mathcal T_i^-|$ of them instead of B), plus `eps`.
        joint_temperature: both directions share one learnt temperature, which moves by the mean of both slopes.
        several_positives: pairs of the same group are further positives: the positive similarity is their mean.
            Otherwise they are left out of the sums, as false negatives.
        shifted: whether u averages $e^{(s_{ij} - s_{ii})/\tau}$ (Alg. 35) or $e^{s_{ij}/\tau}$ (Alg. 34); equal at
            gamma = 1 and eps = 0.

    Shapes:
        `image`, `text` `[B, d]` of unit norm, `index` int64 `[B]` row numbers (needed where a risk has many rows),
        `reference_image`, `reference_text` `[B, d']`, `groups` int64 `[B]`, `mask` bool `[B]` (pairs that count),
        `image_tau`, `text_tau` `[B]` or scalars (predicted temperatures, `KLBall` only) -> scalar.

    State:
        that of the two risks: float32 `[n]` a direction with gamma < 1 (4 bytes a sample and direction), nothing at
        gamma = 1; the temperatures of `KLBall`.

    Value and gradient:
        the running estimate of F over all ranks' pairs; gradient by the features (and by predicted temperatures), such
        that DDP's mean over the ranks is the gradient of the global batch. Every rank must run backward. Pairs
        without a negative give 0, keep the state and count in `metrics()["empty"]`.

    Raises:
        ValueError: shapes, one reference feature without the other, an index that is missing; settings that do not go
            together.
        TypeError: a risk that is none, features that are not floating point.

    Source:
        Wei et al., "Model Steering: Learning with a Reference Model Improves Generalization Bounds and Scaling
        Laws", ICML 2025. The gradients of features and temperatures are those of F; the official code's differ
        (docs/decisions.md).

    Example:
        >>> import torch
        >>> from guidestar import KL
        >>> loss = DRRhoCLIPLoss(KL(tau=0.5))
        >>> image, text = torch.eye(3), torch.eye(3)
        >>> loss(image, text)
        tensor(-0.8591)
        >>> loss(image, text, reference_image=torch.eye(3), reference_text=torch.eye(3))
        tensor(0.)
    """

    def __init__(
        self,
        image_risk: Risk,
        text_risk: Risk | None = None,
        *,
        tiled: bool = False,
        eps: float | None = None,
        negatives_only: bool = False,
        joint_temperature: bool = False,
        several_positives: bool = False,
        shifted: bool = True,
    ) -> None:
        super().__init__()
        self.image_risk = check_risk(image_risk)
        self.text_risk = copy.deepcopy(image_risk) if text_risk is None else check_risk(text_risk)
        self.tiled = tiled
        self.eps = eps
        self.negatives_only = negatives_only
        self.joint_temperature = joint_temperature
        self.several_positives = several_positives
        self.shifted = shifted
        self.empty = Counter()
        self._check_settings()
        if joint_temperature and isinstance(self.image_risk, KLBall) and isinstance(self.text_risk, KLBall):
            self.text_risk.dual = self.image_risk.dual

    def _check_settings(self) -> None:
        risks = (self.image_risk, self.text_risk)
        entropic = all(isinstance(risk, KL | KLBall) for risk in risks)
        if self.eps is not None and not 0 <= self.eps < float("inf"):
            raise ValueError(f"`eps` must be None, or at least 0 and finite. Found {self.eps}.")
        for name, given in (("tiled", self.tiled), ("eps", self.eps is not None), ("shifted=False", not self.shifted)):
            if given and not entropic:
                found = next(type(risk).__name__ for risk in risks if not isinstance(risk, KL | KLBall))
                raise ValueError(f"`{name}` needs a KL or KLBall risk, whose sums need no matrix. Found {found}.")
        if risks[0] is risks[1] and any(isinstance(child, PerSampleState) for child in risks[0].modules()):
            raise ValueError(
                "`text_risk` is the object `image_risk` itself, and both directions would write into one memory. Pass "
                "None for a copy; `joint_temperature=True` shares a learnt temperature."
            )
        if self.joint_temperature and not all(isinstance(risk, KLBall) and not risk.per_row for risk in risks):
            raise ValueError("`joint_temperature` needs two KLBall risks with one temperature each (per_row=False).")

    def forward(
        self,
        image: Tensor,
        text: Tensor,
        index: Tensor | None = None,
        *,
        reference_image: Tensor | None = None,
        reference_text: Tensor | None = None,
        groups: Tensor | None = None,
        mask: Tensor | None = None,
        image_tau: Tensor | None = None,
        text_tau: Tensor | None = None,
    ) -> Tensor:
        """The objective of the batch."""
        learning = self.training and torch.is_grad_enabled()
        with torch.autocast(image.device.type, enabled=False):
            batch = towers(
                image,
                text,
                reference_x=reference_image,
                reference_y=reference_text,
                groups=groups,
                mask=mask,
                learning=learning,
            )
            check_index(index, image)
            for name, tau in (("image_tau", image_tau), ("text_tau", text_tau)):
                if tau is not None:
                    check_tau(name, tau)
            if isinstance(self.image_risk, KL | KLBall) and isinstance(self.text_risk, KL | KLBall):
                risks = (self.image_risk, self.text_risk)
                return self._from_statistics(batch, risks, index, (image_tau, text_tau), learning)
            if image_tau is not None or text_tau is not None:
                raise ValueError("`image_tau` and `text_tau` need KLBall risks. Found another risk.")
            return self._from_matrix(batch, index, learning)

    def _from_statistics(
        self,
        batch: Towers,
        risks: tuple[Entropic, Entropic],
        index: Tensor | None,
        predicted: tuple[Tensor | None, Tensor | None],
        learning: bool,
    ) -> Tensor:
        hide = self.eps is not None or self.negatives_only
        taus = [self._temperature(risk, given, index, batch) for risk, given in zip(risks, predicted, strict=True)]
        scales = [1.0 / tau for tau in taus]
        if self._one_scale(risks, predicted):
            taus[1], scales[1] = taus[0], scales[0]
        sides = batch.statistics(scales[0], scales[1], hide_own=hide, tiled=self.tiled)
        positives = batch.positives(several=self.several_positives, own=sides[0].own)
        total, slopes, actives = [], [], []
        for risk, side, positive, tau, scale, given in zip(
            risks, sides, positives, taus, scales, predicted, strict=True
        ):
            active = self._active(batch, side, hide, learning)
            norm = side.count + 1 if hide and not self.negatives_only else side.count
            inner, expected = anchor_inner(side, positive, scale, shifted=self.shifted, norm=norm)
            value, slope = anchor_risk(
                risk, inner, expected, tau, index, active, eps=self.eps or 0.0, predicted=given is not None
            )
            total.append(anchor_mean(value if self.shifted else value - positive, active, spread=batch.spread))
            slopes.append(slope)
            actives.append(active)
        if learning:
            self._move(risks, slopes, actives, index)
        return total[0] + total[1]

    def _from_matrix(self, batch: Towers, index: Tensor | None, learning: bool) -> Tensor:
        positives = batch.positives(several=self.several_positives)
        total = []
        for risk, side, positive in zip(
            (self.image_risk, self.text_risk), (batch, batch.turned()), positives, strict=True
        ):
            matrix = side.features.matrix()
            if not self.several_positives or side.groups is None:
                positive = matrix.diagonal(side.first)  # to the bit, so that the own pair's loss is 0
            losses = matrix - positive.unsqueeze(1)
            hide = self.negatives_only
            counted = side.mask(hide_own=hide).tile(0, losses.shape[0], losses.device)
            count = float(losses.shape[1]) if counted is None else counted.sum(1).to(losses.dtype)
            # The risk itself counts the rows that are masked.
            active = self._active(batch, Side(positive, positive, count), hide, learning and not len(losses))
            if active is not None:
                shown = torch.ones_like(losses, dtype=torch.bool) if counted is None else counted
                counted = shown & active.unsqueeze(1)
            many = any(len(child) > 1 for child in risk.modules() if isinstance(child, PerSampleState))
            total.append(anchor_mean(risk(losses, index if many else None, counted), active, spread=batch.spread))
        return total[0] + total[1]

    def _active(self, batch: Towers, side: Side, hide: bool, learning: bool) -> Tensor | None:
        """Which anchors have a negative, None for all; the others are counted as empty."""
        active = batch.active(side, hide_own=hide)
        if learning:
            count_idle(self.empty, active, len(batch.own.x))
        return active

    def _temperature(self, risk: Entropic, given: Tensor | None, index: Tensor | None, batch: Towers) -> Tensor:
        if given is not None and not isinstance(risk, KLBall):
            raise ValueError("`image_tau` and `text_tau` need KLBall risks. Found KL, whose temperature is constant.")
        if given is not None and given.ndim and given.shape != batch.own.x.shape[:1]:
            raise ValueError(
                f"`image_tau` and `text_tau` must be scalars or have one temperature a pair, "
                f"[{batch.own.x.shape[0]}]. Found {tuple(given.shape)}."
            )
        return temperature(risk, given, index, batch.own.x)

    def _one_scale(self, risks: tuple[Entropic, Entropic], predicted: tuple[Tensor | None, Tensor | None]) -> bool:
        """Whether both directions have one and the same constant or learnt temperature."""
        if predicted[0] is not None or predicted[1] is not None:
            return False
        one, other = risks
        return self.joint_temperature or (isinstance(one, KL) and isinstance(other, KL) and one.tau == other.tau)

    def _move(
        self,
        risks: tuple[Entropic, Entropic],
        slopes: list[Tensor | None],
        actives: list[Tensor | None],
        index: Tensor | None,
    ) -> None:
        one, other = slopes
        if self.joint_temperature and one is not None and other is not None and isinstance(risks[0], KLBall):
            if actives[0] is None and actives[1] is None:
                active = None
            else:
                both = zip(slopes, actives, strict=True)
                active = torch.cat([torch.ones_like(one, dtype=torch.bool) if a is None else a for _, a in both])
            risks[0].dual.move(torch.cat([one, other]), None, active)
            return
        for risk, slope, active in zip(risks, slopes, actives, strict=True):
            if slope is not None and isinstance(risk, KLBall):
                risk.dual.move(slope, risk.dual_index(index), active)
