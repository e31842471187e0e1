import copy
import math

import pytest
import torch
from torch.nn import functional

from guidestar.errors import UserError
from guidestar.models import load_weights, save_weights, weights_hash
from guidestar.models.pairs import DualEncoder, initialise_from, train_tokenizer

CAPTIONS = ["a red shoe", "a blue shirt, 3", "a shoe"]
VIT = {"image": "vit", "image_hidden": 16, "image_heads": 2}
TRANSFORMER = {"text": "transformer", "text_heads": 2}
KINDS = [{}, TRANSFORMER, VIT, VIT | TRANSFORMER]


@pytest.mark.parametrize("options", KINDS)
def test_unit_vectors_in_float32(make, tokenizer, options, padded):
    model = make(**options)
    image, text = model(torch.rand(3, 3, 16, 16), padded(tokenizer, CAPTIONS))
    for vectors in (image, text):
        assert vectors.shape == (3, 8)
        assert vectors.dtype == torch.float32
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3), rtol=1e-6, atol=0)


@pytest.mark.parametrize("options", KINDS)
def test_initial_weights_come_from_the_seed(make, options):
    hashes = [weights_hash(make(seed, **options)) for seed in (0, 0, 1)]
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.parametrize("options", KINDS)
def test_rows_and_padding_do_not_matter(make, tokenizer, options, padded):
    model = make(**options).eval().double()
    images, tokens = torch.rand(3, 3, 16, 16, dtype=torch.float64), padded(tokenizer, CAPTIONS)
    with torch.no_grad():
        image, text = model(images, tokens)
        wider = functional.pad(tokens, (0, tokenizer.length - tokens.shape[1]), value=tokenizer.pad)
        alone = [model(images[row : row + 1], torch.tensor(tokenizer(CAPTIONS[row : row + 1]))) for row in range(3)]
        torch.testing.assert_close(model.encode_text(wider), text, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(torch.cat([one for one, _ in alone]), image, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(torch.cat([one for _, one in alone]), text, rtol=1e-10, atol=1e-12)
    assert text.dtype == torch.float64


@pytest.mark.parametrize("options", KINDS)
def test_every_parameter_learns_and_recomputing_changes_no_gradient(make, tokenizer, options, padded):
    model = make(**options)
    again = copy.deepcopy(model)
    again.checkpoint_gradients()
    images, tokens = torch.rand(3, 3, 16, 16), padded(tokenizer, CAPTIONS)
    kept = []
    for one in (model, again):
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: (kept[-1].append(tensor.numel()), tensor)[1], _same
        ):
            kept.append([])
            image, text = one(images, tokens)
        (image @ text.T * one.scale()).diagonal().sub((image @ text.T).logsumexp(1)).sum().backward()
    assert sum(kept[1]) < sum(kept[0])
    for (name, parameter), other in zip(model.named_parameters(), again.parameters(), strict=True):
        if name != "bias" and "k_proj.bias" not in name:  # adding a constant to all keys changes no attention
            assert bool((parameter.grad != 0).any()), name
            torch.testing.assert_close(other.grad, parameter.grad, rtol=1e-5, atol=1e-8)
    assert model.bias.grad is None


def _same(tensor):
    return tensor


def test_embeddings_are_the_towers_formula(make, tokenizer, padded):
    model = make().double()
    images, tokens = torch.rand(2, 3, 16, 16, dtype=torch.float64), padded(tokenizer, ["a red shoe", "a shoe"])
    maps = (images - 0.5) / 0.25
    for stage in model.image_tower.stages:
        maps = functional.conv2d(maps, stage[0].weight, stride=2, padding=1)
        groups = maps.reshape(2, 8, -1)
        groups = (groups - groups.mean(2, keepdim=True)) / (groups.var(2, keepdim=True, correction=0) + 1e-5).sqrt()
        maps = groups.reshape(maps.shape).clamp(min=0)
    vectors = model.image_tower.projection(maps.mean((2, 3)))
    expected = vectors / vectors.norm(dim=1, keepdim=True)
    torch.testing.assert_close(model.encode_image(images), expected, rtol=1e-10, atol=1e-12)
    tower = model.text_tower
    means = torch.stack([tower.embedding.weight[row].mean(0) for row in tokenizer(["a red shoe", "a shoe"])])
    means = functional.layer_norm(means, (16,))
    vectors = tower.projection(means + tower.body(means))
    expected = vectors / vectors.norm(dim=1, keepdim=True)
    torch.testing.assert_close(model.encode_text(tokens), expected, rtol=1e-10, atol=1e-12)


def test_default_size_and_other_sizes(make):
    model = make(size=40, width=128, image_hidden=32, image_layers=4, text_hidden=128)
    assert 0.3e6 < sum(parameter.numel() for parameter in model.image_tower.parameters()) < 0.5e6
    images = torch.rand(1, 3, 60, 50)
    resized = functional.interpolate(images, (40, 40), mode="bilinear", antialias=True, align_corners=False)
    assert torch.equal(model.encode_image(images), model.encode_image(resized))


def test_a_zero_vector_stays_zero_with_a_finite_gradient(make, tokenizer, padded):
    model = make()
    torch.nn.init.zeros_(model.text_tower.projection.weight)
    torch.nn.init.zeros_(model.text_tower.projection.bias)
    text = model.encode_text(padded(tokenizer, CAPTIONS))
    assert torch.equal(text, torch.zeros(3, 8))
    text.sum().backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in model.text_tower.parameters())
    # A row of padding alone has no words.
    assert bool(torch.isfinite(model.encode_text(torch.full((1, 4), tokenizer.pad))).all())


def test_bf16_autocast_gives_float32_unit_vectors(make, tokenizer, padded):
    model = make().eval()
    images, tokens = torch.rand(3, 3, 16, 16), padded(tokenizer, CAPTIONS)
    with torch.no_grad():
        exact = model(images, tokens)
        with torch.autocast("cpu", torch.bfloat16):
            half = model(images, tokens)
    for one, other in zip(half, exact, strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one.norm(dim=1), torch.ones(3), rtol=1e-6, atol=0)
        torch.testing.assert_close(one, other, rtol=0, atol=0.03)


def test_tau(make):
    model = make().double()
    torch.testing.assert_close(model.tau().item(), 0.07, rtol=1e-7, atol=0)
    torch.testing.assert_close(model.scale().item(), 1 / 0.07, rtol=1e-7, atol=0)
    (gradient,) = torch.autograd.grad(model.tau(), model.log_scale)
    torch.testing.assert_close(gradient.item(), -0.07, rtol=1e-7, atol=0)
    with torch.no_grad():
        model.log_scale.fill_(math.log(1000.0))
    torch.testing.assert_close(model.tau().item(), 0.01, rtol=1e-12, atol=0)
    # Not zero: a loss that wants a larger tau can have it.
    (gradient,) = torch.autograd.grad(model.tau(), model.log_scale)
    torch.testing.assert_close(gradient.item(), -0.01, rtol=1e-12, atol=0)
    model.clamp_scale()
    torch.testing.assert_close(model.log_scale.item(), math.log(100.0), rtol=1e-12, atol=0)


def test_fixed_tau_and_siglip_start(make):
    model = make()
    model.fix_tau(0.05)
    assert not model.log_scale.requires_grad
    torch.testing.assert_close(model.tau().item(), 0.05)
    model.init_siglip()
    assert model.log_scale.requires_grad
    assert model.bias.requires_grad
    assert model.bias.item() == -10
    torch.testing.assert_close(model.scale().item(), 10.0)
    with torch.no_grad():
        model.bias.fill_(-7)
    model.init_siglip()
    assert model.bias.item() == -7
    for tau in (0.001, float("nan"), 0.0):
        with pytest.raises(UserError, match=r"`tau` must be finite and at least 0.01, found"):
            model.fix_tau(tau)


@pytest.mark.parametrize("tower", ["image", "text"])
def test_frozen_towers(make, tokenizer, tower, padded):
    model = make()
    model.freeze(tower)
    model.train()
    frozen = model.get_submodule(f"{tower}_tower")
    assert not any(module.training for module in frozen.modules())
    assert model.training
    image, text = model(torch.rand(3, 3, 16, 16), padded(tokenizer, CAPTIONS))
    assert (image if tower == "image" else text).grad_fn is None
    (image * text).sum().backward()
    learns = {name.split(".")[0] for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert learns == {"image_tower", "text_tower"} - {f"{tower}_tower"}
    with pytest.raises(UserError, match="`freeze` must be image or text, found 'both'"):
        model.freeze("both")


def test_initialising_takes_what_fits(make):
    small, large = make(0), make(1, text_hidden=32)
    before = {name: tensor.clone() for name, tensor in large.state_dict().items()}
    with torch.no_grad():
        small.log_scale.fill_(3.0)
    taken = initialise_from(large, small.state_dict())
    own = large.state_dict()
    assert {name for name in own if name.startswith("image_tower.")} < set(taken)
    assert {name for name in taken if name.startswith("text_tower.")} == {"text_tower.projection.bias"}
    for name, tensor in own.items():
        assert torch.equal(tensor, small.state_dict()[name] if name in taken else before[name]), name
    assert large.log_scale.item() == 3.0


def test_initialising_keeps_a_fixed_temperature(make):
    model, other = make(0), make(1)
    model.fix_tau(0.05)
    other.init_siglip()
    taken = initialise_from(model, other.state_dict())
    assert not {"log_scale", "bias"} & set(taken)
    torch.testing.assert_close(model.tau().item(), 0.05)
    assert model.bias.item() == 0


def test_initialising_leaves_words_of_another_tokenizer(make):
    other = make(1, other=train_tokenizer(["a red bag", "a green bag"] * 9, vocabulary=275, length=10))
    model = make(0)
    taken = initialise_from(model, other.state_dict())
    assert not any(name.startswith("text_tower.") for name in taken)
    assert "tokenizer_hash" not in taken
    with pytest.raises(UserError, match="`initialise_from` found nothing of the same name and shape"):
        initialise_from(model, make(image="vit", image_heads=2, other=other.tokenizer, size=8).state_dict())


def test_weights_on_disk(make, tmp_path):
    model, other = make(0), make(1)
    save_weights(model, tmp_path / "model.safetensors")
    load_weights(other, tmp_path / "model.safetensors")
    assert weights_hash(other) == weights_hash(model)


def test_weights_of_another_tokenizer_are_refused(make, tmp_path):
    words = train_tokenizer(["a red shoe"] * 3 + ["green bag"], vocabulary=265, length=10)
    swapped = train_tokenizer(["a red bag"] * 3 + ["green shoe"], vocabulary=265, length=10)
    assert words.vocabulary == swapped.vocabulary
    model = make(other=swapped)
    save_weights(make(other=words), tmp_path / "model.safetensors")
    before = weights_hash(model)
    with pytest.raises(
        UserError, match=r"were trained with another tokenizer: its fingerprint begins with [0-9a-f]{12},"
    ):
        load_weights(model, tmp_path / "model.safetensors")
    assert weights_hash(model) == before


def test_bad_inputs(make):
    model = make()
    for images in (torch.rand(3, 16, 16), torch.rand(1, 1, 16, 16), torch.zeros(1, 3, 16, 16, dtype=torch.uint8)):
        with pytest.raises(UserError, match=r"`images` must be floating-point numbers \[B, 3, S, S\]"):
            model.encode_image(images)
    for tokens in (torch.zeros(3, dtype=torch.int64), torch.zeros(1, 11, dtype=torch.int64), torch.zeros(1, 4)):
        with pytest.raises(UserError, match=r"`tokens` must be whole numbers \[B, T\] with T from 1 to 10"):
            model.encode_text(tokens)


def test_bad_statistics(make):
    model = make()
    towers = {"tokenizer": model.tokenizer, "size": 16, "width": 8}
    with pytest.raises(UserError, match="`mean` must be three finite numbers"):
        DualEncoder(model.image_tower, model.text_tower, mean=(0.5,), **towers)
    with pytest.raises(UserError, match="`std` must be positive"):
        DualEncoder(model.image_tower, model.text_tower, std=(0.5, 0.0, 1.0), **towers)
