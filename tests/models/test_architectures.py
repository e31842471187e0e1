import pytest
import torch

from guidestar.errors import UserError
from guidestar.models import CNN, MLP, ResNet18, ViT


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


def test_mlp_is_linear_layers_with_relu():
    model = MLP((2, 3), 4, hidden=[5], dropout=0.5).double().eval()
    inputs = torch.randn(7, 2, 3, dtype=torch.float64)
    first, last = model.body[1], model.head
    hidden = (inputs.flatten(1) @ first.weight.T + first.bias).clamp(min=0)
    torch.testing.assert_close(model(inputs), hidden @ last.weight.T + last.bias, rtol=1e-12, atol=1e-12)
    assert count(MLP((6,), 4, hidden=[])) == 6 * 4 + 4


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (1, 8, 8), (1, 1, 1), (2, 5, 9)])
@pytest.mark.parametrize("build", [CNN, ResNet18])
def test_convolutional_models_take_any_size(build, shape):
    model = build(shape, 7, width=4).eval()
    assert model(torch.rand(2, *shape)).shape == (2, 7)


def test_sizes():
    assert 0.2e6 < count(CNN((3, 32, 32), 10)) < 0.5e6
    # The usual count of ResNet-18 with a 3 x 3 stem and ten classes.
    assert count(ResNet18((3, 32, 32), 10)) == 11_173_962


def test_vit():
    model = ViT((3, 8, 12), 5, patch=4, dim=16, depth=2, heads=4)
    assert model.positions.shape == (1, 6, 16)
    assert model(torch.rand(2, 3, 8, 12)).shape == (2, 5)


@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (lambda s: MLP(s, 3, hidden=[8]), (6,)),
        (lambda s: CNN(s, 3, width=4), (1, 8, 8)),
        (lambda s: ViT(s, 3, dim=16, depth=1, heads=2), (1, 8, 8)),
        (lambda s: ResNet18(s, 3, width=4), (1, 8, 8)),
    ],
)
def test_every_parameter_learns_and_rows_do_not_mix_in_eval_mode(build, shape):
    model = build(shape)
    inputs = torch.rand(4, *shape)
    model(inputs).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in model.parameters())
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(model(inputs)[1:2], model(inputs[1:2]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: MLP((3,), 2, hidden=[0]), "`hidden` must be a whole number of at least 1, found 0"),
        (lambda: MLP((3,), 2, hidden=32), r"`hidden` must be a list of widths such as \[128\], found 32"),
        (lambda: MLP((3,), 2, dropout=1.0), r"`dropout` must be in \[0, 1\), found 1.0"),
        (lambda: CNN((3,), 2), r"'cnn' needs images of shape \(C, H, W\), found inputs of shape \(3,\)"),
        (lambda: CNN((1, 8, 8), 2, width=0), "`width` must be a whole number of at least 1, found 0"),
        (lambda: CNN((1, 8, 8), 2, width="32"), "`width` .* found '32'"),
        (lambda: ResNet18((3,), 2), "'resnet18' needs images"),
        (lambda: ViT((3,), 2), "'vit' needs images"),
        (lambda: ViT((1, 9, 8), 2), "`patch` must divide the image size 9 x 8, found 4"),
        (lambda: ViT((1, 8, 8), 2, dim=10, heads=4), "`heads` must divide `dim` 10, found 4"),
    ],
)
def test_bad_options(build, message):
    with pytest.raises(UserError, match=message):
        build()
