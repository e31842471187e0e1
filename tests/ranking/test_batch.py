"""A batch of scores and 0/1 labels: what counts, how it is split, and what is refused."""

from __future__ import annotations

import pytest
import torch

from guidestar.ranking.batch import binary_batch

NAN = float("nan")


def batch(scores, labels, index=None, mask=None):
    return binary_batch(torch.as_tensor(scores), torch.as_tensor(labels), index, mask, learning=True)


@pytest.mark.parametrize(
    "dtype", [torch.bool, torch.uint8, torch.int32, torch.int64, torch.float16, torch.float32, torch.float64]
)
def test_labels_of_any_dtype(dtype) -> None:
    made = batch([0.1, 0.2, 0.3], torch.tensor([1, 0, 1]).to(dtype))
    assert made.positive.tolist() == [[True, False, True]]
    assert made.negative.tolist() == [[False, True, False]]
    assert made.learnable.tolist() == [True]
    assert made.rows is None
    split = made.split()
    torch.testing.assert_close(split.pos, torch.tensor([[0.1, 0.3]]))
    torch.testing.assert_close(split.neg, torch.tensor([[0.2]]))
    assert split.pos_mask is None
    assert split.neg_mask is None


def test_labels_are_padded_to_the_longest() -> None:
    scores = torch.arange(12.0).reshape(4, 3).requires_grad_()
    labels = torch.tensor([[1, 0, 1], [0, 1, 1], [0, 1, 1], [0, 0, 1]])
    made = batch(scores, labels, torch.tensor([5, 6, 7, 8]))
    assert made.learnable.tolist() == [True, True, False]
    split = made.split()
    assert split.pos.tolist() == [[0, 0, 0, 0], [4, 7, 4, 4], [0, 0, 0, 0]]  # scores of the third label do not count
    assert split.pos_mask.tolist() == [[True] + 3 * [False], [True, True, False, False], 4 * [True]]
    assert split.neg.tolist() == [[3, 6, 9], [1, 10, 1], [0, 0, 0]]
    assert split.neg_mask.tolist() == [3 * [True], [True, True, False], 3 * [False]]
    assert split.rows.tolist() == [[15, 0, 0, 0], [19, 22, 0, 0], [17, 20, 23, 26]]
    (split.pos.sum() + split.neg.sum()).backward()  # a pad has no gradient, the third label neither
    assert scores.grad.tolist() == [[1, 1, 0]] * 4


def test_nothing_is_padded_where_all_labels_have_as_many() -> None:
    split = batch(torch.randn(4, 2), torch.tensor([[1, 0], [0, 1], [1, 1], [0, 0]])).split()
    assert split.pos_mask is None
    assert split.neg_mask is None
    assert split.pos.shape == split.neg.shape == (2, 2)


def test_a_pad_can_not_overflow_where_the_scores_do_not() -> None:
    split = batch([[5000.0, 0.0], [4999.0, 1.0], [4998.0, 2.0]], [[1, 1], [0, 0], [0, 1]]).split()
    assert split.pos.tolist() == [[5000.0, 5000.0], [0.0, 2.0]]
    assert split.neg.tolist() == [[4999.0, 4998.0], [1.0, 1.0]]


def test_what_is_masked_or_has_no_label_does_not_count() -> None:
    scores = torch.tensor([1.0, NAN, 3.0, NAN], requires_grad=True)
    mask = torch.tensor([True, False, True, True])
    made = batch(scores, torch.tensor([1.0, 0.0, 0.0, NAN]), mask=mask)
    assert made.positive.tolist() == [[True, False, False, False]]
    assert made.negative.tolist() == [[False, False, True, False]]
    assert made.scores.tolist() == [[1, 0, 3, 0]]
    made.scores.square().sum().backward()
    assert scores.grad.tolist() == [2, 0, 6, 0]


def test_a_mask_of_samples_and_one_of_scores() -> None:
    scores, labels = torch.randn(3, 2), torch.tensor([[1, 0], [0, 1], [1, 1]])
    of_samples = batch(scores, labels, mask=torch.tensor([True, True, False]))
    of_scores = batch(scores, labels, mask=torch.tensor([[True, True], [True, True], [False, False]]))
    for made in (of_samples, of_scores):
        assert made.positive.tolist() == [[True, False, False], [False, True, False]]
    assert torch.equal(of_samples.scores, of_scores.scores)


def test_rows_of_memory() -> None:
    scores, labels = torch.randn(2, 3), torch.tensor([[1, 0, 1], [0, 1, 1]])
    assert batch(scores, labels, torch.tensor([4, 0])).rows.tolist() == [[12, 0], [13, 1], [14, 2]]
    assert batch(scores, labels, torch.tensor([[9, 8, 7], [3, 2, 1]])).rows.tolist() == [[9, 3], [8, 2], [7, 1]]
    assert batch(scores[:, 0], labels[:, 0], torch.tensor([4, 0])).rows.tolist() == [[4, 0]]


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0)])
def test_a_batch_of_nothing(shape) -> None:
    scores = torch.zeros(shape, requires_grad=True)
    made = batch(scores, torch.zeros(shape), torch.arange(shape[0]))
    split = made.split()
    assert split.pos.numel() == split.neg.numel() == 0
    value = made.mean_over_labels(split.mean_over_positives(split.pos))
    value.backward()
    assert value == 0
    assert scores.grad.shape == shape


def test_means_over_labels_and_positives() -> None:
    scores = torch.randn(4, 3, requires_grad=True)
    made = batch(scores, torch.tensor([[1, 1, 0], [1, 0, 0], [1, 0, 0], [0, 1, 0]]))
    split = made.split()
    by_label = split.mean_over_positives(split.pos)
    torch.testing.assert_close(by_label, torch.stack([scores[:3, 0].mean(), scores[[0, 3], 1].mean(), by_label[2]]))
    torch.testing.assert_close(made.mean_over_labels(torch.tensor([1.0, 3.0, NAN])), torch.tensor(2.0))


def test_a_nan_in_a_label_of_one_class_is_not_hidden() -> None:
    scores = torch.tensor([[0.5, 1.0], [0.2, NAN]])
    made = batch(scores, torch.tensor([[1, 0], [0, 0]]))
    assert made.mean_over_labels(torch.tensor([1.0, 0.0])).isnan()


def test_half_precision_becomes_float32_and_float64_stays() -> None:
    assert batch(torch.zeros(2, dtype=torch.float16), [0, 1]).scores.dtype == torch.float32
    assert batch(torch.zeros(2, dtype=torch.float64), [0, 1]).scores.dtype == torch.float64


@pytest.mark.parametrize("labels", [[-1, 1], [0.5, 1.0], [0, 2]])
def test_other_labels_are_refused(labels) -> None:
    found = {-1: "-1", 0.5: "0.5", 0: "2"}[labels[0]]
    with pytest.raises(ValueError, match=rf"`labels` must be 0 or 1 .* Found {found}\. .* pass \(labels > 0\)"):
        batch([0.0, 1.0], labels)
    masked = torch.tensor([value not in (0, 1) for value in labels])
    assert not batch([0.0, 1.0], labels, mask=~masked).learnable.any()  # whatever stands where nothing counts


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"scores": torch.zeros(3, 1, 1)}, ValueError, r"`scores` must be \[B\], or \[B, L\]"),
        ({"labels": torch.zeros(4)}, ValueError, r"`labels` must have the shape of `scores`, \(3,\). Found \(4,\)"),
        ({"labels": torch.zeros(3, 1)}, ValueError, "squeeze or unsqueeze"),
        ({"labels": [0, 1, 0]}, TypeError, "`labels` must be a tensor. Found list"),
        ({"index": torch.zeros(3)}, TypeError, "`index` must be an int64 tensor"),
        ({"index": torch.zeros(2, dtype=torch.int64)}, ValueError, r"`index` must have one row number .* Found \(2,\)"),
        ({"mask": torch.ones(3)}, TypeError, "`mask` must be a bool tensor"),
        ({"mask": torch.ones(2, dtype=torch.bool)}, ValueError, r"`mask` must have one entry .* Found \(2,\)"),
        ({"scores": torch.zeros(3, dtype=torch.int64)}, TypeError, "must be floating-point tensors. Found torch.int64"),
    ],
)
def test_what_does_not_fit_is_refused(change, error, message) -> None:
    fitting = {"scores": torch.zeros(3), "labels": torch.tensor([0, 1, 0])}
    with pytest.raises(error, match=message):
        binary_batch(**{**fitting, **change}, learning=True)


def test_labels_that_the_batch_does_not_know_are_not_counted_but_a_batch_of_nothing_is() -> None:
    nan = float("nan")
    labels = torch.tensor([[1.0, nan, 1.0], [0.0, nan, 1.0]])
    assert binary_batch(torch.zeros(2, 3), labels, learning=False).lacking().tolist() == [False, False, True]
    assert binary_batch(torch.zeros(2, 2), torch.full((2, 2), nan), learning=False).lacking().tolist() == [True, True]
    masked = binary_batch(torch.zeros(2, 3), labels, mask=torch.tensor([False, False]), learning=False)
    assert masked.lacking().tolist() == [True, True, True]
    assert binary_batch(torch.zeros(0), torch.zeros(0), learning=False).lacking().tolist() == [True]
