"""Jacobian descent over several losses: a step that raises none of them, by an aggregator of torchjd."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from guidestar import distributed


def jacobian_backward(
    losses: Tensor,
    parameters: Iterable[Tensor],
    *,
    present: Tensor | None = None,
    aggregator: Callable[[Tensor], Tensor] | None = None,
    parallel_chunk_size: int | None = None,
) -> Tensor | None:
    r"""Instead of `losses.sum().backward()`: aggregate the losses' gradients so that none of them is opposed.

    UPGrad, with the rows $g_i$ of the Jacobian J: project each $g_i$ onto the cone of the directions d with $J d \ge 0$, and
    take the mean of the projections. A small step against it raises no loss.

    What this adds to `torchjd.autojac`: losses that the batch says nothing about are left out (the row of a group that is
    absent is 0, which alone would make MGDA and others stand still); ranks average the Jacobian before it is aggregated, so
    that all take the same step; the result goes into `.grad`, for any optimizer.

    Equations:
        an alternative to the risk of 6.17 for the groups' losses $L_i$.

    Args:
        losses: `[K]`, on the graph of the parameters; the values that `GroupMean.in_batch` returns, say.
        parameters: those of the model itself (not of its `DistributedDataParallel` wrapper, whose hooks would not run).
        present: bool `[K]`, the losses to count; the second result of `GroupMean.in_batch`. None is all.
        aggregator: one of `torchjd.aggregation`; None is `UPGrad()`.
        parallel_chunk_size: how many losses are differentiated at once; 1 avoids `torch.vmap`, which cannot go through
            compiled functions and some modules.

    Shapes:
        `losses` `[K]`; during the call, the Jacobian takes K times the memory of the parameters.

    Returns:
        The weight that each loss's gradient got, `[K]`, 0 for those left out; None if the aggregator has no weights.

    Value and gradient:
        adds to each parameter's `.grad`. If no loss is present, nothing is added, and the weights are 0.

    Raises:
        ValueError: `losses` is not one-dimensional, `present` does not fit, there are no parameters.
        TypeError: `present` is not bool.
        ImportError: torchjd is not installed.

    Source:
        Quinton and Rey, "Jacobian Descent for Multi-Objective Optimization", 2024; the implementation is torchjd's.

    Example:
        >>> w = torch.tensor([0.0, 0.0], requires_grad=True)
        >>> losses = torch.stack([w[0] + 1.0, w[1] - w[0]])
        >>> from torchjd.aggregation import Sum
        >>> jacobian_backward(losses, [w], aggregator=Sum())
        tensor([1., 1.])
        >>> w.grad
        tensor([0., 1.])
    """
    autojac, aggregator = _torchjd(aggregator)
    parameters = [parameter for parameter in parameters if parameter.requires_grad]
    if not parameters:
        raise ValueError(
            "`parameters` must hold a tensor that requires a gradient. Found none: pass model.parameters()."
        )
    chosen = _present(losses, present)
    weights = losses.detach().new_zeros(losses.shape)
    if not bool(chosen.any()):
        return weights
    autojac.backward(losses[chosen], inputs=parameters, parallel_chunk_size=parallel_chunk_size)
    if distributed.world_size() > 1:
        for parameter in parameters:
            parameter.jac.copy_(distributed.mean(parameter.jac))  # pyright: ignore[reportAttributeAccessIssue]
    found = autojac.jac_to_grad(parameters, aggregator)
    if found is None:
        return None
    weights[chosen] = found.to(weights)
    return weights


def _present(losses: Tensor, present: Tensor | None) -> Tensor:
    if losses.ndim != 1:
        raise ValueError(f"`losses` must be one-dimensional, one loss an objective. Found {tuple(losses.shape)}.")
    if present is None:
        return torch.ones_like(losses, dtype=torch.bool)
    if present.dtype != torch.bool:
        raise TypeError(f"`present` must be a bool tensor, true where a loss counts. Found dtype {present.dtype}.")
    if present.shape != losses.shape:
        raise ValueError(
            f"`present` must have the shape of `losses`, {tuple(losses.shape)}. Found {tuple(present.shape)}."
        )
    return present.to(losses.device)


def _torchjd(aggregator: Callable[[Tensor], Tensor] | None) -> tuple[Any, Any]:
    try:
        from torchjd import autojac
        from torchjd.aggregation import UPGrad

        return autojac, UPGrad() if aggregator is None else aggregator  # UPGrad needs a solver that torchjd leaves out
    except ImportError as error:
        raise ImportError(
            "Jacobian descent needs torchjd and, for UPGrad, quadprog. Install them with: pip install "
            f"'guidestar[jacobian]'. ({error})"
        ) from error
