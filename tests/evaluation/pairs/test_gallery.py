"""The gallery of retrievals."""

import base64
import io
import json

import pytest
import torch
from PIL import Image

from guidestar.errors import UserError
from guidestar.evaluation.pairs import build_gallery


def picture(row: int) -> Image.Image:
    return Image.new("RGB", (200, 100), (20 * row, 0, 0))


IMAGE = torch.eye(8)
TEXT = torch.eye(8)[torch.tensor([0, 1, 2, 3, 4, 5, 7, 6])]
OWNER = torch.arange(8)
CAPTIONS = [f"caption {row}" for row in range(8)]
KEYS = [f"key-{row}" for row in range(8)]


def test_contents() -> None:
    gallery = build_gallery(IMAGE, TEXT, OWNER, CAPTIONS, picture, KEYS, queries=8, found=3)
    assert json.loads(json.dumps(gallery)) == gallery
    assert len(gallery["text_to_image"]) == len(gallery["image_to_text"]) == 8
    for query in gallery["text_to_image"]:
        row = CAPTIONS.index(query["caption"])
        found = {6: 7, 7: 6}.get(row, row)
        assert query["found"][0]["key"] == KEYS[found]
        assert query["found"][0]["right"] is (row < 6)
        assert query["found"][0]["score"] == 1.0
        assert len(query["found"]) == 3
    for query in gallery["image_to_text"]:
        row = KEYS.index(query["key"])
        assert query["found"][0]["caption"] == CAPTIONS[{6: 7, 7: 6}.get(row, row)]
        assert query["found"][0]["right"] is (row < 6)


def test_pictures_are_small_jpegs_of_the_right_rows() -> None:
    gallery = build_gallery(IMAGE, TEXT, OWNER, CAPTIONS, picture, KEYS)
    for query in gallery["image_to_text"]:
        with Image.open(io.BytesIO(base64.b64decode(query["jpeg"], validate=True))) as image:
            assert (image.format, image.size) == ("JPEG", (96, 48))
            red = image.convert("RGB").getpixel((48, 24))
        assert isinstance(red, tuple)
        assert abs(red[0] - 20 * KEYS.index(query["key"])) < 6


def test_the_queries_depend_on_the_seed_alone() -> None:
    first = build_gallery(IMAGE, TEXT, OWNER, CAPTIONS, picture, KEYS, queries=4, seed=1)
    other_model = build_gallery(IMAGE.flip(0), TEXT, OWNER, CAPTIONS, picture, KEYS, queries=4, seed=1)
    asked = [[query["caption"] for query in gallery["text_to_image"]] for gallery in (first, other_model)]
    assert asked[0] == asked[1]
    assert len(set(asked[0])) == 4


def test_fewer_rows_than_asked_for() -> None:
    gallery = build_gallery(IMAGE[:2], TEXT[:2], OWNER[:2], CAPTIONS[:2], picture, KEYS[:2])
    assert [len(query["found"]) for query in gallery["text_to_image"]] == [2, 2]


def test_bad_input() -> None:
    with pytest.raises(UserError, match=r"`captions` must hold 8 .*`keys` 8 .*found 7 and 8"):
        build_gallery(IMAGE, TEXT, OWNER, CAPTIONS[:7], picture, KEYS)
    with pytest.raises(UserError, match="`queries` and `found` must be at least 1, found 0 and 5"):
        build_gallery(IMAGE, TEXT, OWNER, CAPTIONS, picture, KEYS, queries=0)
