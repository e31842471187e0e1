"""What all batch samplers share: seeds, epochs, resuming anywhere, ranks, loaders."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from guidestar.samplers import DualSampler, GroupSampler, Indexed, QuerySampler, TaskIndexed, TriSampler
from guidestar.samplers.position import PositionedSampler

LABELS = np.array([1] * 7 + [0] * 41)
TASKS = (np.random.default_rng(1).random((48, 9)) < 0.3).astype(float)
GROUPS = np.random.default_rng(2).integers(0, 7, 48)
QUERIES = np.repeat(np.arange(12), 4)
RELEVANCE = np.tile([2, 0, 1, 0], 12)

MAKERS: dict[str, Callable[..., PositionedSampler]] = {
    "dual": lambda **options: DualSampler(LABELS, 8, 0.5, **options),
    "tri": lambda **options: TriSampler(TASKS, 3, 4, 0.34, **{"steps": 7, **options}),
    "group": lambda **options: GroupSampler(GROUPS, 4, 5, **{"steps": 7, **options}),
    "query": lambda **options: QuerySampler(QUERIES, RELEVANCE, 4, 1, 2, **options),
}
makers = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


@makers
def test_batches_depend_on_the_seed_alone(make: Callable[..., PositionedSampler]) -> None:
    np.random.seed(0)
    torch.manual_seed(0)
    before = np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # pyright: ignore
    first = [list(make(seed=5)) for _ in range(2)]
    assert (np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before  # pyright: ignore
    assert first[0] == first[1]
    assert first[0] != list(make(seed=6))


@makers
def test_each_pass_is_the_next_epoch(make: Callable[..., PositionedSampler]) -> None:
    sampler = make()
    epochs = [list(sampler) for _ in range(3)]
    assert all(len(epoch) == len(sampler) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    for number in (1, 0, 2):
        sampler.set_epoch(number)
        assert list(sampler) == epochs[number]
    sampler.set_epoch(1)
    next(iter(sampler))  # a pass that was left is over too
    assert list(sampler) == epochs[2]


@makers
def test_resumes_at_every_position(make: Callable[..., PositionedSampler]) -> None:
    straight = make()
    expected = [batch for _ in range(3) for batch in straight]
    length = len(straight)
    for position in range(2 * length + 1):
        running = make()
        drawn: list[Any] = []
        while len(drawn) < position:
            for batch in running:
                drawn.append(batch)
                if len(drawn) == position:
                    break
        state = running.state_dict()
        fresh = make()
        fresh.load_state_dict(state)
        rest = [batch for _ in range(3 - state["epoch"]) for batch in fresh]
        assert drawn + rest == expected
        fresh.load_state_dict(state)
        fresh.set_epoch(state["epoch"])  # what a training loop does at the head of each epoch
        assert list(fresh) == expected[position : (position // length + 1) * length]


@makers
def test_position_may_be_named(make: Callable[..., PositionedSampler]) -> None:
    sampler, batches = make(), list(make())
    data = TaskIndexed(range(48)) if isinstance(sampler, TriSampler) else Indexed(range(48))
    next(iter(DataLoader(data, batch_sampler=sampler, num_workers=1)))
    assert sampler.step > 1  # the worker's queue is ahead of what came out
    fresh = make()
    fresh.load_state_dict(sampler.state_dict(step=1))
    assert list(fresh) == batches[1:]
    with pytest.raises(ValueError, match="`step` must be at most"):
        sampler.state_dict(step=len(sampler) + 1)


@makers
@pytest.mark.parametrize("world", [2, 4])
def test_ranks_divide_each_global_batch(make: Callable[..., PositionedSampler], world: int) -> None:
    whole = make(rank=0, world=1)
    ranks = [make(rank=rank, world=world) for rank in range(world)]
    for batch, *shares in zip(whole, *ranks, strict=True):
        assert {len(share) for share in shares} == {len(batch) // world} == {ranks[0].batch_size}
        assert sorted(row for share in shares for row in share) == sorted(batch)
    ranks[1].load_state_dict(whole.state_dict())  # one state for all ranks, however many there are
    assert next(iter(ranks[1]))


def test_ranks_of_a_dual_sampler_have_the_same_rate() -> None:
    for rank in range(4):
        for batch in DualSampler(LABELS, 8, 0.5, rank=rank, world=4):
            assert LABELS[batch].tolist() == [1, 0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DualSampler(LABELS, 8, 0.5, rank=0, world=3), "A batch has 4 positives, which can't be divided evenly "
         "over 3 ranks. 3 or 6 positives would work"),
        (lambda: DualSampler(LABELS, 9, 0.34, rank=0, world=2), "3 positives.*2 or 4 positives would work"),
        (lambda: DualSampler(LABELS, 8, 0.1, rank=0, world=2), "1 positives.*2 positives would work"),
        (lambda: GroupSampler(GROUPS, 3, 2, rank=0, world=2), "3 groups"),
        (lambda: TriSampler(TASKS, 2, 3, 0.5, rank=0, world=2), "3 tasks"),
        (lambda: QuerySampler(QUERIES, RELEVANCE, 3, 1, 1, rank=0, world=2), "3 queries"),
        (lambda: DualSampler(LABELS, 8, 0.5, rank=2, world=2), "`rank` must lie in 0 ... 1 with `world` = 2, found 2"),
        (lambda: DualSampler(LABELS, 8, 0.5, rank=-1, world=2), "`rank` must be at least 0"),
        (lambda: DualSampler(LABELS, 8, 0.5, world=0), "`world` must be at least 1"),
        (lambda: DualSampler(LABELS, 8, 0.5, seed=-1), "`seed` must be at least 0"),
        (lambda: DualSampler(LABELS, 8, 0.5).set_epoch(-1), "`epoch` must be at least 0"),
    ],
)  # fmt: skip
def test_settings_that_do_not_work(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@makers
def test_a_state_of_another_sampler_is_refused(make: Callable[..., PositionedSampler]) -> None:
    with pytest.raises(ValueError, match="`state` belongs to another sampler: its seed is 1, here it is 0"):
        make().load_state_dict(make(seed=1).state_dict())
    other = DualSampler([1] * 7 + [0] * 40, 8, 0.5)
    with pytest.raises(ValueError, match="belongs to another sampler"):
        make().load_state_dict(other.state_dict())
    with pytest.raises(ValueError, match=r"`state` stands at batch 99, but an epoch has \d+ batches"):
        make().load_state_dict(make().state_dict() | {"step": 99})


@pytest.mark.parametrize(
    "make",
    [
        lambda flip: DualSampler(flip(LABELS), 8, 0.5),
        lambda flip: TriSampler(flip(TASKS), 2, 2, 0.5),
        lambda flip: GroupSampler(flip(GROUPS), 2, 2),
        lambda flip: QuerySampler(flip(QUERIES), flip(RELEVANCE), 2, 1, 1),
    ],
)
def test_a_state_of_the_same_rows_in_another_order_is_refused(make: Callable[[Any], PositionedSampler]) -> None:
    state = make(lambda values: values).state_dict()
    make(lambda values: values).load_state_dict(state)
    with pytest.raises(ValueError, match="its checksum of"):
        make(lambda values: values[::-1]).load_state_dict(state)


@pytest.mark.parametrize("workers", [0, 2])
def test_through_a_loader(workers: int) -> None:
    values = torch.arange(48.0)
    sampler = DualSampler(LABELS, 8, 0.5, seed=3)
    loader = DataLoader(Indexed(TensorDataset(values)), batch_sampler=sampler, num_workers=workers)
    expected = list(DualSampler(LABELS, 8, 0.5, seed=3))
    assert len(loader) == len(expected)
    for (x, index), rows in zip(loader, expected, strict=True):
        assert index.dtype == torch.int64
        assert index.tolist() == rows
        assert torch.equal(x, values[index])


def test_tasks_through_a_loader() -> None:
    sampler = TriSampler(TASKS, 3, 4, 0.34)
    data = TaskIndexed(TensorDataset(torch.from_numpy(TASKS)))
    assert len(data) == 48
    for labels, index, task in DataLoader(data, batch_sampler=sampler):
        assert index.dtype == task.dtype == torch.int64
        assert labels.shape == (12, 9)
        assert labels[torch.arange(12), task].view(4, 3).tolist() == [[1, 0, 0]] * 4
    with pytest.raises(TypeError, match="`dataset` must be map-style"):
        TaskIndexed(x for x in range(3))


def test_accelerate_prepares_a_loader() -> None:
    accelerate = pytest.importorskip("accelerate")
    sampler = DualSampler(LABELS, 8, 0.5, rank=0, world=1)
    loader = accelerate.Accelerator(cpu=True).prepare(DataLoader(Indexed(range(48)), batch_sampler=sampler))
    epochs = [[index.tolist() for _, index in loader] for _ in range(2)]
    assert epochs[0] == list(DualSampler(LABELS, 8, 0.5))
    assert epochs[0] != epochs[1]
    shard = accelerate.data_loader.BatchSamplerShard(sampler, num_processes=2, process_index=1)
    sampler.set_epoch(0)
    assert list(shard) == epochs[0][1::2]
