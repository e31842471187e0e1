"""PerSampleState, Counter, Epoch, and the helpers beside them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import guidestar as gs
from guidestar.state import UNSEEN, Counter, Epoch, PerSampleState, expand, math_dtype, merge_duplicates, read_only


def test_rows_are_written_and_read_by_index() -> None:
    memory = PerSampleState(5, (2,), fill=0.0)
    memory.write(torch.tensor([4, 1]), torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    assert memory.read(torch.tensor([[1, 0], [4, 4]])).tolist() == [[[3, 4], [0, 0]], [[1, 2], [1, 2]]]
    assert len(memory) == 5
    assert memory.values.dtype == torch.float32


def test_a_read_is_a_copy() -> None:
    memory = PerSampleState(2, fill=0.0)
    memory.read(torch.tensor([0])).fill_(7.0)
    assert memory.values.tolist() == [0.0, 0.0]


def test_what_was_never_written_is_unseen() -> None:
    memory = PerSampleState(3)
    memory.write(torch.tensor([1]), torch.tensor([0.0]))
    assert memory.seen().tolist() == [False, True, False]
    assert memory.values[0] == UNSEEN
    wide = PerSampleState(2, (3,))
    wide.write(torch.tensor([0]), torch.zeros(1, 3))
    assert wide.seen().tolist() == [True, False]


@pytest.mark.parametrize("active", [[True, False, True], [False, False, True], [False, False, False], [True] * 3])
def test_inactive_entries_are_not_written(active) -> None:
    memory = PerSampleState(4, (2,), fill=-1.0)
    index, values = torch.tensor([2, 0, 3]), torch.arange(6.0).reshape(3, 2)
    memory.write(index, values, torch.tensor(active))
    expected = torch.full((4, 2), -1.0)
    for position, flag in enumerate(active):
        if flag:
            expected[index[position]] = values[position]
    assert torch.equal(memory.values, expected)


def test_an_inactive_entry_does_not_disturb_an_active_one_of_the_same_row() -> None:
    memory = PerSampleState(2, fill=0.0)
    memory.write(torch.tensor([1, 1]), torch.tensor([5.0, 9.0]), torch.tensor([False, True]))
    assert memory.values.tolist() == [0.0, 9.0]


def test_nothing_to_write() -> None:
    memory = PerSampleState(2, fill=0.0)
    memory.write(torch.tensor([], dtype=torch.int64), torch.tensor([]))
    memory.write(torch.tensor([], dtype=torch.int64), torch.tensor([]), torch.tensor([], dtype=torch.bool))
    assert memory.values.tolist() == [0.0, 0.0]


def test_casts() -> None:
    memory = PerSampleState(2, fill=0.1)
    memory.write(torch.tensor([0]), torch.tensor([1 / 3]))
    before = memory.values.clone()
    for cast in (memory.half, memory.bfloat16, lambda: memory.to(torch.bfloat16), memory.float):
        cast()
        assert torch.equal(memory.values, before)
        assert memory.values.dtype == torch.float32
    memory.double()
    assert memory.values.dtype == torch.float64
    assert torch.equal(memory.values, before.double())
    memory.half()
    assert torch.equal(memory.values, before)


def test_small_steps_are_not_lost() -> None:
    # In bfloat16 an average of 1 that moves by 0.001 a step stays 1 for ever.
    tracker = gs.Tracker(gamma=0.001).to(torch.bfloat16)
    tracker(torch.tensor(1.0))
    for _ in range(1000):
        tracker(torch.tensor(2.0, dtype=torch.bfloat16))
    assert float(tracker.memory.values) == pytest.approx(2 - 0.999**1000, rel=1e-4)


def test_state_dict_holds_exactly_the_rows() -> None:
    assert {name: tuple(value.shape) for name, value in PerSampleState(7, (2,)).state_dict().items()} == {
        "values": (7, 2)
    }


def test_the_buffer_survives_a_copy_and_a_move() -> None:
    memory = PerSampleState(2, fill=0.0)
    twin = copy.deepcopy(memory)
    twin.write(torch.tensor([0]), torch.tensor([3.0]))
    assert memory.values.tolist() == [0.0, 0.0]
    twin.to("meta")
    assert twin.values.is_meta
    twin.to_empty(device="cpu")
    assert twin.values.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool, torch.uint8])
def test_an_index_must_be_whole_numbers(dtype) -> None:
    with pytest.raises(TypeError, match=r"`index` must be an int64 tensor of row numbers. Found dtype"):
        PerSampleState(3).read(torch.ones(2, dtype=dtype))


@pytest.mark.parametrize("bad", [-1, 3])
def test_an_index_must_be_in_range(bad) -> None:
    memory = PerSampleState(3)
    with pytest.raises(IndexError, match=rf"`index` must lie in \[0, 3\).*Found {bad}.*`num_rows`"):
        memory.read(torch.tensor([0, bad]))
    with pytest.raises(IndexError, match=f"Found {bad}"):
        memory.write(torch.tensor([0, bad]), torch.zeros(2))


def test_there_must_be_a_row() -> None:
    with pytest.raises(ValueError, match=r"`num_rows` must be at least 1. Found 0"):
        PerSampleState(0)


def test_reset_and_set_epoch_reach_everything_in_any_module() -> None:
    inner = nn.Sequential(gs.KL(1.0, gamma=gs.schedules.Cosine(0.5, 4)), nn.ModuleList([gs.CVaR(0.5), nn.Linear(1, 1)]))
    inner[0](torch.ones(3))
    inner[1][0](torch.ones(3))
    inner[0](torch.ones(0))
    gs.set_epoch(inner, 2)
    assert int(inner[0].tracker.epoch.number) == 2
    gs.reset(inner)
    fresh = nn.Sequential(gs.KL(1.0, gamma=gs.schedules.Cosine(0.5, 4)), nn.ModuleList([gs.CVaR(0.5)]))
    state = inner.state_dict()
    for name, value in fresh.state_dict().items():
        assert torch.equal(state[name], value)
    with pytest.raises(ValueError, match="`epoch` must be 0 or more"):
        gs.set_epoch(inner, -1)


def test_read_only_is_undone_even_after_an_error() -> None:
    memory, counter = PerSampleState(1, fill=0.0), Counter()
    both = nn.ModuleList([memory, counter])

    def fail() -> None:
        with read_only(both):
            memory.write(torch.tensor([0]), torch.tensor([1.0]))
            counter.add(torch.tensor([True]))
            raise KeyError("stop")

    with pytest.raises(KeyError):
        fail()
    assert memory.values.tolist() == [0.0]
    assert int(counter.count) == 0
    memory.write(torch.tensor([0]), torch.tensor([1.0]))
    assert memory.values.tolist() == [1.0]
    with read_only(both), read_only(memory):
        pass
    assert memory.writable


def test_counts_and_epochs_come_back_from_the_meta_device_as_new() -> None:
    pair = nn.ModuleList([Epoch(), Counter()])
    pair[1].add(torch.tensor([True, True]))
    pair.to("meta")
    pair.to_empty(device="cpu")
    assert [int(value) for value in pair.buffers()] == [0, 0]
    pair[1].add(torch.tensor([True]))
    pair.half()
    assert int(pair[1].count) == 1


@pytest.mark.parametrize("log_space", [False, True])
@pytest.mark.parametrize("shape", [(), (2,), (2, 3)])
def test_duplicates_are_merged_into_their_mean(log_space, shape) -> None:
    index = torch.tensor([4, 1, 4, 0, 1, 4])
    values = torch.randn(6, *shape, dtype=torch.float64) * 3
    merged = merge_duplicates(index, values, log_space=log_space)
    for position, row in enumerate(index):
        own = values[index == row]
        expected = own.exp().mean(0).log() if log_space else own.mean(0)
        torch.testing.assert_close(merged[position], expected)


def test_merging_in_log_space_does_not_overflow() -> None:
    values = torch.tensor([1e4, 1e4 + 1, -1e4, -1e4])
    merged = merge_duplicates(torch.tensor([0, 0, 1, 1]), values, log_space=True)
    torch.testing.assert_close(merged, torch.tensor([10000.6201, 10000.6201, -1e4, -1e4]))


def test_math_dtype() -> None:
    assert math_dtype(torch.zeros(1, dtype=torch.float64)) == torch.float64
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        assert math_dtype(torch.zeros(1, dtype=dtype)) == torch.float32
    with pytest.raises(TypeError, match=r"must be floating-point tensors. Found torch.int64"):
        math_dtype(torch.zeros(1, dtype=torch.int64))
    with pytest.raises(TypeError, match="Found list"):
        math_dtype([1.0])  # type: ignore[arg-type]


def test_expand() -> None:
    assert expand(torch.ones(2), torch.ones(2, 3, 4)).shape == (2, 1, 1)
    assert expand(torch.tensor(True), torch.tensor(1.0)).shape == ()


def test_what_is_read_is_a_copy_whatever_the_index():
    memory = PerSampleState(3, fill=1.0)
    read = [memory.read(index) for index in (None, torch.tensor(0), torch.tensor([0]))]
    memory.write(torch.tensor(0), torch.tensor(5.0))
    assert [float(values.sum()) for values in read] == [1.0, 1.0, 1.0]
    assert memory.values.tolist() == [5.0, 1.0, 1.0]
