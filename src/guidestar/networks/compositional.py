"""Compositional training: an objective of the weights after one gradient step of another loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from guidestar.risks.base import check_positive
from guidestar.schedules import Schedule
from guidestar.state import Stateful
from guidestar.tracking import Tracker


class CompositionalStep(Stateful):
    r"""A model whose outputs are those after an inner gradient step: $\min_w F(w - \tau \nabla L(w))$.

    Features are learnt by the inner loss L (cross-entropy, equal weights for all samples), the classifier by the outer
    objective F (`guidestar.losses.AUCMarginLoss`, or any), in one stage:

    - $\hat u_t = w_t - \tau \nabla \hat L(w_t)$ with $\tau$ = `step` and L = `inner_loss` on the mini-batch;
    - $u_t = (1 - \gamma) u_{t-1} + \gamma \hat u_t$, a `Tracker` for each parameter;
    - the outputs are those of the model at $u_t$, and their backward reaches w with the factor
      $I - \tau \nabla^2 \hat L(w_t)$.

    Equations:
        Section 6.4.1 ("Feature Learning": compositional training, PDSCA).

    Args:
        model: takes `inputs`; its parameters that require a gradient make w.
        inner_loss: `inner_loss(outputs, targets)` -> scalar.
        step: $\tau$, positive.
        gamma: rate in (0, 1] or a schedule; 1 keeps nothing.
        first_order: leave $\tau \nabla^2 L$ out of the gradient: no second derivatives are computed.

    Shapes:
        `inputs` as the model takes them (a tuple: several arguments), `targets` as `inner_loss` takes them -> the
        model's outputs.

    State:
        with gamma < 1 the running $u$ of each parameter, float32, in the order of `model.named_parameters()`. The ranks
        average $\hat u_t$; the factor with the second derivatives is each rank's own.

    Value and gradient:
        outputs at $u_t$; gradient $(I - \tau \nabla^2 \hat L(w_t)) \nabla F(u_t)$ in `model.parameters()`, which the
        optimizer moves. In eval mode, or where gradients are off, the model itself runs, at w: it is what is saved and
        deployed, and needs no targets. Buffers (BatchNorm's running statistics) are those of w: the inner pass updates
        them once, the pass at $u_t$ works on copies. `averages()` gives $u_t$ to evaluate there.

    Raises:
        ValueError: `step` or `gamma` out of range, `inner_loss` gives no scalar, the model has nothing to train,
            `targets` are missing in training.
        TypeError: `model` is no module, `inner_loss` no function.

    Source:
        Yuan et al., "Compositional Training for End-to-End Deep AUC Maximization", ICLR 2022.

    Example:
        >>> model = nn.Linear(2, 1)
        >>> inner = nn.BCEWithLogitsLoss()
        >>> stepped = CompositionalStep(model, lambda out, y: inner(out.squeeze(1), y), step=0.1)
        >>> stepped(torch.ones(4, 2), torch.tensor([0.0, 1.0, 0.0, 1.0])).shape
        torch.Size([4, 1])
    """

    def __init__(
        self,
        model: nn.Module,
        inner_loss: Callable[[Any, Any], Tensor],
        step: float = 0.1,
        *,
        gamma: float | Schedule = 0.9,
        first_order: bool = False,
    ) -> None:
        super().__init__()
        if not isinstance(model, nn.Module):
            raise TypeError(f"`model` must be a torch.nn.Module. Found {type(model).__name__}.")
        if not callable(inner_loss):
            raise TypeError(
                f"`inner_loss` must be a function of (outputs, targets). Found {type(inner_loss).__name__}."
            )
        self.model = model
        self.inner_loss = inner_loss
        self.step = check_positive("step", step)
        self.first_order = first_order
        learnt = self._learnt()
        if not learnt:
            raise ValueError("`model` must have parameters that require a gradient. Found none.")
        self.names = tuple(learnt)
        self.trackers = nn.ModuleList(Tracker(shape=tuple(p.shape), gamma=gamma) for p in learnt.values())

    def forward(self, inputs: Any, targets: Any = None) -> Any:
        """The model's outputs at the tracked, stepped parameters; in evaluation at its own."""
        given = inputs if isinstance(inputs, tuple) else (inputs,)
        if not (self.training and torch.is_grad_enabled()):
            return self.model(*given)
        if targets is None:
            raise ValueError("`targets` are needed in training, for the inner loss. Found None.")
        buffers = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        stepped = self._stepped(given, targets)
        return functional_call(self.model, {**stepped, **buffers}, given)

    def averages(self) -> dict[str, Tensor]:
        r"""The tracked parameters $u_t$ by name, for `torch.func.functional_call(model, averages, inputs)`.

        Raises:
            RuntimeError: nothing is kept with gamma = 1, or there was no step yet.
        """
        found = {}
        for name, tracker in zip(self.names, self.trackers, strict=True):
            values, seen = tracker.remembered()  # pyright: ignore[reportCallIssue]
            if not bool(seen.all()):
                raise RuntimeError("there is no average yet: call the module on a batch in training mode first.")
            found[name] = values[0]
        return found

    def _stepped(self, given: tuple[Any, ...], targets: Any) -> dict[str, Tensor]:
        """u_t of each parameter, with the gradient of the mini-batch's step."""
        learnt = self._learnt()
        if tuple(learnt) != self.names:
            raise ValueError(
                "`model` must train the parameters that it had when it was wrapped: freeze or thaw before. Found "
                f"{len(learnt)} of them, {len(self.names)} then."
            )
        parameters = list(learnt.values())
        loss = self.inner_loss(self.model(*given), targets)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            found = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise ValueError(f"`inner_loss` must give a scalar. Found {found}.")
        slopes = torch.autograd.grad(
            loss.sum(), parameters, create_graph=not self.first_order, allow_unused=True, materialize_grads=True
        )
        tracked = {}
        for name, parameter, slope, tracker in zip(self.names, parameters, slopes, self.trackers, strict=True):
            estimate = parameter - self.step * slope  # Section 6.4.1: w - tau grad L(w)
            tracked[name] = tracker(estimate).to(parameter.dtype)
        return tracked

    def _learnt(self) -> dict[str, nn.Parameter]:
        return {name: value for name, value in self.model.named_parameters() if value.requires_grad}

    def extra_repr(self) -> str:
        return f"step={self.step}, first_order={self.first_order}"
