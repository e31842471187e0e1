"""A few retrievals to look at: for some captions the nearest images, for some images the nearest captions."""

import base64
import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from guidestar.errors import UserError
from guidestar.evaluation.pairs.checks import check_classes, check_embeddings, check_same_width

if TYPE_CHECKING:
    from PIL import Image

# Longer side of a thumbnail, in pixels.
THUMBNAIL = 96


def build_gallery(
    image: torch.Tensor,
    text: torch.Tensor,
    owner: torch.Tensor,
    captions: Sequence[str],
    picture: Callable[[int], "Image.Image"],
    keys: Sequence[str],
    queries: int = 6,
    found: int = 5,
    seed: int = 0,
) -> dict[str, list[dict[str, Any]]]:
    """What a model finds for a few queries that are drawn from the seed alone, so that models can be compared.

    Args:
        image: [n, d], unit norm.
        text: [m, d], unit norm.
        owner: [m], integers in [0, n): the image that each caption belongs to.
        captions: m captions, in the order of `text`.
        picture: the picture of a row in [0, n).
        keys: n names, in the order of `image`.
        queries: how many captions and how many images are looked up; all if there are fewer.
        found: how many of the nearest are listed; all if there are fewer.
        seed: of the choice of queries.

    Returns:
        `text_to_image`: `caption` and `found`, a list of `key`, `jpeg` (base64), `right` and `score`, nearest first;
        `image_to_text`: `key`, `jpeg` and `found`, a list of `caption`, `right` and `score`.

    Raises:
        UserError: shapes, widths, owners or lengths do not fit, `queries` or `found` is below 1, or a number is not
            finite.
        TypeError: embeddings are not floating-point numbers or owners are not integers.

    Example:
        >>> from PIL import Image
        >>> eye, draw = torch.eye(2), lambda row: Image.new("RGB", (8, 8))
        >>> gallery = build_gallery(eye, eye, torch.arange(2), ["a cat", "a dog"], draw, ["a", "b"], found=1)
        >>> [query["found"][0]["right"] for query in gallery["text_to_image"]]
        [True, True]
    """
    image, text, owner = _checked(image, text, owner, captions, keys)
    if queries < 1 or found < 1:
        raise UserError(f"`queries` and `found` must be at least 1, found {queries} and {found}.")
    generator = torch.Generator().manual_seed(seed)
    asked_captions = torch.randperm(len(text), generator=generator)[:queries].tolist()
    asked_images = torch.randperm(len(image), generator=generator)[:queries].tolist()

    def shown(row: int) -> dict[str, Any]:
        return {"key": str(keys[row]), "jpeg": _jpeg(picture(row))}

    def images(query: int) -> list[dict[str, Any]]:
        nearest = _nearest(text[query], image, found)
        return [{**shown(row), "right": row == int(owner[query]), "score": score} for row, score in nearest]

    def texts(query: int) -> list[dict[str, Any]]:
        nearest = _nearest(image[query], text, found)
        return [{"caption": captions[row], "right": int(owner[row]) == query, "score": score} for row, score in nearest]

    return {
        "text_to_image": [{"caption": captions[query], "found": images(query)} for query in asked_captions],
        "image_to_text": [{**shown(query), "found": texts(query)} for query in asked_images],
    }


def _checked(
    image: torch.Tensor, text: torch.Tensor, owner: torch.Tensor, captions: Sequence[str], keys: Sequence[str]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    image = check_embeddings("image", image)
    text = check_embeddings("text", text).to(image.device, image.dtype)
    check_same_width("image", image, "text", text)
    if len(captions) != len(text) or len(keys) != len(image):
        raise UserError(
            f"`captions` must hold {len(text)} (as `text`) and `keys` {len(image)} (as `image`), found {len(captions)} "
            f"and {len(keys)}."
        )
    return image, text, check_classes("owner", owner, len(text), len(image), image.device)


def _nearest(query: torch.Tensor, candidates: torch.Tensor, found: int) -> list[tuple[int, float]]:
    scores, rows = (candidates @ query).topk(min(found, len(candidates)))
    return list(zip(rows.tolist(), scores.tolist(), strict=True))


def _jpeg(picture: "Image.Image") -> str:
    from PIL import Image

    small = picture.convert("RGB")
    small.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, format="JPEG", quality=85)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
