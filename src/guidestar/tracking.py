"""`Tracker`: remembers the average of a mini-batch estimate, row by row, and lets autograd see the estimate."""

from __future__ import annotations

import torch
from torch import Tensor

from guidestar import distributed
from guidestar.schedules import Cosine, Scent, Schedule, as_schedule, is_mini_batch
from guidestar.state import UNSEEN, Epoch, PerSampleState, Stateful, all_finite, expand, math_dtype, merge_duplicates


class Tracker(Stateful):
    r"""Running estimate $u_i$ of an inner function $g_i(w)$; value the estimate, gradient the mini-batch's.

    With the mini-batch estimate $\hat g_i$ of row i:

    - $u_i \leftarrow (1-\gamma) u_i + \gamma \hat g_i$, and $u_i = \hat g_i$ on the first visit;
    - with `previous`, the estimate of the same batch at $w_{t-1}$ (MSVR), $+\,\gamma'(\hat g_i(w_t) - \hat g_i(w_{t-1}))$;
    - in log space $v = \log u$ is kept, $v \leftarrow \log((1-\gamma) e^{v} + \gamma e^{\log \hat g})$.

    The tensor that is returned has the value $u_i$ and the gradient of $\hat g_i$ (in log space: value $v_i$, gradient
    $\nabla \hat g_i / u_i$), so that `outer(tracker(inner, index)).mean().backward()` is the gradient estimator
    $f'(u_i) \nabla \hat g_i$ of SCGD, SCMA and SOX.

    Equations:
        6.14 (log space), 6.12 (the gradient that results); Alg. 9, 10, 11, 14, 15, 22 of the book, Alg. 24.

    Args:
        num_rows: number of inner functions n; 1 for a single expectation.
        shape: shape of one row's estimate.
        gamma: rate in (0, 1] or a schedule of `guidestar.schedules`. 1 is the mini-batch estimate: nothing is kept.
        log_space: estimates are given, and values returned, as logarithms.
        gamma_prime: $\gamma'$ of the MSVR correction; None is 1 - gamma (SCST, Alg. 11).

    Shapes:
        `estimate` `[*rows, *shape]`, `index` `[*rows]` (None for a single row), result as `estimate`.

    State:
        `memory.values`, float32 `[num_rows, *shape]`, +inf before the first visit; nothing with gamma = 1. All ranks
        hold the same rows: a single row averages its estimate over the ranks, many rows exchange (index, estimate).

    Value and gradient:
        the running estimate and the gradient of the mini-batch estimate. In eval mode, or where gradients are off, the
        estimate passes through and nothing is written. Equal indices in a batch count with the mean of their estimates.

    Raises:
        ValueError: a shape does not fit, `index` is missing with many rows, `previous` in log space, `gamma` out of
            range.
        TypeError: the estimate is not floating point, the index not an integer tensor.
        IndexError: a row number on the CPU is out of range.

    Source:
        Wang and Yang, "Finite-Sum Coupled Compositional Stochastic Optimization" (SOX), ICML 2022.

    Example:
        >>> tracker = Tracker(num_rows=4, gamma=0.5)
        >>> tracker(torch.tensor([2.0]), torch.tensor([3]))
        tensor([2.])
        >>> tracker(torch.tensor([4.0]), torch.tensor([3]))
        tensor([3.])
    """

    def __init__(
        self,
        num_rows: int = 1,
        *,
        shape: tuple[int, ...] = (),
        gamma: float | Schedule = 0.9,
        log_space: bool = False,
        gamma_prime: float | None = None,
    ) -> None:
        super().__init__()
        if num_rows < 1:
            raise ValueError(f"`num_rows` must be at least 1. Found {num_rows}.")
        self.num_rows = num_rows
        self.shape = tuple(shape)
        self.schedule = as_schedule(gamma)
        self.log_space = log_space
        self.gamma_prime = gamma_prime
        keeps = not is_mini_batch(self.schedule)
        self.memory = PerSampleState(num_rows, self.shape) if keeps else None
        self.epoch = Epoch() if keeps and isinstance(self.schedule, Cosine) else None

    def forward(
        self,
        estimate: Tensor,
        index: Tensor | None = None,
        previous: Tensor | None = None,
        *,
        active: Tensor | None = None,
    ) -> Tensor:
        """Mix the estimates in and return the averages; rows where `active` is false pass through, unwritten."""
        dtype = math_dtype(estimate)
        estimate = estimate.to(dtype)
        self._check(estimate, index, previous)
        if not (self.training and torch.is_grad_enabled()):
            return estimate
        if self.memory is None:
            return self._mini_batch(estimate, index, previous)
        average = self._update(self.memory, estimate, index, previous, active)
        if active is not None:
            average = torch.where(expand(active, average), average, estimate.detach())
        return self._attach(average, estimate)

    def _mini_batch(self, estimate: Tensor, index: Tensor | None, previous: Tensor | None) -> Tensor:
        single = index is None and estimate.ndim == len(self.shape)  # else the rows are each rank's own
        if previous is not None and self.gamma_prime:
            corrected = estimate.detach()
            corrected = corrected + self.gamma_prime * (corrected - previous.detach().to(corrected))
        elif single and distributed.world_size() > 1:
            corrected = estimate.detach()
        else:
            return estimate
        return self._attach(self._over_ranks(corrected) if single else corrected, estimate)

    def remembered(self) -> tuple[Tensor, Tensor]:
        """All averages `[num_rows, *shape]` (0 where there is none yet), and which rows have one, bool `[num_rows]`.

        Raises:
            RuntimeError: nothing is kept with gamma = 1.
        """
        if self.memory is None:
            raise RuntimeError("this Tracker keeps nothing because `gamma` is 1. Use gamma < 1 to have an average.")
        values = self.memory.values
        return torch.where(values == UNSEEN, torch.zeros_like(values), values), self.memory.seen()

    def _attach(self, average: Tensor, estimate: Tensor) -> Tensor:
        value = estimate.detach()
        change = estimate - value  # zero, with the estimate's gradient
        if not self.log_space:
            return average + change
        weight = torch.exp(value - average)  # d log u = d g / u
        if isinstance(self.schedule, Scent):
            # SCENT's weight has no bound: where it overflows, the gradient does too, but not the value (inf * 0 is NaN).
            weight = weight.clamp(max=torch.finfo(average.dtype).max)
        return torch.addcmul(average, weight, change)

    def _over_ranks(self, estimate: Tensor) -> Tensor:
        return distributed.log_mean_exp(estimate) if self.log_space else distributed.mean(estimate)

    def _update(
        self,
        memory: PerSampleState,
        estimate: Tensor,
        index: Tensor | None,
        previous: Tensor | None,
        active: Tensor | None,
    ) -> Tensor:
        """The new averages, outside the graph: everything that goes in is detached."""
        if index is None:
            new = self._over_ranks(estimate).reshape(self.shape)
            before = None if previous is None else self._over_ranks(previous.to(estimate)).reshape(self.shape)
            keep = None if active is None else active.detach().reshape(())
            return self._mix(memory, memory.first(), new, before, keep).reshape(estimate.shape)
        count = index.numel()
        rows = distributed.gather(memory.on_device(index.reshape(-1)))
        new = distributed.gather(estimate.reshape(count, *self.shape))
        before = None if previous is None else distributed.gather(previous.to(estimate).reshape(count, *self.shape))
        keep = None if active is None else distributed.gather(active.reshape(count))
        mixed = self._mix(memory, rows, new, before, keep)
        if len(mixed) > count:  # of all ranks
            start = distributed.rank() * count
            mixed = mixed[start : start + count]
        return mixed.reshape(estimate.shape)

    def _mix(
        self,
        memory: PerSampleState,
        rows: Tensor | None,
        new: Tensor,
        previous: Tensor | None,
        active: Tensor | None,
    ) -> Tensor:
        if rows is not None and rows.ndim > 0:
            new = merge_duplicates(rows, new, active=active, log_space=self.log_space)
            previous = None if previous is None else merge_duplicates(rows, previous, active=active)
        old = memory.read(rows, checked=True).to(new.dtype)
        epoch = None if self.epoch is None else self.epoch.number
        if self.log_space:
            log_new, log_old = (_cast(rate, new) for rate in self.schedule.log_rates(old, epoch))
            mixed = torch.logaddexp(log_old + old, log_new + new)  # Eq. 6.14
        else:
            gamma = _cast(self.schedule.rate(old, epoch, log_space=False), new)
            mixed = torch.lerp(old, new, gamma)  # (1 - gamma) old + gamma new
            if previous is not None:
                correction = (1 - gamma) if self.gamma_prime is None else self.gamma_prime
                mixed = mixed + correction * (new - previous)
        if not all_finite(mixed):  # else no row was unseen: a mean with infinity is not finite
            mixed = torch.where(old == UNSEEN, new, mixed)
        memory.write(rows, mixed, active, checked=True)
        return mixed

    def _check(self, estimate: Tensor, index: Tensor | None, previous: Tensor | None) -> None:
        lead = estimate.shape[: estimate.ndim - len(self.shape)]
        if estimate.ndim < len(self.shape) or estimate.shape[len(lead) :] != self.shape:
            raise ValueError(
                f"`estimate` must have shape [*rows, {', '.join(map(str, self.shape))}] for rows of shape "
                f"{self.shape}. Found {tuple(estimate.shape)}."
            )
        if index is not None and index.shape != lead:
            raise ValueError(
                f"`index` must have one row number for each row of `estimate`, shape {tuple(lead)}. Found "
                f"{tuple(index.shape)}."
            )
        if index is None and self.memory is not None and (self.num_rows > 1 or lead.numel() != 1):
            raise ValueError(
                f"`index` is needed: the tracker has {self.num_rows} rows and the estimate {lead.numel()}. Pass the "
                "row number of each estimate."
            )
        if previous is not None and self.log_space:
            raise ValueError(
                "`previous` (MSVR) can make the average negative, which log space cannot hold. Found both."
            )
        if previous is not None and previous.shape != estimate.shape:
            raise ValueError(
                f"`previous` must have the shape of `estimate`, {tuple(estimate.shape)}. Found {tuple(previous.shape)}."
            )

    def extra_repr(self) -> str:
        return f"num_rows={self.num_rows}, shape={self.shape}, gamma={self.schedule}, log_space={self.log_space}"


def _cast(rate: float | Tensor, like: Tensor) -> float | Tensor:
    return rate.to(like.dtype) if isinstance(rate, Tensor) else rate
