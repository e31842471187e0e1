"""Which part of a picture is taken."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from guidestar.data.pairs.framing import Framing


@pytest.fixture
def ramp():
    """A picture whose red grows to the right and whose green grows downwards."""
    rows, columns = np.mgrid[0:40, 0:80]
    return Image.fromarray(np.stack([columns, rows, 0 * rows], axis=2).astype(np.uint8))


def test_the_middle(ramp):
    framing = Framing(40, "center", flip=False)
    taken = framing.take(ramp, framing.box(80, 40, np.zeros(4)), mirrored=True)
    assert np.array_equal(taken, np.asarray(ramp)[:, 20:60])
    assert Framing(8, "center", flip=False).box(3, 7, np.zeros(4)) == (0, 2, 3, 5)


def test_all_of_it(ramp):
    framing = Framing(20, "squash", flip=True)
    taken = framing.take(ramp, framing.box(80, 40, np.zeros(4)), mirrored=False)
    assert taken.shape == (20, 20, 3)
    assert taken[10, 0, 0] < 5
    assert taken[10, -1, 0] > 75
    mirrored = framing.take(ramp, framing.box(80, 40, np.zeros(4)), mirrored=True)
    assert np.array_equal(mirrored, taken[:, ::-1])


@pytest.mark.parametrize("size", [(80, 40), (40, 80), (64, 64), (300, 2), (1, 1)])
def test_random_parts(size):
    framing = Framing(16, "random", flip=False, scale=(0.3, 0.9))
    draws = np.random.default_rng(0).random((500, 4))
    boxes = np.array([framing.box(*size, row) for row in draws])
    across, down = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2] <= size[0] + 1e-9).all()
    assert (boxes[:, 3] <= size[1] + 1e-9).all()
    whole = (across < size[0] - 1e-9) & (down < size[1] - 1e-9)  # not cut at an edge of the picture
    area = (across * down)[whole] / (size[0] * size[1])
    ratio = (across / down)[whole]
    assert ((area > 0.3 - 1e-9) & (area < 0.9 + 1e-9)).all()
    assert ((ratio > 3 / 4 - 1e-9) & (ratio < 4 / 3 + 1e-9)).all()
    if size == (64, 64):
        assert whole.mean() > 0.7
        assert abs(area.mean() - 0.57) < 0.05
        free = whole & (across < 50)
        assert boxes[free, 0].max() > 20  # it moves over the whole width


def test_a_random_part_is_what_its_box_says(ramp):
    framing = Framing(10, "random", flip=False)
    taken = framing.take(ramp, (20.0, 10.0, 60.0, 30.0), mirrored=False).astype(float)
    # The middle of output pixel (i, j) is at 20 + 4 (j + 1/2) and 10 + 2 (i + 1/2); pixel k has its middle at k + 1/2.
    assert np.abs(taken[:, 1:-1, 0] - (20 + 4 * (np.arange(1, 9) + 0.5) - 0.5)).max() <= 1
    assert np.abs(taken[1:-1, :, 1] - (10 + 2 * (np.arange(1, 9) + 0.5) - 0.5)[:, None]).max() <= 1
