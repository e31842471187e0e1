"""`Indexed` gives each sample its row number, whatever the shuffling."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from guidestar.samplers import Indexed


def test_samples_end_with_their_row() -> None:
    assert Indexed([("a", 0), ["b", 1]])[1] == ("b", 1, 1)
    assert Indexed(["a", "b"])[0] == ("a", 0)
    assert Indexed([{"x": 1}])[0] == ({"x": 1}, 0)
    assert len(Indexed([1, 2, 3])) == 3


def test_a_row_counted_from_the_end_is_the_row_itself() -> None:
    assert Indexed([10, 20, 30])[-1] == (30, 2)
    with pytest.raises(IndexError):
        Indexed([10])[3]


def test_through_a_shuffling_loader() -> None:
    values = torch.arange(20.0)
    loader = DataLoader(Indexed(TensorDataset(values, values * 2)), batch_size=6, shuffle=True)
    rows = []
    for first, second, index in loader:
        assert torch.equal(first, values[index])
        assert torch.equal(second, 2 * values[index])
        assert index.dtype == torch.int64
        rows += index.tolist()
    assert sorted(rows) == list(range(20))
    assert rows != list(range(20))


def test_a_stream_has_no_rows() -> None:
    with pytest.raises(TypeError, match=r"`dataset` must be map-style.*Found generator"):
        Indexed(x for x in range(3))
