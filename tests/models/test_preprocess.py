import pytest
import torch
from torch import nn
from torch.nn import functional

from guidestar.errors import UserError
from guidestar.models import Preprocess


def test_normalises_channels_and_columns():
    images = torch.rand(2, 3, 4, 5)
    mean, std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([1.0, 2.0, 4.0])
    out = Preprocess(nn.Identity(), mean, std.tolist())(images)
    expected = torch.stack([(images[:, c] - mean[c]) / std[c] for c in range(3)], dim=1)
    torch.testing.assert_close(out, expected)
    assert Preprocess(nn.Identity(), 1.0, 2.0)(torch.tensor([[3.0, 5.0]])).tolist() == [[1.0, 2.0]]
    assert torch.equal(Preprocess(nn.Identity())(images), images)


def test_resizes_images_of_another_size_only():
    images = torch.rand(2, 1, 16, 16)
    out = Preprocess(nn.Identity(), size=8)(images)
    expected = functional.interpolate(images, (8, 8), mode="bilinear", antialias=True, align_corners=False)
    assert torch.equal(out, expected)
    assert torch.equal(Preprocess(nn.Identity(), size=(16, 16))(images), images)
    assert Preprocess(nn.Identity(), size=[4, 6])(images).shape == (2, 1, 4, 6)


def test_statistics_are_saved_with_the_weights_and_are_not_trained():
    model = Preprocess(nn.Linear(2, 1), [1.0, 2.0], [3.0, 4.0])
    assert sorted(model.state_dict()) == ["mean", "model.bias", "model.weight", "std"]
    assert len(list(model.parameters())) == 2
    other = Preprocess(nn.Linear(2, 1), [0.0, 0.0], [1.0, 1.0])
    other.load_state_dict(model.state_dict())
    assert other.mean.tolist() == [1.0, 2.0]


def test_the_given_tensor_is_copied():
    mean = torch.tensor([1.0])
    model = Preprocess(nn.Identity(), mean)
    mean += 1
    assert model.mean.tolist() == [1.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"std": [1.0, 0.0]}, r"`std` must be positive, found \[1.0, 0.0\]"),
        ({"mean": [float("nan")]}, "`mean` must be one or more finite numbers"),
        ({"mean": []}, "`mean` must be one or more"),
        ({"mean": [0.0] * 3, "std": [1.0] * 2}, "same length, found 3 and 2"),
        ({"size": 0}, "`size` must be a positive whole number"),
        ({"size": [1, 2, 3]}, r"`size` .* found \[1, 2, 3\]"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(UserError, match=message):
        Preprocess(nn.Identity(), **options)


def test_inputs_that_do_not_fit():
    with pytest.raises(UserError, match="`mean` must have one number a channel or column, 2; found 3"):
        Preprocess(nn.Identity(), [0.0] * 3)(torch.zeros(1, 2))
    with pytest.raises(UserError, match=r"`size` is for images .* \[1, 2\]"):
        Preprocess(nn.Identity(), size=8)(torch.zeros(1, 2))
