"""Image-text retrieval: is the partner among the k nearest, both ways."""

from collections.abc import Sequence

import torch

from guidestar.errors import UserError
from guidestar.evaluation.pairs.checks import TIE, blocks, check_classes, check_embeddings, check_same_width


def retrieval(
    image: torch.Tensor, text: torch.Tensor, owner: torch.Tensor, ks: Sequence[int] = (1, 5, 10)
) -> dict[str, float]:
    """Recall at k, both ways.

    - `image_to_text_rK`: share of images where any caption of its own is among the K captions nearest to it.
    - `text_to_image_rK`: share of captions whose image is among the K images nearest to it.

    rank = #{others whose similarity is at least that of the best own one};  a hit is rank < K

    A tie counts against the model: with all embeddings equal nothing is found. It follows that of several images with
    the same caption none is found at K = 1. When there are no more candidates than K, the recall is 1 whatever the
    model does.

    Args:
        image: [n, d], unit norm.
        text: [m, d], unit norm.
        owner: [m], integers in [0, n): the image that each caption belongs to; every image has a caption.
        ks: the K, at least 1.

    Returns:
        A fraction for each direction and K.

    Raises:
        UserError: shapes, widths, owners or `ks` do not fit, an image has no caption, or a number is not finite.
        TypeError: the embeddings are not floating-point numbers or the owners are not integers.

    Example:
        >>> eye = torch.eye(3)
        >>> found = retrieval(eye, eye[[0, 0, 2]], torch.tensor([0, 1, 2]), ks=(1,))
        >>> {name: round(share, 3) for name, share in found.items()}
        {'image_to_text_r1': 0.333, 'text_to_image_r1': 0.667}
    """
    image, text = check_embeddings("image", image), check_embeddings("text", text)
    check_same_width("image", image, "text", text)
    owner = check_classes("owner", owner, len(text), len(image), image.device)
    if not ks or any(k < 1 for k in ks):
        raise UserError(f"`ks` must hold numbers of at least 1, found {list(ks)}.")
    alone = torch.bincount(owner, minlength=len(image)) == 0
    if bool(alone.any()):
        raise UserError(
            f"`owner` must name every image, found none for {int(alone.sum())} of {len(image)} (the first is image "
            f"{int(alone.nonzero()[0])}): leave out images without a caption."
        )
    captions, images = _caption_ranks(image, text, owner), _image_ranks(image, text, owner)
    recalls = {f"image_to_text_r{k}": float((captions < k).double().mean()) for k in ks}
    return recalls | {f"text_to_image_r{k}": float((images < k).double().mean()) for k in ks}


def _caption_ranks(image: torch.Tensor, text: torch.Tensor, owner: torch.Tensor) -> torch.Tensor:
    """For each image, how many captions of others are at least as near as its nearest own one: int64 [n]."""
    ranks = []
    for part in blocks(len(image), len(text)):
        similarity = image[part] @ text.T
        own = owner == torch.arange(part.start, part.stop, device=owner.device)[:, None]
        best = similarity.masked_fill(~own, -torch.inf).amax(dim=1, keepdim=True)
        ranks.append(((similarity >= best - TIE) & ~own).sum(dim=1))
    return torch.cat(ranks)


def _image_ranks(image: torch.Tensor, text: torch.Tensor, owner: torch.Tensor) -> torch.Tensor:
    """For each caption, how many other images are at least as near as its own: int64 [m]."""
    ranks = []
    for part in blocks(len(text), len(image)):
        similarity = text[part] @ image.T
        own = similarity.gather(1, owner[part, None])
        # The own image is at least as near as itself.
        ranks.append((similarity >= own - TIE).sum(dim=1) - 1)
    return torch.cat(ranks)
