"""STORM: the variance-reduced gradient estimator, for any optimizer; SCST and MSVR are made with it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from guidestar.state import UNSEEN, read_only
from guidestar.tracking import Tracker


class Storm:
    r"""Makes of two gradients on the same batch one of lower variance, which any optimizer then uses.

    $\mathbf v_t = (1 - \beta) \mathbf v_{t-1} + \beta \mathbf z_t + (1 - \beta) (\mathbf z_t - \tilde{\mathbf z}_{t-1})$

    - $\beta$ = `beta`: 1 is the plain gradient, a smaller one averages more. Set `storm.beta` to change it.
    - $\mathbf z_t$: the gradient of this step's batch at the current parameters $w_t$: what `backward()` left in `.grad`.
    - $\tilde{\mathbf z}_{t-1}$: the gradient of the *same batch* at the previous parameters $w_{t-1}$: what `backward()`
      leaves in `.grad` inside `with storm.previous():`.
    - $\mathbf v_t$: takes the place of `.grad` in `storm.estimate()`; $\mathbf v_1 = \mathbf z_1$.

    Any loss, risk or tracker can be called in both passes: `previous(loss)` keeps it from writing in the first one, and
    there it mixes the batch into its memory as it will in the second pass, so that $\mathbf z_t = \tilde{\mathbf z}_{t-1}$
    where $w_t = w_{t-1}$. SCST is a tracker of one row that is also given `previous`, the estimate at $w_{t-1}$; MSVR and
    SONX-v2 are one of many rows.

    The papers use $u_{t-1}$ in $\tilde{\mathbf z}_{t-1}$, which needs an *independent* second batch for the gradients: on
    one batch, $f'(u_t)$ and $\nabla g(w_t; \zeta_t)$ are correlated, $f'(u_{t-1})$ and $\nabla g(w_{t-1}; \zeta_t)$ are not,
    and the difference adds up to $1/\beta$ times the correlation. With two batches, `recall(tracker, inner(second))` gives
    $u_{t-1}$ inside the block, and $u_t$ after the tracker has seen the first batch.

    Inside `previous()` the parameters hold $w_{t-1}$, the gradients of the caller are put aside, and the random number
    generators are set back at the end, so that both passes draw the same dropout masks. Several such blocks in one step
    (gradient accumulation) add up, as `.grad` does. Layers that average over batches in their forward, such as BatchNorm
    in training mode, see every batch twice.

    Equations:
        6.8 (the same update for a plain expectation, after a change of variables); Alg. 11 (SCST), 15 (MSVR), 16 of the
        book (SONX, its second version).

    Args:
        params: the parameters that the optimizer has.
        beta: $\beta$ in (0, 1].

    State:
        for each parameter $w_{t-1}$ and $\mathbf v_{t-1}$, in `state_dict()`: three times the parameters' memory, with the
        gradient at $w_{t-1}$. DDP averages both gradients over the ranks, so the ranks agree.

    Raises:
        ValueError: `beta` out of range, no parameters, a state of other shapes.
        RuntimeError: `estimate` without `previous` before it (from the second step on), or nested `previous`.

    Source:
        Cutkosky and Orabona, "Momentum-Based Variance Reduction in Non-Convex SGD" (STORM), NeurIPS 2019.

    Example:
        SCST for $2 \log E \exp(\ell / 2)$ with one sample a step; BSGD would end near the mean of the data, 1:

        >>> data, rng = torch.tensor([0.0, 0.0, 0.0, 4.0]), torch.Generator().manual_seed(1)
        >>> w = nn.Parameter(torch.zeros(()))
        >>> optimizer, storm = torch.optim.SGD([w], lr=0.01), Storm([w], beta=0.05)
        >>> tracker = Tracker(gamma=0.05)
        >>> for step in range(2000):
        ...     x = data[torch.randint(4, (), generator=rng)]
        ...     with storm.previous(tracker):  # the parameters are w_{t-1}
        ...         before = torch.exp((x - w) ** 2 / 16)
        ...         (2 * tracker(before).log()).backward()
        ...     optimizer.zero_grad()
        ...     (2 * tracker(torch.exp((x - w) ** 2 / 16), previous=before.detach()).log()).backward()
        ...     storm.estimate()
        ...     optimizer.step()
        >>> bool(1.2 < w < 1.4)  # the minimiser is 1.289
        True
    """

    def __init__(self, params: Iterable[nn.Parameter], beta: float) -> None:
        if not 0.0 < beta <= 1.0:
            raise ValueError(f"`beta` must be in (0, 1] (1 is the plain gradient). Found {beta}.")
        self.beta = beta
        self.params = [parameter for parameter in params if parameter.requires_grad]
        if not self.params:
            raise ValueError("`params` must hold a parameter that requires a gradient. Found none.")
        self._before = [parameter.detach().clone() for parameter in self.params]  # w_{t-1}
        self._average = [torch.zeros_like(parameter) for parameter in self._before]  # v_{t-1}
        self._gradient: list[Tensor | None] = [None] * len(self.params)  # of the batch at w_{t-1}
        self._started = self._seen = self._inside = False

    @contextmanager
    def previous(self, *stateful: nn.Module) -> Iterator[None]:
        """Inside the block, the parameters are those of the step before, and `backward()` makes their gradient.

        Args:
            stateful: losses, risks and trackers that are called inside; there they read their memory and write nothing.

        Raises:
            RuntimeError: the block is inside another one.
        """
        if self._inside:
            raise RuntimeError("`previous` must not be nested. Leave the block before you open another one.")
        self._inside = True
        current = [parameter.grad for parameter in self.params]
        for parameter, gradient in zip(self.params, self._gradient, strict=True):
            parameter.grad = gradient
        self._swap()
        devices = {parameter.device for parameter in self.params if parameter.device.type == "cuda"}
        try:
            with ExitStack() as stack:
                stack.enter_context(torch.random.fork_rng(devices=list(devices)))
                for module in stateful:
                    stack.enter_context(read_only(module))
                yield
            self._seen = True
        finally:
            self._swap()
            self._inside = False
            self._gradient = [parameter.grad for parameter in self.params]
            for parameter, gradient in zip(self.params, current, strict=True):
                parameter.grad = gradient

    @torch.no_grad()
    def estimate(self) -> None:
        r"""Replace `.grad` by $\mathbf v_t$, and remember the current parameters; call it before `optimizer.step()`.

        Raises:
            RuntimeError: there was no `previous` in this step.
        """
        if self._started and not self._seen:
            raise RuntimeError(
                "`estimate` needs the gradient of this batch at the previous parameters: run forward and backward inside "
                "`with storm.previous():` in each step."
            )
        for number, parameter in enumerate(self.params):
            old = self._gradient[number]
            if parameter.grad is None and old is None:
                continue
            average = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
            if self._started:
                correction = self._average[number] if old is None else self._average[number] - old
                average = average.add_(correction, alpha=1.0 - self.beta)  # Alg. 11: v_t
            self._average[number].copy_(average)
            parameter.grad = average
        for before, parameter in zip(self._before, self.params, strict=True):
            before.copy_(parameter)
        self._gradient = [None] * len(self.params)
        self._started, self._seen = True, False

    def _swap(self) -> None:
        # The storages change places, so a graph that was built with the other parameters stays valid.
        for number, parameter in enumerate(self.params):
            parameter.data, self._before[number] = self._before[number], parameter.data

    def state_dict(self) -> dict[str, Any]:
        """What the next step needs, between two steps."""
        return {"started": self._started, "previous": list(self._before), "estimate": list(self._average)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict()` of a Storm over the same parameters.

        Raises:
            ValueError: the shapes differ from those of the parameters.
        """
        shapes = [tuple(parameter.shape) for parameter in self.params]
        for name, own in (("previous", self._before), ("estimate", self._average)):
            found = [tuple(tensor.shape) for tensor in state[name]]
            if found != shapes:
                raise ValueError(f"`state` must be of parameters with the shapes {shapes}. Found {found} in `{name}`.")
            for tensor, saved in zip(own, state[name], strict=True):
                tensor.copy_(saved)
        self._gradient = [None] * len(self.params)
        self._started, self._seen = bool(state["started"]), False


def recall(tracker: Tracker, estimate: Tensor, index: Tensor | None = None) -> Tensor:
    r"""$u_{t-1}$ with the gradient of `estimate`: what the tracker would give if it did not take the estimate in.

    Inside `Storm.previous()` it makes $f'(u_{t-1}) \nabla g(w_{t-1}; \zeta_t)$ of an outer function f. Rows without a
    first visit, trackers that keep nothing (gamma = 1), and evaluation give the estimate itself.

    Args:
        tracker: the tracker, which stays as it is; not in log space.
        estimate, index: as for the tracker.

    Raises:
        ValueError: the tracker is in log space, which has no MSVR term.

    Example:
        >>> tracker = Tracker(gamma=0.5)
        >>> _ = tracker(torch.tensor(3.0))
        >>> recall(tracker, torch.tensor(5.0))
        tensor(3.)
    """
    if tracker.log_space:
        raise ValueError(
            "`tracker` must not be in log space: the correction by the previous estimate (MSVR, SCST) can make the average "
            "negative. Found log_space=True."
        )
    if tracker.memory is None or not (tracker.training and torch.is_grad_enabled()):
        return estimate
    rows = tracker.memory.first() if index is None else index
    old = tracker.memory.read(rows).reshape(estimate.shape).to(estimate)
    value = estimate.detach()
    return torch.where(old == UNSEEN, value, old) + (estimate - value)
