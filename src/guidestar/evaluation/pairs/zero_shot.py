"""Zero-shot classification: the nearest class name wins."""

import math

import torch

from guidestar.errors import UserError
from guidestar.evaluation.metrics import classification_metrics
from guidestar.evaluation.pairs.checks import TIE, check_classes, check_embeddings, check_same_width


def zero_shot(
    image: torch.Tensor, class_embeddings: torch.Tensor, labels: torch.Tensor, scale: float
) -> dict[str, float]:
    """Metrics of the classifier whose logits are scale * <image, class>.

    - `zero_shot_top1`, `zero_shot_top5`: share of images whose class is the nearest, or among the five nearest; a tie
      counts against the model. `zero_shot_top5` is left out with five classes or fewer, where it is always 1.
    - `zero_shot_mean_class`: mean of top-1 within each class, over the classes that occur in `labels`.
    - `zero_shot_ece`, `zero_shot_nll`: calibration error and negative log-likelihood of softmax(scale * similarity).

    Args:
        image: [n, d], unit norm.
        class_embeddings: [C, d], unit norm; C at least 2.
        labels: [n], integers in [0, C).
        scale: 1/tau of the model, above 0; only the last two depend on it.

    Returns:
        Fractions (0.9 is 90 %), but for `zero_shot_nll`, which is in nats.

    Raises:
        UserError: shapes, widths, labels or the scale do not fit, or a number is not finite.
        TypeError: the embeddings are not floating-point numbers or the labels are not integers.

    Example:
        >>> found = zero_shot(torch.eye(3), torch.eye(3), torch.tensor([0, 1, 1]), 10.0)
        >>> round(found["zero_shot_top1"], 3), found["zero_shot_mean_class"], "zero_shot_top5" in found
        (0.667, 0.75, False)
    """
    image = check_embeddings("image", image)
    classes = check_embeddings("class_embeddings", class_embeddings).to(image.device)
    check_same_width("image", image, "class_embeddings", classes)
    count = len(classes)
    if count < 2:
        raise UserError(f"`class_embeddings` must hold at least 2 classes, found {count}.")
    labels = check_classes("labels", labels, len(image), count, image.device)
    if not (math.isfinite(scale) and scale > 0):
        raise UserError(f"`scale` must be a finite number above 0 (1/tau), found {scale}.")
    similarity = image @ classes.to(image.dtype).T
    # The own class is at least as near as itself.
    ranks = (similarity >= similarity.gather(1, labels[:, None]) - TIE).sum(dim=1) - 1
    softmax = classification_metrics(scale * similarity, labels)
    # On the CPU, where sums by class have a fixed order.
    ranks, labels = ranks.cpu(), labels.cpu()
    right = (ranks < 1).double()
    rows = torch.bincount(labels, minlength=count)
    recalls = torch.bincount(labels, weights=right, minlength=count) / rows
    metrics = {"zero_shot_top1": float(right.mean())}
    if count > 5:
        metrics["zero_shot_top5"] = float((ranks < 5).double().mean())
    metrics["zero_shot_mean_class"] = float(recalls[rows > 0].mean())
    return metrics | {"zero_shot_ece": softmax["ece"], "zero_shot_nll": softmax["nll"]}
