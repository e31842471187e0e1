import numpy as np
import pytest
import torch

from guidestar.data import label_noise, long_tail, split_rows, stratified_rows
from guidestar.errors import UserError


@pytest.mark.parametrize("share", [0.0, 0.1, 0.333, 1.0])
def test_noise_replaces_exactly_the_share_by_other_classes(share):
    labels = torch.arange(1000) % 7
    noisy = label_noise(labels, share, 7, seed=3)
    assert int((noisy != labels).sum()) == round(share * 1000)
    assert 0 <= int(noisy.min()) <= int(noisy.max()) < 7
    assert labels.tolist() == (torch.arange(1000) % 7).tolist()


def test_noise_is_uniform_over_the_other_classes():
    labels = torch.full((30_000,), 2)
    counts = label_noise(labels, 1.0, 4, seed=0).bincount(minlength=4).double()
    assert counts[2] == 0
    # Three classes with 10,000 expected each; the standard deviation is 82.
    assert ((counts[[0, 1, 3]] - 10_000).abs() < 4 * 82).all()


def test_choices_depend_on_the_seed_alone():
    labels = torch.arange(500) % 5
    state = np.random.get_state()[1].copy()
    for function in (
        lambda seed: label_noise(labels, 0.3, 5, seed),
        lambda seed: long_tail(labels, 10, 5, seed),
        lambda seed: stratified_rows(labels, 50, seed),
        lambda seed: split_rows(500, 0.2, seed)[1],
    ):
        torch.manual_seed(1)
        first = function(0)
        torch.manual_seed(2)
        assert torch.equal(first, function(0))
        assert not torch.equal(first, function(1))
    assert np.array_equal(state, np.random.get_state()[1])


def test_long_tail_has_the_sizes_of_the_formula():
    labels = torch.cat([torch.arange(4).repeat(200), torch.zeros(70, dtype=torch.int64)])
    rows = long_tail(labels, 50, 4, seed=0)
    wanted = [round(200 * 50 ** (-c / 3)) for c in range(4)]
    assert labels[rows].bincount().tolist() == wanted
    assert rows.tolist() == sorted(set(rows.tolist()))


def test_long_tail_keeps_at_least_one_row_and_everything_without_imbalance():
    labels = torch.arange(30) % 3
    assert labels[long_tail(labels, 1e6, 3, seed=0)].bincount().tolist()[2] == 1
    assert long_tail(labels, 1, 3, seed=0).tolist() == list(range(30))


def test_stratified_rows_keep_shares():
    labels = torch.tensor([0] * 50 + [1] * 30 + [2] * 20)
    rows = stratified_rows(labels, 20, seed=0)
    assert labels[rows].bincount().tolist() == [10, 6, 4]
    assert rows.tolist() == sorted(set(rows.tolist()))
    assert stratified_rows(labels, 100, seed=0).tolist() == list(range(100))
    odd = labels[stratified_rows(labels, 7, seed=0)].bincount(minlength=3)
    exact = torch.tensor([3.5, 2.1, 1.4])
    assert int(odd.sum()) == 7
    assert ((odd - exact).abs() < 1).all()


def test_parts_are_disjoint_and_complete():
    train, test = split_rows(101, 0.25, seed=0)
    assert len(test) == 25
    assert sorted(train.tolist() + test.tolist()) == list(range(101))
    assert [len(part) for part in split_rows(2, 0.01, seed=0)] == [1, 1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda labels: label_noise(labels, 1.2, 3, 0), r"`label_noise` must be in \[0, 1\], found 1.2"),
        (lambda labels: label_noise(labels, 0.2, 1, 0), "at least 2 classes, found 1"),
        (lambda labels: long_tail(labels, 0.5, 3, 0), "at least 1, found 0.5"),
        (lambda labels: long_tail(labels, float("nan"), 3, 0), "found nan"),
        (lambda labels: long_tail(labels, 10, 4, 0), "class 3 has none"),
        (lambda labels: stratified_rows(labels, 0, 0), "between 1 and the number of rows, 9; found 0"),
        (lambda labels: stratified_rows(labels, 10, 0), "found 10"),
        (lambda labels: split_rows(9, 1.0, 0), "found 1.0"),
        (lambda labels: split_rows(1, 0.5, 0), "at least 2 rows"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(UserError, match=message):
        call(torch.arange(9) % 3)
