"""Prospect: stochastic steps on a spectral risk of the whole data set, without bias and with vanishing variance."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from guidestar.risks.base import Risk, check_positive, check_risk
from guidestar.state import PerSampleState, Stateful, math_dtype


class Prospect(Stateful):
    r"""Minimises a risk of all n losses by steps on a few, linearly convergent for convex models.

    $\min_w \max_{q \in \mathcal P(\sigma)} \sum_i q_i \ell_i(w) - \nu D(q) + \frac\mu2 \|w\|^2$

    The weights of a mini-batch's losses among each other are not their weights in the data set. So this keeps for each
    sample its last loss $l_i$, its last gradient $g_i$, and the weight $\rho_i$ that it then had, and with a batch I of B
    samples makes

    - $q = \arg\max_q \sum_i q_i l_i - \nu D(q)$, the weights of all n samples by the remembered losses;
    - $v = \frac nB \sum_{i \in I} (q_i \nabla \ell_i(w) - \rho_i g_i) + \bar g$, with $\bar g = \sum_{i=1}^n \rho_i g_i$;
    - $w \leftarrow (w - \eta v) / (1 + \eta \mu)$;
    - then, for the samples of the batch, $\bar g$ changes by $\sum_I (q_i \nabla \ell_i - \rho_i g_i)$, $l_i$, $g_i$ and
      $\rho_i$ are replaced. Before a sample's first batch $g_i$ and $\rho_i$ are 0 (v has the same expectation), where the
      paper begins with a pass of gradients over the data.

    - $\mathcal P(\sigma)$, $\nu$, D = `risk`: a `Spectral` with nu > 0, or any risk that is exact within a batch.
    - $\eta$ = `lr`, $\mu$ = `l2`.

    The expectation of v over uniform batches is the gradient at the remembered weights, and its variance goes to 0 as the
    memory settles: a constant step size converges. The losses in memory are those of the forward pass that also gives the
    gradients; the paper spends a second one, on another sample, for its proof.

    Args:
        params: the model's parameters, all of one dtype and on one device; no other optimizer may move them.
        risk: see above.
        num_rows: number of samples n.
        lr: step size, positive. A fraction of 1 / (n times the largest weight times the smoothness) is safe.
        l2: $\mu$, at least 0; the papers' `l2_reg` is n times this.

    Shapes:
        `losses` `[B]`, of the model's present parameters, with their graph; `index` int64 `[B]` without repetitions.

    State:
        float32 (float64 for parameters in float64): `losses.values` `[n]`, `rho.values` `[n]`, `gradients.values`
        `[n, d]` and `average.values` `[1, d]` for d parameters: meant for linear and other small models. One process.

    Cost:
        a step is B backward passes in one vectorised call, $O(B d)$ of memory traffic, and one solution of the inner
        problem over all n losses, $O(n \log^2 n)$ without reading the data.

    Raises:
        ValueError: a setting out of range, a risk with memory, shapes that do not fit, an index that repeats.
        IndexError: a row number on the CPU is out of range.
        RuntimeError: `step` before `fill` has seen every sample.

    Source:
        Mehta, Roulet, Pillutla and Harchaoui, "Distributionally Robust Optimization with Bias and Variance Reduction",
        ICLR 2024. Its update is for batches of one sample; this is the mean of B such terms.

    Example:
        >>> from guidestar.risks import Spectral, spectra
        >>> x, y = torch.tensor([[-1.0], [0.0], [1.0], [2.0]]), torch.tensor([-1.0, 0.5, 1.0, 5.0])
        >>> model = nn.Linear(1, 1)
        >>> loss = lambda index: (model(x[index]).squeeze(1) - y[index]) ** 2
        >>> risk = Spectral(spectra.superquantile(0.5), nu=1.0)
        >>> prospect = Prospect(model.parameters(), risk, num_rows=4, lr=0.02)
        >>> prospect.fill(loss(torch.arange(4)), torch.arange(4))
        >>> for step in range(2000):
        ...     index = torch.tensor([step * 7 % 4])
        ...     prospect.step(loss(index), index)
        >>> (slope,) = torch.autograd.grad(risk(loss(torch.arange(4))), model.weight)
        >>> bool(slope.abs() < 1e-3)
        True
    """

    def __init__(
        self, params: Iterable[nn.Parameter], risk: Risk, *, num_rows: int, lr: float, l2: float = 0.0
    ) -> None:
        super().__init__()
        # In a tuple the parameters are no submodule's: they stay out of the state.
        self.params = tuple(parameter for parameter in params if parameter.requires_grad)
        if not self.params:
            raise ValueError("`params` must hold a parameter that requires a gradient. Found none.")
        if any(isinstance(child, PerSampleState) for child in check_risk(risk).modules()):
            raise ValueError(
                f"`risk` must be exact within a batch, as Spectral is: the losses of all samples are remembered here. Found "
                f"{type(risk).__name__} with memory of its own. Use its form with gamma = 1 and without `lr`."
            )
        if not 0.0 <= l2 < float("inf"):
            raise ValueError(f"`l2` must be at least 0 and finite. Found {l2}.")
        self.risk = risk
        self.lr = check_positive("lr", lr)
        self.l2 = float(l2)
        size = sum(parameter.numel() for parameter in self.params)
        self.losses = PerSampleState(num_rows)
        self.rho = PerSampleState(num_rows, fill=0.0)
        self.gradients = PerSampleState(num_rows, (size,), fill=0.0)
        self.average = PerSampleState(1, (size,), fill=0.0)
        self.to(device=self.params[0].device, dtype=math_dtype(self.params[0]))

    @torch.no_grad()
    def fill(self, losses: Tensor, index: Tensor) -> None:
        """Remember the losses of these samples, before the first step; every sample must be seen once.

        Args:
            losses: `[B]`.
            index: int64 `[B]`.
        """
        self._check(losses, index)
        self.losses.write(index, losses)

    def step(self, losses: Tensor, index: Tensor) -> None:
        """Move the parameters by one step.

        Args:
            losses: `[B]`, with the graph to the parameters.
            index: int64 `[B]`.
        """
        self._check(losses, index)
        if index.numel() == 0:
            return
        n = len(self.losses)
        known = self.losses.values.detach().clone()
        if known.device.type == "cpu" and not bool(self.losses.seen().all()):
            raise RuntimeError(
                f"`step` needs a loss of each of the {n} samples: {int((~self.losses.seen()).sum())} have none. Call "
                "`fill(losses, index)` over the data set once."
            )
        q = self.risk.weights(known.unsqueeze(0)).squeeze(0)[index]  # one of several rows: never spread over ranks
        gradients = self._per_sample(losses)
        with torch.no_grad():
            change = q @ gradients - self.rho.read(index) @ self.gradients.read(index)
            average = self.average.read(None)
            self._move(average + (n / len(index)) * change)
            self.average.write(None, average + change)
            self.rho.write(index, q)
            self.gradients.write(index, gradients)
            self.losses.write(index, losses)

    def _per_sample(self, losses: Tensor) -> Tensor:
        """The gradient of each loss by all parameters, `[B, d]`."""
        each = torch.eye(len(losses), dtype=losses.dtype, device=losses.device)
        found = torch.autograd.grad(losses, self.params, each, is_grads_batched=True, materialize_grads=True)
        return torch.cat([gradient.reshape(len(losses), -1) for gradient in found], dim=1).to(self.rho.values.dtype)

    def _move(self, direction: Tensor) -> None:
        parts = direction.split([parameter.numel() for parameter in self.params])
        for parameter, part in zip(self.params, parts, strict=True):
            parameter.sub_(part.reshape(parameter.shape), alpha=self.lr).div_(1.0 + self.lr * self.l2)

    def _check(self, losses: Tensor, index: Tensor) -> None:
        math_dtype(losses)
        if losses.ndim != 1 or index.shape != losses.shape:
            raise ValueError(
                f"`losses` must be [B], one of each sample of the batch, and `index` [B]. Found {tuple(losses.shape)} and "
                f"{tuple(index.shape)}."
            )
        if index.device.type == "cpu" and len(index.unique()) < len(index):
            raise ValueError(
                "`index` must not hold a sample twice: its weight would count twice. Draw without replacement."
            )

    def extra_repr(self) -> str:
        return f"num_rows={len(self.losses)}, lr={self.lr}, l2={self.l2}"
