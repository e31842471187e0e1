import pytest
import torch
from torch.nn import functional

from guidestar.data import flip_crop
from guidestar.errors import UserError


def by_loops(images, generator):
    """The same, one image at a time."""
    batch, _, height, width = images.shape
    padding = min(height, width) // 8
    top, left = torch.randint(0, 2 * padding + 1, (2, batch), generator=generator)
    mirrored = torch.rand(batch, generator=generator) < 0.5
    padded = functional.pad(images, (padding,) * 4, mode="reflect")
    results = []
    for k in range(batch):
        window = padded[k, :, top[k] : top[k] + height, left[k] : left[k] + width]
        results.append(window.flip(-1) if mirrored[k] else window)
    return torch.stack(results)


@pytest.mark.parametrize("shape", [(16, 3, 32, 32), (9, 1, 28, 20), (5, 2, 8, 16)])
def test_equals_the_loop(shape):
    images = torch.rand(shape, dtype=torch.float64)
    fast = flip_crop(images, torch.Generator().manual_seed(5))
    assert torch.equal(fast, by_loops(images, torch.Generator().manual_seed(5)))
    assert fast.is_contiguous()


def test_small_images_are_only_mirrored():
    images = torch.rand(50, 1, 4, 4)
    out = flip_crop(images, torch.Generator().manual_seed(0))
    same = (out == images).flatten(1).all(1)
    mirrored = (out == images.flip(-1)).flatten(1).all(1)
    assert (same | mirrored).all()
    assert 10 < int(same.sum()) < 40


def test_only_the_given_generator_is_used():
    images = torch.rand(8, 3, 16, 16)
    before = torch.get_rng_state()
    flip_crop(images, torch.Generator().manual_seed(0))
    assert torch.equal(before, torch.get_rng_state())


def test_tables_are_refused():
    with pytest.raises(UserError, match=r"found shape \[4, 7\]"):
        flip_crop(torch.zeros(4, 7), torch.Generator())
