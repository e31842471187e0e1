"""Metrics of a classifier, computed by torchmetrics where it has them.

Shapes: n samples, C classes.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import nn

from guidestar.errors import UserError
from guidestar.modes import evaluating

CALIBRATION_BINS = 15


def classification_metrics(logits: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """Accuracy, balanced accuracy, negative log-likelihood and calibration error of a set of logits.

    - `accuracy`: share of samples whose largest logit is the label's.
    - `balanced_accuracy`: mean over the classes that occur in `labels` of the share that is right within the class.
    - `nll`: mean of -log softmax(logits)[label], in nats.
    - `ece`: sum over 15 equal bins of the largest probability of
      (samples in bin / n) * |share right in bin - mean largest probability in bin|.

    All are fractions (0.9 is 90 %) except `nll`.

    Args:
        logits: [n, C], any floating dtype; the maths is done in float64.
        labels: [n], integers in [0, C).

    Returns:
        A dictionary with the four numbers.

    Raises:
        UserError: there are no samples, fewer than two classes, a label is out of range, or a logit is NaN or +inf.
        TypeError: the logits are not floating-point numbers or the labels are not integers.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[2.0, 0.0], [0.0, 2.0], [2.0, 0.0], [2.0, 0.0]])
        >>> metrics = classification_metrics(logits, torch.tensor([0, 1, 0, 1]))
        >>> metrics["accuracy"], metrics["balanced_accuracy"]
        (0.75, 0.75)
        >>> round(metrics["nll"], 4)
        0.6269
    """
    from torchmetrics.functional.classification import multiclass_accuracy, multiclass_calibration_error

    logits, labels = _checked(logits, labels)
    log_probabilities = logits.log_softmax(dim=1)
    classes = logits.shape[1]
    recalls = per_class_accuracy(logits, labels)
    # torchmetrics takes numbers that all lie in [0, 1] for probabilities, so it gets probabilities and never logits.
    calibration = multiclass_calibration_error(
        log_probabilities.exp(), labels, num_classes=classes, n_bins=CALIBRATION_BINS, norm="l1"
    )
    return {
        "accuracy": float(multiclass_accuracy(logits, labels, num_classes=classes, average="micro")),
        "balanced_accuracy": float(recalls[~recalls.isnan()].mean()),
        "nll": float(nn.functional.nll_loss(log_probabilities, labels)),
        "ece": float(calibration),
    }


def per_class_accuracy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The share of samples that is right within each class (its recall).

    Args:
        logits: [n, C], any floating dtype.
        labels: [n], integers in [0, C).

    Returns:
        float64 [C]; NaN for a class that does not occur in `labels`.

    Raises:
        UserError: as in `classification_metrics`.
        TypeError: as in `classification_metrics`.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 2.0, 0.0], [2.0, 0.0, 0.0]])
        >>> per_class_accuracy(logits, torch.tensor([0, 0, 0])).tolist()
        [0.6666666666666666, nan, nan]
    """
    logits, labels = _checked(logits, labels)
    classes = logits.shape[1]
    # torchmetrics' macro recall counts a class that was predicted but never occurs as 0; here it has no recall.
    right = torch.bincount(labels[logits.argmax(dim=1) == labels], minlength=classes)
    return right.double() / torch.bincount(labels, minlength=classes)


def evaluate(
    model: nn.Module, batches: Iterable[Sequence[torch.Tensor]], device: torch.device | str
) -> dict[str, float]:
    """The metrics of `classification_metrics` for a model over batches of data.

    The model is put in evaluation mode and every part of it is put back in the mode it had, also after an error.
    Inputs stream through; what stays in memory is the logits and labels, on the CPU.

    Args:
        model: gives logits [B, C]; it must be on `device` already.
        batches: each starts with `(inputs, labels)`; what follows (rows, say) is ignored.
        device: where inputs are sent.

    Returns:
        The dictionary of `classification_metrics`.

    Raises:
        UserError: there are no batches, or as in `classification_metrics`.

    Example:
        >>> import torch
        >>> batches = [(torch.eye(2), torch.tensor([0, 1])), (torch.eye(2), torch.tensor([0, 0]))]
        >>> evaluate(torch.nn.Identity(), batches, "cpu")["accuracy"]
        0.75
    """
    logits: list[torch.Tensor] = []
    labels: list[torch.Tensor] = []
    with evaluating(model), torch.no_grad():
        for inputs, target, *_ in batches:
            # float64 stays: only lower precisions are widened.
            output = model(inputs.to(device, non_blocking=True))
            logits.append(output.to("cpu", torch.promote_types(output.dtype, torch.float32)))
            labels.append(target.cpu())
    if not logits:
        raise UserError("`batches` must hold at least one batch, found none: check that the split has samples.")
    return classification_metrics(torch.cat(logits), torch.cat(labels))


def _checked(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits in float64 and the labels in int64, both detached, on the logits' device; or an error."""
    if not logits.is_floating_point():
        raise TypeError(f"`logits` must be floating-point numbers, found {logits.dtype}.")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"`labels` must be integers, found {labels.dtype}.")
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise UserError(
            f"`logits` must be [n, C] and `labels` [n], found {list(logits.shape)} and {list(labels.shape)}."
        )
    samples, classes = logits.shape
    if samples == 0:
        raise UserError("`labels` must hold at least one sample, found none: metrics of nothing are undefined.")
    if classes < 2:
        raise UserError(f"`logits` must have at least 2 classes (columns), found {classes}.")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise UserError(
            f"`labels` must lie in [0, {classes}) as the logits have {classes} columns, found {low} to {high}."
        )
    # -inf is a class that is ruled out, which is a fair answer; NaN and +inf have no softmax.
    undefined = (logits.isnan() | logits.isposinf()).any(dim=1) | logits.isneginf().all(dim=1)
    if bool(undefined.any()):
        first = int(undefined.nonzero()[0])
        raise UserError(
            f"`logits` must have a softmax, found NaN or infinite numbers in {int(undefined.sum())} of {samples} rows "
            f"(the first is row {first}): the model has probably diverged."
        )
    return logits.detach().double(), labels.detach().to(logits.device, torch.int64)
