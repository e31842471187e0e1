"""Without a process group, every collective is the identity (with two processes: tests/distributed)."""

from __future__ import annotations

import torch

from guidestar import distributed


def test_one_process() -> None:
    assert distributed.world_size() == 1
    assert distributed.rank() == 0
    distributed.barrier()


def test_values_pass_through_detached() -> None:
    values = torch.tensor([1.0, 1000.0], requires_grad=True)
    for function in (distributed.mean, distributed.log_mean_exp, distributed.gather):
        assert torch.equal(function(values), values.detach())
        assert not function(values).requires_grad


def test_gradients_pass_through() -> None:
    values = torch.tensor([1.0, 2.0], requires_grad=True)
    for function in (distributed.mean_value, distributed.gather_with_gradient):
        (gradient,) = torch.autograd.grad(function(values).square().sum(), values)
        assert gradient.tolist() == [2.0, 4.0]
