"""Recall at k against loops, ties and several captions an image."""

import pytest
import torch

from guidestar.errors import UserError
from guidestar.evaluation.pairs import checks, retrieval


def unit(rows: int, width: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(rows, width, generator=generator, dtype=torch.float64), dim=1)


def by_loops(image: torch.Tensor, text: torch.Tensor, owner: list[int], k: int) -> tuple[float, float]:
    captions_found = images_found = 0
    for row in range(len(image)):
        order = sorted(range(len(text)), key=lambda column: -float(image[row] @ text[column]))
        captions_found += any(owner[column] == row for column in order[:k])
    for column in range(len(text)):
        order = sorted(range(len(image)), key=lambda row: -float(image[row] @ text[column]))
        images_found += owner[column] in order[:k]
    return captions_found / len(image), images_found / len(text)


def test_written_out() -> None:
    # Similarities: image 0 to the captions .8, .6, 0; image 1 .6, .8, 1; caption 1 of image 0 is nearer to image 1.
    image = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    text = torch.tensor([[0.8, 0.6], [0.6, 0.8], [0.0, 1.0]])
    found = retrieval(image, text, torch.tensor([0, 0, 1]), ks=(1, 2))
    assert found == {
        "image_to_text_r1": 1.0,
        "image_to_text_r2": 1.0,
        "text_to_image_r1": pytest.approx(2 / 3),
        "text_to_image_r2": 1.0,
    }


@pytest.mark.parametrize("k", [1, 3, 10])
def test_equals_loops_with_several_captions_in_any_order(k: int) -> None:
    image, text = unit(12, 5, 0), unit(40, 5, 1)
    owner = torch.cat([torch.arange(12), torch.randint(0, 12, (28,))])[torch.randperm(40)]
    found = retrieval(image, text, owner, ks=(k,))
    expected = by_loops(image, text, owner.tolist(), k)
    assert (found[f"image_to_text_r{k}"], found[f"text_to_image_r{k}"]) == pytest.approx(expected)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    image, text, owner = unit(30, 6, 2), unit(60, 6, 3), torch.arange(60) % 30
    whole = retrieval(image, text, owner)
    monkeypatch.setattr(checks, "BLOCK", 70)
    assert retrieval(image, text, owner) == whole


def test_a_collapsed_model_finds_nothing() -> None:
    same = unit(1, 16, 4).float()
    noise = 1e-8 * torch.randn(50, 16)
    found = retrieval(same + noise, same + noise.flip(0), torch.arange(50))
    assert set(found.values()) == {0.0}


def test_several_own_captions_that_tie_are_no_competition() -> None:
    image = torch.eye(2)
    text = image[[0, 0, 1, 1]]
    assert retrieval(image, text, torch.tensor([0, 0, 1, 1]), ks=(1,)) == {
        "image_to_text_r1": 1.0,
        "text_to_image_r1": 1.0,
    }


def test_half_precision_is_widened() -> None:
    image = torch.eye(3, dtype=torch.float16)
    assert retrieval(image, image, torch.arange(3), ks=(1,))["image_to_text_r1"] == 1.0


EYE, ROWS = torch.eye(3), torch.arange(3)


@pytest.mark.parametrize(
    ("image", "text", "owner", "ks", "message"),
    [
        (EYE[0], EYE, ROWS, (1,), r"`image` must be \[rows, width\].*found \[3\]"),
        (EYE[:0], EYE, ROWS, (1,), r"`image` must be \[rows, width\].*found \[0, 3\]"),
        (EYE, torch.eye(4)[:3], ROWS, (1,), "`image` and `text` must have the same width, found 3 and 4"),
        (EYE, EYE, ROWS[:2], (1,), r"`owner` must be \[3\], one for each row, found \[2\]"),
        (EYE, EYE, torch.tensor([0, 1, 3]), (1,), "`owner` must be at least 0 and below 3, found 0 to 3"),
        (EYE, EYE, torch.tensor([0, 1, 1]), (1,), "`owner` must name every image, found none for 1 of 3 .*image 2"),
        (EYE, EYE, ROWS, (0,), r"`ks` must hold numbers of at least 1, found \[0\]"),
        (EYE, EYE * torch.nan, ROWS, (1,), "`text` must be finite, found NaN .* 3 of 3 rows"),
    ],
)
def test_bad_input(image: torch.Tensor, text: torch.Tensor, owner: torch.Tensor, ks: tuple[int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        retrieval(image, text, owner, ks)


def test_wrong_types() -> None:
    with pytest.raises(TypeError, match=r"`image` must be floating-point numbers, found torch\.int64"):
        retrieval(ROWS[:, None], EYE, ROWS)
    with pytest.raises(TypeError, match=r"`owner` must be integers, found torch\.float32"):
        retrieval(EYE, EYE, ROWS.float())
