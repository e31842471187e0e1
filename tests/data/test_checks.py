import numpy as np
import pytest
import torch

from guidestar.data.checks import check_finite, check_labels, choose_class_names
from guidestar.errors import UserError


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.uint64, np.float32, np.float64])
def test_labels_of_any_numeric_type_become_int64(dtype):
    checked = check_labels(np.array([3, 0, 1], dtype=dtype))
    assert checked.dtype == torch.int64
    assert checked.tolist() == [3, 0, 1]


def test_one_column_of_labels_is_flattened():
    assert check_labels(torch.tensor([[2], [1]])).tolist() == [2, 1]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, -1], r"must not be negative; found -1 in row 2"),
        ([0, 5, 1], r"must be in 0 \.\. 2; found 5 in row 1"),
        ([0.0, float("nan")], r"must be finite; found nan in row 1"),
        ([0.0, float("inf")], r"must be finite; found inf in row 1"),
        ([0.0, 1.5], r"must be a whole number; found 1\.5 in row 1"),
        (np.array(["cat", "dog"]), r"must be whole numbers .* type <U3"),
        (np.eye(3), r"shape \[3, 3\].*argmax"),
    ],
)
def test_bad_labels_are_named(labels, message):
    with pytest.raises(UserError, match=message):
        check_labels(labels, num_classes=3)


def test_row_names_replace_row_numbers():
    with pytest.raises(UserError, match="row 17 "):
        check_labels([0, 9], num_classes=3, rows=["4", "17"])


def test_first_row_that_is_not_finite_is_named():
    inputs = torch.zeros(9000, 2)
    inputs[8500, 1] = float("nan")
    inputs[8600, 0] = float("inf")
    with pytest.raises(UserError, match="found nan in row 8500"):
        check_finite(inputs)


def test_class_names_come_from_the_user_then_the_other_split_then_the_labels():
    labels = torch.tensor([0, 1])
    assert choose_class_names(labels, ["a", "b", "c"], ["x", "y"]) == ["a", "b", "c"]
    assert choose_class_names(labels, None, ["x", "y", "z"]) == ["x", "y", "z"]
    assert choose_class_names(torch.tensor([2, 0, 1]), None, None) == ["0", "1", "2"]
    assert choose_class_names(torch.tensor([3]), ["a", "b", "c", "d"]) == ["a", "b", "c", "d"]
    assert choose_class_names(torch.zeros(0, dtype=torch.int64)) == []


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            [0, 1, 0, 255, 1, 255],
            r"row 3 \(.*\) has label 255, but classes 2 to 254 have no training row; .* 0 to C - 1",
        ),
        ([0, 3, 1], "row 1 .* has label 3, but class 2 has no training row"),
        ([1, 2, 3], "row 0 .* has label 1, but class 0 has no training row"),
        ([0, 2, 9, 3], r"row 1 .* has label 2, but class 1 has no training row; .*`class_names`\."),
        ([0, 20231], "row 1 .* has label 20231, but classes 1 to 20230 have"),
        ([0, 10**15], "has label 1000000000000000, but"),
    ],
)
def test_gaps_between_training_labels_are_errors(labels, message):
    with pytest.raises(UserError, match=message):
        choose_class_names(torch.tensor(labels))


def test_labels_beyond_the_other_split_or_the_given_names_are_errors():
    with pytest.raises(UserError, match=r"^y: row 8 .* has label 4, but the classes of the training data are 0 to 1"):
        choose_class_names(torch.tensor([0, 4]), None, ["0", "1"], what="y", rows=["5", "8"])
    with pytest.raises(UserError, match=r"row 1 .* has label 2, but the classes of the training data are 0 to 1"):
        choose_class_names(torch.tensor([0, 2]), None, ["x", "y"])
    with pytest.raises(UserError, match=r"0 \.\. 1; found 2 in row 1"):
        choose_class_names(torch.tensor([0, 2]), ["a", "b"], ["x", "y", "z"])
