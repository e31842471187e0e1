"""What the two studies of groups share: methods over per-sample losses and group numbers, and their training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call

import guidestar as gs
from guidestar.optim import jacobian_backward
from guidestar.samplers import GroupSampler

from .optimize import descend, endless, shuffled

ADAM_RATES, SGD_RATES = (0.001, 0.004, 0.016), (0.01, 0.05, 0.25)
SMOOTHING, GAMMA = 0.1, 0.5
TITLES = {
    "erm": "ERM",
    "erm_groups": "ERM, groups uniformly",
    "online": "OnlineGroupDROLoss",
    "primal_dual": "PrimalDualGroupDROLoss",
    "sonx": "SONXLoss",
    "sonex": "SONEXLoss",
    "alexr": "ALEXRLoss",
    "risk": "GroupDROLoss(CVaR)",
    "upgrad": "UPGrad (torchjd)",
}


@dataclass(frozen=True)
class Inner:
    """Step sizes of what the losses learn beside the model.

    Args:
        online, primal_dual: of the weights of the groups.
        nu: of the threshold, for SONX, SONEX, ALEXR and CVaR.
        alexr: of ALEXR's dual variables.
    """

    online: float
    primal_dual: float
    nu: float
    alexr: float


class Task(Protocol):
    """What the methods ask of a task."""

    @property
    def num_groups(self) -> int: ...

    @property
    def alpha(self) -> float: ...

    @property
    def groups_per_batch(self) -> int: ...

    @property
    def samples_per_group(self) -> int: ...

    @property
    def l2(self) -> float: ...

    @property
    def steps(self) -> int: ...

    @property
    def every(self) -> int: ...

    @property
    def group(self) -> Tensor: ...

    def network(self) -> nn.Module: ...

    def losses(self, predict: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor: ...

    def look(self, model: nn.Module) -> float: ...

    def judge(self, model: nn.Module) -> dict[str, Any]: ...


class Average(nn.Module):
    """The mean loss, whatever the groups."""

    def forward(self, losses: Tensor, group: Tensor) -> Tensor:
        """The mean."""
        return losses.mean()


class InBatch(nn.Module):
    """The mean loss of each group, for Jacobian descent."""

    def __init__(self, num_groups: int) -> None:
        super().__init__()
        self.groups = gs.GroupMean(num_groups, gamma=1.0)

    def forward(self, losses: Tensor, group: Tensor) -> Tensor:
        """`[groups of the batch]`."""
        values, present = self.groups.in_batch(losses, group)
        return values[present]


@dataclass(frozen=True)
class Trained:
    """A model trained with a loss over per-sample losses and groups.

    Args:
        make_loss: from the task.
        settings: learning rates.
        scale: what the loss is multiplied by, so that the regulariser of the task means the same for every method.
        sgd: plain SGD without momentum, and not Adam.
        by_groups: `GroupSampler`, and not shuffled samples.
        looks_back: the loss also takes the losses at the weights before the last step.
        jacobian: the objective is a vector, for `jacobian_backward`.
    """

    make_loss: Callable[[Any], nn.Module]
    settings: Sequence[float] = ADAM_RATES
    scale: Callable[[Any], float] = lambda task: 1.0
    sgd: bool = False
    by_groups: bool = True
    looks_back: bool = False
    jacobian: bool = False

    def fit(self, task: Task, setting: float, seed: int) -> dict[str, Any]:
        """Train a new model; the curve has a point each `task.every` steps."""
        torch.manual_seed(seed)
        model, loss, batches = task.network(), self.make_loss(task), self._batches(task, seed)
        optimizer = (torch.optim.SGD if self.sgd else torch.optim.Adam)(model.parameters(), lr=setting)
        before: Mapping[str, Tensor] = {}
        scale = self.scale(task)

        def objective(step: int) -> Tensor:
            nonlocal before
            rows = next(batches)
            losses, more = task.losses(model, rows), {}
            if self.looks_back and before:
                with torch.no_grad():
                    more["previous_losses"] = task.losses(lambda x: functional_call(model, dict(before), (x,)), rows)
            before = {name: value.detach().clone() for name, value in model.named_parameters()}
            value = scale * loss(losses, task.group[rows], **more)
            return value if task.l2 == 0.0 else value + task.l2 / 2 * squared_norm(model)

        backward = (lambda losses: jacobian_backward(losses, model.parameters())) if self.jacobian else Tensor.backward
        steps, values = [0], [task.look(model)]
        for step in descend(optimizer, task.steps, objective, backward):
            if step % task.every == 0:
                steps.append(step)
                values.append(task.look(model))
        return {**task.judge(model), "curve": {"steps": steps, "values": values}}

    def _batches(self, task: Task, seed: int) -> Iterator[Tensor]:
        if self.by_groups:
            return endless(GroupSampler(task.group, task.groups_per_batch, task.samples_per_group, seed=seed))
        return shuffled(len(task.group), task.groups_per_batch * task.samples_per_group, seed)


def squared_norm(model: nn.Module) -> Tensor:
    """Of all parameters."""
    return torch.stack([parameter.square().sum() for parameter in model.parameters()]).sum()


def _over_alpha(task: Task) -> float:
    """The losses of (6.17) are alpha times CVaR."""
    return 1.0 / task.alpha


def _all_groups(task: Task) -> float:
    """The sum over the groups of a batch to that over all groups."""
    return task.num_groups / task.groups_per_batch


def methods(inner: Inner) -> dict[str, Trained]:
    """All of them, with the rates that fit networks with inputs of variance 1."""
    return {
        "erm": Trained(lambda task: Average(), by_groups=False),
        "erm_groups": Trained(lambda task: Average()),
        "online": Trained(
            lambda task: gs.losses.OnlineGroupDROLoss(task.num_groups, lr=inner.online), scale=_all_groups
        ),
        "primal_dual": Trained(
            lambda task: gs.losses.PrimalDualGroupDROLoss(task.num_groups, task.alpha, lr=inner.primal_dual)
        ),
        "sonx": Trained(
            lambda task: gs.losses.SONXLoss(task.num_groups, task.alpha, gamma=GAMMA, lr=inner.nu),
            SGD_RATES,
            scale=_over_alpha,
            sgd=True,
        ),
        "sonex": Trained(
            lambda task: gs.losses.SONEXLoss(
                task.num_groups, task.alpha, gamma=GAMMA, lr=inner.nu, smoothing=SMOOTHING
            ),
            scale=_over_alpha,
        ),
        "alexr": Trained(
            lambda task: gs.losses.ALEXRLoss(task.num_groups, task.alpha, dual_lr=inner.alexr, lr=inner.nu),
            SGD_RATES,
            scale=_over_alpha,
            sgd=True,
            looks_back=True,
        ),
        "risk": Trained(
            lambda task: gs.losses.GroupDROLoss(
                gs.CVaR(task.alpha, lr=inner.nu, smoothing=SMOOTHING), gs.GroupMean(task.num_groups, gamma=GAMMA)
            )
        ),
        "upgrad": Trained(lambda task: InBatch(task.num_groups), jacobian=True),
    }
