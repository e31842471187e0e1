"""Two processes with half of the batch each do what one process does with all of it."""

from __future__ import annotations

import importlib.util
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import guidestar as gs
from guidestar import distributed


def _load_cases():
    name = "guidestar_contract_cases"
    if name not in sys.modules:
        path = Path(__file__).parents[1] / "contracts" / "cases.py"
        spec = importlib.util.spec_from_file_location(name, path)
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


cases = _load_cases()
every = pytest.mark.parametrize("case", cases.CASES, ids=str)


def steps(case, batches: list) -> tuple[list[Tensor], list[Tensor], dict[str, Tensor]]:
    """Outputs, gradients of their mean, and the state afterwards."""
    module, outputs, gradients = case.make(), [], []
    for batch in batches:
        values = batch.values.detach().double().requires_grad_()
        output = case.call(module, batch.with_values(values))
        gradients.append(torch.autograd.grad(output.mean(), values)[0])
        outputs.append(output.detach())
    return outputs, gradients, cases.state_of(module)


def compare(case, batches: list, halves: list[slice | Tensor], two_ranks) -> None:
    expected = steps(case, batches)
    found = two_ranks(lambda rank: steps(case, [batch.take(halves[rank]) for batch in batches]))
    for number in range(len(batches)):
        value, gradient = expected[0][number], expected[1][number]
        for rank in range(2):
            own = value[halves[rank]] if value.ndim else value
            torch.testing.assert_close(found[rank][0][number], own)
            torch.testing.assert_close(found[rank][1][number] / 2, gradient[halves[rank]])
    for state in (found[0][2], found[1][2]):
        for name, tensor in expected[2].items():
            # How many rows were empty is counted by each rank for its own rows.
            if not ((case.many_rows or case.pairs) and name.endswith("count")):
                torch.testing.assert_close(state[name], tensor)


def halves(case) -> list[slice]:
    middle = len(case.batch(0).values) // 2
    return [slice(0, middle), slice(middle, 2 * middle)]


@every
def test_two_ranks_equal_one(case, two_ranks) -> None:
    compare(case, [case.batch(seed) for seed in range(3)], halves(case), two_ranks)


@every
def test_two_ranks_equal_one_where_a_rank_has_nothing(case, two_ranks) -> None:
    batches = []
    for seed in range(3):
        batch = case.batch(seed)
        mask = case.mask(batch)
        mask[halves(case)[seed % 2]] = False
        mask[-1 if seed % 2 == 0 else 0] = torch.arange(mask.shape[-1]) > 1 if case.many_rows else False
        batches.append(batch.with_extra(mask=mask))
    compare(case, batches, halves(case), two_ranks)


@pytest.mark.parametrize("case", [case for case in cases.RISKS if "index" in case.batch(0).extra], ids=str)
def test_the_same_row_on_both_ranks_counts_with_the_mean(case, two_ranks) -> None:
    batches = []
    for seed in range(3):
        batch = case.batch(seed)
        index = batch.extra["index"].clone()
        index[2] = index[0]
        batches.append(batch.with_extra(index=index))
    compare(case, batches, halves(case), two_ranks)


def test_a_single_rank_may_evaluate_alone(two_ranks) -> None:
    def evaluate(rank: int) -> list[Tensor]:
        values = []
        for case in cases.CASES if rank == 0 else []:
            module, batch = case.make(), case.batch(0)
            with torch.no_grad():
                case.call(module, batch)
            module.eval()
            values.append(case.call(module, batch.with_extra(mask=case.mask(batch))).sum())
        return values

    assert len(two_ranks(evaluate)[0]) == len(cases.CASES)


def test_memory_survives_beside_a_model_in_ddp(two_ranks) -> None:
    # DDP broadcasts the buffers of what it wraps: a loss inside it would lose the rows of all ranks but the first.
    torch.manual_seed(0)
    inputs, index = torch.randn(4, 4, 3, dtype=torch.float64), torch.arange(8).reshape(2, 4)

    def train(rank: int | None) -> tuple[Tensor, Tensor, Tensor]:
        model = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5, affine=False).eval(), nn.Linear(5, 5)).double()
        with torch.no_grad():
            for number, parameter in enumerate(model.parameters()):
                parameter.copy_(torch.linspace(-1, 1, parameter.numel()).reshape(parameter.shape) + 0.1 * number)
        model[1].train(False)
        wrapped = model
        if rank is not None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                wrapped = nn.parallel.DistributedDataParallel(model)
        risk = gs.KL(0.5, 8, gamma=0.5)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        own = slice(None) if rank is None else slice(2 * rank, 2 * rank + 2)
        for step in range(4):
            optimizer.zero_grad()
            risk(wrapped(inputs[step, own]), index[step % 2, own]).mean().backward()
            optimizer.step()
        return risk.tracker.memory.values, model[0].weight.detach(), model[1].running_mean

    one = train(None)
    for rank_result in two_ranks(train):
        for left, right in zip(one, rank_result, strict=True):
            torch.testing.assert_close(left, right)
    assert torch.isfinite(one[0]).all()


def test_collectives(two_ranks) -> None:
    def talk(rank: int) -> dict[str, Tensor]:
        x = torch.tensor([1.0 + rank, 5.0], requires_grad=True)
        everything = distributed.gather_with_gradient(x)
        everything.square().sum().backward()
        y = torch.tensor(float(rank), requires_grad=True)
        mean = distributed.mean_value(y)
        mean.backward()
        return {
            "world": torch.tensor([distributed.world_size(), distributed.rank()]),
            "mean": distributed.mean(torch.tensor([2.0 * rank])),
            "log_mean_exp": distributed.log_mean_exp(torch.tensor(1000.0 * (1 - rank))),
            "gather": distributed.gather(torch.tensor([rank, rank + 10])),
            "flags": distributed.gather(torch.tensor([rank == 0])),
            "everything": everything.detach(),
            "slice": x.grad,
            "value": mean.detach(),
            "slope": y.grad,
        }

    for rank, found in enumerate(two_ranks(talk)):
        assert found["world"].tolist() == [2, rank]
        assert found["mean"].tolist() == [1.0]
        torch.testing.assert_close(found["log_mean_exp"], torch.tensor(1000.0 - 0.6931472))
        assert found["gather"].tolist() == [0, 10, 1, 11]
        assert found["flags"].tolist() == [True, False]
        assert found["everything"].tolist() == [1.0, 5.0, 2.0, 5.0]
        assert found["slice"].tolist() == [2 * 2 * (1.0 + rank), 2 * 2 * 5.0]
        assert found["value"] == 0.5
        assert found["slope"] == 1.0
