"""Zero-shot metrics and the class embeddings from prompts."""

import math

import pytest
import torch

from guidestar.errors import UserError
from guidestar.evaluation.pairs import class_embeddings, zero_shot


def test_written_out() -> None:
    # Class 2 does not occur; class 0 is right in 1 of 2, class 1 in 1 of 1.
    image = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]], dtype=torch.float64)
    classes = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
    found = zero_shot(image, classes, torch.tensor([0, 0, 1]), scale=2.0)
    first = math.log(math.exp(2) + 1 + math.exp(-2)) - 2
    others = math.log(math.exp(2) + 2)
    assert found["zero_shot_top1"] == pytest.approx(2 / 3)
    assert found["zero_shot_mean_class"] == pytest.approx(0.75)
    assert found["zero_shot_nll"] == pytest.approx((first + others + others - 2) / 3)
    assert "zero_shot_top5" not in found
    assert set(found) == {"zero_shot_top1", "zero_shot_mean_class", "zero_shot_ece", "zero_shot_nll"}


def test_top_five() -> None:
    image = torch.tensor([[1.0, 0.0]]).expand(7, 2)
    angles = torch.arange(7) * 0.3
    classes = torch.stack([angles.cos(), angles.sin()], dim=1)
    found = zero_shot(image, classes, torch.arange(7), scale=1.0)
    assert found["zero_shot_top1"] == pytest.approx(1 / 7)
    assert found["zero_shot_top5"] == pytest.approx(5 / 7)


def test_a_collapsed_model_scores_nothing() -> None:
    same = torch.nn.functional.normalize(torch.ones(1, 8), dim=1)
    found = zero_shot(same.expand(12, 8), same.expand(6, 8), torch.arange(12) % 6, scale=20.0)
    assert found["zero_shot_top1"] == found["zero_shot_top5"] == found["zero_shot_mean_class"] == 0
    assert found["zero_shot_nll"] == pytest.approx(math.log(6))


def test_the_scale_moves_the_calibration_only() -> None:
    image = torch.nn.functional.normalize(torch.randn(40, 8, dtype=torch.float64), dim=1)
    classes = torch.nn.functional.normalize(torch.randn(9, 8, dtype=torch.float64), dim=1)
    labels = torch.randint(0, 9, (40,))
    cold, hot = (zero_shot(image, classes, labels, scale) for scale in (1.0, 100.0))
    for name in ("zero_shot_top1", "zero_shot_top5", "zero_shot_mean_class"):
        assert cold[name] == hot[name]
    assert hot["zero_shot_ece"] > cold["zero_shot_ece"]


EYE = torch.eye(3)


@pytest.mark.parametrize(
    ("classes", "labels", "scale", "message"),
    [
        (EYE[:1], [0, 0, 0], 1.0, "`class_embeddings` must hold at least 2 classes, found 1"),
        (torch.eye(4), [0, 1, 2], 1.0, "`image` and `class_embeddings` must have the same width, found 3 and 4"),
        (EYE, [0, 1, 3], 1.0, "`labels` must be at least 0 and below 3, found 0 to 3"),
        (EYE, [0, 1, 2], 0.0, "`scale` must be a finite number above 0 .*found 0.0"),
        (EYE, [0, 1, 2], math.inf, "`scale` must be a finite number above 0 .*found inf"),
    ],
)
def test_bad_input(classes: torch.Tensor, labels: list[int], scale: float, message: str) -> None:
    with pytest.raises(UserError, match=message):
        zero_shot(EYE, classes, torch.tensor(labels), scale)


class Words:
    """A tokenizer of words; a row of a table is the word's embedding."""

    pad = 0
    words = ("", "a", "cat", "dog", "photo")

    def __call__(self, texts: list[str]) -> list[list[int]]:
        return [[self.words.index(word) for word in text.split()] for text in texts]


TABLE = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 1.0], [3.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 4.0]])


def encode(tokens: torch.Tensor) -> torch.Tensor:
    return TABLE[tokens].sum(dim=1)


def test_the_mean_of_unit_norm_prompts_renormalised() -> None:
    found = class_embeddings(encode, Words(), ["cat", "dog"], ["{}", "photo {}"])
    # "cat" is (1, 0, 0); "photo cat" is (3, 0, 4) / 5.
    cat = torch.tensor([1.6, 0.0, 0.8]) / math.hypot(1.6, 0.8)
    dog_prompt = torch.tensor([0.0, 2.0, 4.0]) / math.hypot(2, 4)
    dog = torch.nn.functional.normalize(torch.tensor([0.0, 1.0, 0.0]) + dog_prompt, dim=0)
    torch.testing.assert_close(found, torch.stack([cat, dog]))


def test_many_prompts_come_in_parts_and_keep_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["cat", "dog", "cat", "dog", "cat"]
    whole = class_embeddings(encode, Words(), names, ["{}", "a {}", "photo {}"])
    monkeypatch.setattr("guidestar.evaluation.pairs.prompts.PROMPTS_AT_ONCE", 4)
    torch.testing.assert_close(class_embeddings(encode, Words(), names, ["{}", "a {}", "photo {}"]), whole)


def test_no_gradient_is_kept() -> None:
    weight = torch.ones(3, requires_grad=True)
    assert not class_embeddings(lambda tokens: encode(tokens) * weight, Words(), ["cat"], ["{}"]).requires_grad


@pytest.mark.parametrize(
    ("names", "templates", "message"),
    [
        ([], ["{}"], r"`class_names` must hold at least one name and no empty one, found \[\]"),
        (["cat", " "], ["{}"], "`class_names` must hold at least one name and no empty one"),
        (["cat"], [], "`templates` must hold at least one prompt.*found none"),
        (["cat"], ["{}", "a photo"], r"`templates` .*each with `{}`.*found \['a photo'\]"),
    ],
)
def test_bad_names_and_templates(names: list[str], templates: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        class_embeddings(encode, Words(), names, templates)


def test_prompts_that_cancel() -> None:
    def opposite(tokens: torch.Tensor) -> torch.Tensor:
        return torch.tensor([[1.0], [-1.0]])[: len(tokens)]

    with pytest.raises(UserError, match="prompts that do not cancel; those of class 'cat'"):
        class_embeddings(opposite, Words(), ["cat"], ["{}", "{} "])
