"""Metrics of groups."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from guidestar.errors import UserError
from guidestar.evaluation import per_group, worst_group

RIGHT, GROUPS = [1, 0, 1, 1, 0, 1], [2, 2, 2, 0, 4, 4]


@pytest.mark.parametrize("make", [list, np.array, torch.tensor], ids=["list", "numpy", "torch"])
def test_means_sizes_and_groups_that_are_absent(make) -> None:
    found = per_group(make(RIGHT), make(GROUPS), 6)
    assert found == {
        "mean": {0: 1.0, 2: 2 / 3, 4: 0.5},
        "size": {0: 1, 1: 0, 2: 3, 3: 0, 4: 2, 5: 0},
        "absent": [1, 3, 5],
    }
    json.dumps(found)  # plain numbers


def test_without_a_number_of_groups_it_is_that_of_the_largest() -> None:
    assert per_group(RIGHT, GROUPS)["absent"] == [1, 3]


def test_an_absent_group_is_not_the_worst() -> None:
    found = worst_group(RIGHT, GROUPS, 6)
    average = pytest.approx((1.0 + 2 / 3 + 0.5) / 3)
    assert found == {"group": 4, "value": 0.5, "size": 2, "average": average, "absent": [1, 3, 5]}


def test_of_losses_the_largest_is_the_worst() -> None:
    found = worst_group(torch.tensor([1.0, 3.0, 0.5], dtype=torch.bfloat16), [0, 1, 2], higher_is_better=False)
    assert (found["group"], found["value"]) == (1, 3.0)


@pytest.mark.parametrize("higher", [True, False])
def test_a_nan_stays_in_its_group_and_is_the_worst(higher) -> None:
    values = [0.0, float("nan"), 1.0, 2.0]
    assert per_group(values, [0, 1, 1, 2])["mean"][2] == 2.0
    found = worst_group(values, [0, 1, 1, 2], higher_is_better=higher)
    assert found["group"] == 1
    assert math.isnan(found["value"])


def test_one_group_and_bool_values() -> None:
    assert worst_group(torch.tensor([True, False]), torch.tensor([0, 0]))["value"] == 0.5


def test_errors() -> None:
    with pytest.raises(UserError, match=r"`groups` must be in \[0, 2\), found 4: check `num_groups`"):
        per_group(RIGHT, GROUPS, 2)
    with pytest.raises(UserError, match=r"`groups` must be 0 or more, found -1"):
        per_group([1.0], [-1])
    with pytest.raises(UserError, match=r"`values` and `groups` must both have shape \[n\], found \[2\] and \[1\]"):
        per_group([1.0, 2.0], [0])
    with pytest.raises(UserError, match=r"must hold at least one sample, found none"):
        worst_group(np.zeros(0), np.zeros(0, dtype=int))
    with pytest.raises(TypeError, match=r"`groups` must be whole numbers, found float64"):
        per_group([1.0], [0.5])
