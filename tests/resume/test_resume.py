"""A run that is interrupted and resumed in new objects is, bit by bit, the run that was not."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import guidestar as gs


def _load_cases():
    name = "guidestar_contract_cases"
    if name not in sys.modules:
        path = Path(__file__).parents[1] / "contracts" / "cases.py"
        spec = importlib.util.spec_from_file_location(name, path)
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


cases = _load_cases()


def run(case, module: nn.Module, seeds: range) -> list[torch.Tensor]:
    results = []
    for seed in seeds:
        module.set_epoch(seed // 2)
        results += cases.step(case, module, case.batch(seed))
    return results


@pytest.mark.parametrize("case", cases.CASES, ids=str)
@pytest.mark.parametrize("stop", [0, 3])
def test_resumed_equals_uninterrupted(case, stop, tmp_path) -> None:
    straight = case.make()
    run(case, straight, range(stop))
    expected = run(case, straight, range(stop, 7))

    interrupted = case.make()
    run(case, interrupted, range(stop))
    torch.save(interrupted.state_dict(), tmp_path / "loss.pt")
    resumed = case.make()
    resumed.load_state_dict(torch.load(tmp_path / "loss.pt", weights_only=True))
    found = run(case, resumed, range(stop, 7))

    assert all(torch.equal(left, right) for left, right in zip(expected, found, strict=True))
    assert cases.same_state(straight.state_dict(), resumed.state_dict())


def test_a_tracker_with_the_previous_estimate_and_a_dual_resume() -> None:
    def make() -> nn.ModuleDict:
        return nn.ModuleDict(
            {
                "tracker": gs.Tracker(4, shape=(2,), gamma=0.25, gamma_prime=0.5),
                "dual": gs.Dual(4, lr=0.25, momentum=0.5, maximise=True, minimum=0.0, maximum=1.0),
            }
        )

    def run_pair(pair: nn.ModuleDict, seeds: range) -> torch.Tensor:
        outputs = []
        for seed in seeds:
            rng = torch.Generator().manual_seed(seed)
            index = torch.randint(4, (3,), generator=rng)
            estimate, before = torch.randn(2, 3, 2, generator=rng)
            average = pair["tracker"](estimate.requires_grad_(), index, before)
            y = pair["dual"].rows(index)
            pair["dual"].step(y * average.sum(-1))
            outputs.append(average.detach())
        return torch.cat(outputs)

    straight, resumed = make(), make()
    run_pair(straight, range(3))
    resumed.load_state_dict(straight.state_dict())
    assert torch.equal(run_pair(straight, range(3, 8)), run_pair(resumed, range(3, 8)))
    assert cases.same_state(straight.state_dict(), resumed.state_dict())


def test_memory_of_another_size_is_refused() -> None:
    with pytest.raises(RuntimeError, match=r"size mismatch for tracker.memory.values"):
        gs.KL(1.0, 5, gamma=0.5).load_state_dict(gs.KL(1.0, 4, gamma=0.5).state_dict())
