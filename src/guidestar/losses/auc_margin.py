"""AUC by the minimax margin loss: a mean over samples instead of a mean over pairs, with three inner variables."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from guidestar import surrogates
from guidestar.duals import Dual
from guidestar.losses.base import Loss
from guidestar.ranking.batch import BinaryBatch, binary_batch
from guidestar.risks.base import check_positive
from guidestar.state import Counter


class AUCMarginLoss(Loss):
    r"""The area under the ROC curve as a minimax problem whose objective is a mean over samples (PDMA, PDAdam).

    $F(w, a, b; \alpha) = \mathrm{E}_+ (s_i - a)^2 + \mathrm{E}_- (s_j - b)^2
    + \alpha\,(m + \mathrm{E}_- s_j - \mathrm{E}_+ s_i) - \alpha^2 / 4$, to be minimised over w, a, b and maximised over
    $\alpha$

    - $m$ = `margin`. $\mathrm{E}_+$, $\mathrm{E}_-$: the means over the batch's positives and negatives, of all ranks.
    - $\alpha \ge 0$ with `surrogate=squared_hinge`: $\max_\alpha F$ has $f(t) = [m + t]_+^2$ of the difference of the
      means in its place (AUC margin loss: what is ranked well enough pulls no more). $\alpha$ is free with
      `surrogate=squared`, $f(t) = (m + t)^2$: minimised over a and b this is the mean of $(m + s_j - s_i)^2$ over all
      pairs. $\alpha$ then tends to $2 (m + \mathrm{E}_- s - \mathrm{E}_+ s)$.
    - a and b are parameters: give both to the optimizer, `[*model.parameters(), *loss.parameters()]`. With SGD and
      momentum that is PDMA, with Adam PDAdam. The optimizer never sees $\alpha$: it ascends in the loss.

    Equations:
        6.20, 6.21; Alg. 27 (PDMA, PDAdam), steps 4 and 5.

    Args:
        margin: m, positive.
        lr: $\tau_t$, the step size of $\alpha$.
        surrogate: `surrogates.squared_hinge` or `surrogates.squared`.
        num_labels: L, for `scores` `[B, L]`; each label has its own a, b and $\alpha$.

    Shapes:
        `scores` `[B]` or `[B, L]`, logits; `labels` 0/1 of the same shape, NaN where one is missing; `mask` bool `[B]` or
        `[B, L]` -> scalar, the mean over the labels that have both classes. `index` is accepted for a common signature:
        nothing is remembered of a sample.

    State:
        `alpha.memory.values` float32 `[L]`, from 0, and the parameters `a`, `b` `[L]`, from 0; `reset()` sets all to 0.
        The same on all ranks: scores and labels are gathered. Never wrap the loss in DDP: every rank has the whole
        gradient by a and b.

    Value and gradient:
        F at $(w_t, a_t, b_t; \alpha_t)$ and its gradient $z_t$, at $\alpha_t$ as step 5 says; $\alpha_{t+1}$ of step 4 is
        what the next call uses. A label without a positive or without a negative moves nothing, and is counted in
        `empty`.

    Raises:
        ValueError: shapes, labels other than 0 and 1, a number of labels other than `num_labels`, a setting out of range.
        TypeError: scores that are not floating point, a `surrogate` that is none of the two.

    Source:
        Yuan et al., "Large-scale Robust Deep AUC Maximization: A New Surrogate Loss and Empirical Studies on Medical
        Image Classification", ICCV 2021, in the form of 6.21 (without the weights p and 1 - p of the classes; its
        $\alpha$ is half of this one).

    Example:
        >>> loss = AUCMarginLoss(margin=1.0, lr=0.5)
        >>> scores = torch.tensor([0.5, -0.5], requires_grad=True)
        >>> loss(scores, torch.tensor([0, 1])).item()
        0.5
        >>> loss.alpha.values(torch.tensor([0]))
        tensor([1.])
    """

    def __init__(
        self,
        margin: float = 1.0,
        *,
        lr: float = 0.1,
        surrogate: Callable[[Tensor], Tensor] = surrogates.squared_hinge,
        num_labels: int = 1,
    ) -> None:
        super().__init__()
        if surrogate is not surrogates.squared_hinge and surrogate is not surrogates.squared:
            raise TypeError(
                "`surrogate` must be guidestar.surrogates.squared_hinge or squared, the two whose maximum over alpha is "
                f"6.21; their margin is `margin`. Found {getattr(surrogate, '__name__', type(surrogate).__name__)}. For "
                "any other use PairwiseAUCLoss."
            )
        if num_labels < 1:
            raise ValueError(f"`num_labels` must be at least 1. Found {num_labels}.")
        self.margin = check_positive("margin", margin)
        floor = 0.0 if surrogate is surrogates.squared_hinge else None
        self.alpha = Dual(num_labels, lr=lr, minimum=floor, maximise=True)
        self.a = nn.Parameter(torch.zeros(num_labels))
        self.b = nn.Parameter(torch.zeros(num_labels))
        self.empty = Counter()

    def forward(
        self, scores: Tensor, labels: Tensor, index: Tensor | None = None, *, mask: Tensor | None = None
    ) -> Tensor:
        """F at the variables as they are; then alpha moves."""
        learning = self.training and torch.is_grad_enabled()
        batch = binary_batch(scores, labels, mask=mask, learning=learning)
        if len(batch.learnable) != len(self.a):
            raise ValueError(
                f"`scores` must have `num_labels`={len(self.a)} columns, [B, {len(self.a)}] ([B] for one). Found "
                f"{tuple(scores.shape)}."
            )
        value, slope = self._objective(batch)
        if learning:
            if not batch.complete:
                self.empty.add(batch.lacking())
            # A slope of 0 leaves alpha as it is, bit by bit.
            self.alpha.move(slope * batch.learnable, self._every_label())  # Alg. 27, step 4
        return batch.mean_over_labels(value)

    def _objective(self, batch: BinaryBatch) -> tuple[Tensor, Tensor]:
        """F of each label, and its derivative by alpha, `[L]`."""
        alpha = self.alpha.values(self._every_label()).reshape(-1).to(batch.scores)
        a, b = (center.to(batch.scores).unsqueeze(1) for center in (self.a, self.b))
        scores, weights = batch.scores, class_weights(batch)
        apart = scores - torch.where(batch.positive, a, b)
        value = torch.addcmul(weights.abs() * apart * apart, alpha.unsqueeze(1) * weights, scores).sum(1)
        gap = self.margin + (weights * scores.detach()).sum(1)
        return value + (alpha * self.margin - alpha.square() / 4), gap - alpha / 2  # Eq. 6.21

    def _every_label(self) -> Tensor | None:
        count = len(self.a)
        return None if count == 1 else torch.arange(count, device=self.alpha.memory.values.device)

    @torch.no_grad()
    def reset(self) -> None:
        """Back to the state of a new object, a and b included."""
        super().reset()
        self.a.zero_()
        self.b.zero_()

    def metrics(self) -> dict[str, float]:
        """`empty`: labels without both classes, over all batches so far; means of `a`, `b` and `alpha`."""
        means = {"a": self.a, "b": self.b, "alpha": self.alpha.memory.values}
        return super().metrics() | {name: float(values.detach().mean()) for name, values in means.items()}


def class_weights(batch: BinaryBatch) -> Tensor:
    """1/N of each negative and -1/P of each positive, `[L, B]`: its product with the scores is the mean gap."""
    dtype = batch.scores.dtype
    positives, negatives = (of.sum(1, keepdim=True, dtype=dtype) for of in (batch.positive, batch.negative))
    return torch.where(batch.positive, -1.0 / positives, torch.where(batch.negative, 1.0 / negatives, 0.0))
