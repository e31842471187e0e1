"""FeatureDistillationLoss: squared distances to the teacher's features."""

from __future__ import annotations

import pytest
import torch
from written_out import features, same_value_and_gradients

from guidestar.losses import FeatureDistillationLoss

MASK = [True, True, True, False, True]


@pytest.mark.parametrize("mask", [None, MASK], ids=["", "mask"])
def test_equals_the_sum_of_squares(mask) -> None:
    image, text, *_ = features(0)
    other_image, other_text = (each.detach() for each in features(1)[:2])
    found = FeatureDistillationLoss()(
        image,
        text,
        reference_image=other_image,
        reference_text=other_text,
        mask=None if mask is None else torch.tensor(mask),
    )
    valid = [i for i in range(5) if mask is None or mask[i]]
    expected = sum(
        ((image[i] - other_image[i]) ** 2).sum() + ((text[i] - other_text[i]) ** 2).sum() for i in valid
    ) / len(valid)
    same_value_and_gradients(found, expected, [image, text])


def test_another_width_is_met_by_a_map_that_learns() -> None:
    image, text, *reference = features(2)
    loss = FeatureDistillationLoss(3, 4).double()
    found = loss(image, text, reference_image=reference[0], reference_text=reference[1])
    one, other = loss.image_map.weight, loss.text_map.weight
    assert one.shape == other.shape == (4, 3)
    expected = (
        sum(
            ((one @ image[i] - reference[0][i]) ** 2).sum() + ((other @ text[i] - reference[1][i]) ** 2).sum()
            for i in range(5)
        )
        / 5
    )
    same_value_and_gradients(found, expected, [image, text, one, other])


def test_equal_widths_need_no_map() -> None:
    assert not list(FeatureDistillationLoss(3, 3).parameters())
    assert not list(FeatureDistillationLoss().parameters())


def test_all_rows_masked() -> None:
    image, text, *_ = features(3)
    loss = FeatureDistillationLoss()
    value = loss(image, text, reference_image=image, reference_text=-text, mask=torch.zeros(5, dtype=torch.bool))
    assert value == 0
    value.backward()
    assert not text.grad.any()
    assert loss.metrics()["empty"] == 5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: FeatureDistillationLoss(3), "`width` and `reference_width` go together. Found 3 and None"),
        (lambda x: FeatureDistillationLoss()(x, x), "`reference_image` and `reference_text` are needed"),
        (
            lambda x: FeatureDistillationLoss()(x, x, reference_image=x[:, :1], reference_text=x[:, :1]),
            "features of width 2 cannot be compared with the reference's of width 1",
        ),
        (lambda x: FeatureDistillationLoss()(x, x, reference_image=x), "`reference_text` is missing beside"),
    ],
)
def test_errors(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call(torch.ones(4, 2))
