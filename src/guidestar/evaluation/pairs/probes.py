"""How much of the classes is in frozen features: a linear probe and the nearest neighbours."""

import warnings

import numpy as np
import torch
from torch import nn

from guidestar.errors import UserError
from guidestar.evaluation.pairs.checks import blocks, check_classes, check_embeddings, check_same_width

# Inverse strengths of the L2 penalty that are tried.
STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
HELD_OUT = 0.2


def linear_probe(
    train_x: torch.Tensor, train_y: torch.Tensor, test_x: torch.Tensor, test_y: torch.Tensor, *, seed: int = 0
) -> float:
    """Test accuracy of a logistic regression on frozen features.

    Features are standardised with the training features' mean and deviation; the penalty is chosen on a fifth of the
    training rows that is held out, then the regression is fitted on all of them.

    Args:
        train_x: [n, d], at least 5 rows.
        train_y: [n], class ids, at least two different ones.
        test_x: [m, d].
        test_y: [m], class ids.
        seed: of the part that is held out.

    Returns:
        The share of test rows that is right.

    Raises:
        ImportError: scikit-learn is not installed.
        UserError: shapes, widths or labels do not fit, there are too few rows or classes, or a number is not finite.
        TypeError: features are not floating-point numbers or labels are not integers.

    Example:
        >>> x, y = torch.tensor([[0.0], [0.1], [0.2], [1.0], [1.1], [1.2]]), torch.tensor([0, 0, 0, 1, 1, 1])
        >>> linear_probe(x, y, torch.tensor([[0.05], [1.05]]), torch.tensor([0, 1]))
        1.0
    """
    try:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise ImportError("`linear_probe` needs scikit-learn: pip install 'guidestar[demo]'.") from error
    train_x, train_y, test_x, test_y = _checked(train_x, train_y, test_x, test_y)
    if len(train_x) < 5:
        raise UserError(f"`train_x` must hold at least 5 rows, of which a fifth is held out, found {len(train_x)}.")
    mean, std = train_x.double().mean(dim=0), train_x.double().std(dim=0)
    # A feature that is the same everywhere says nothing; dividing by its rounding would make noise of it.
    std = torch.where(std > 1e-6 * (1e-6 + mean.abs()), std, torch.inf)
    fit_x, goal_x = (((x.double() - mean) / std).cpu().numpy() for x in (train_x, test_x))
    fit_y, goal_y = train_y.cpu().numpy(), test_y.cpu().numpy()
    order = np.random.default_rng(seed).permutation(len(fit_x))
    held, kept = np.split(order, [max(1, round(HELD_OUT * len(order)))])

    def accuracy(strength: float, rows: np.ndarray, x: np.ndarray, y: np.ndarray) -> float:
        regression = LogisticRegression(C=strength, max_iter=500)
        with warnings.catch_warnings():
            # One that has not converged is judged on held-out rows like any other.
            warnings.simplefilter("ignore", ConvergenceWarning)
            return float(regression.fit(fit_x[rows], fit_y[rows]).score(x, y))

    chosen = STRENGTHS[0]
    if len(np.unique(fit_y[kept])) > 1:
        chosen = max(STRENGTHS, key=lambda strength: accuracy(strength, kept, fit_x[held], fit_y[held]))
    return accuracy(chosen, order, goal_x, goal_y)


def knn(
    train_x: torch.Tensor,
    train_y: torch.Tensor,
    test_x: torch.Tensor,
    test_y: torch.Tensor,
    *,
    k: int = 20,
    temperature: float = 0.07,
) -> float:
    """Test accuracy of the k nearest neighbours by cosine similarity, with votes exp(similarity / temperature).

    Args:
        train_x: [n, d]; brought to unit norm.
        train_y: [n], class ids.
        test_x: [m, d]; brought to unit norm.
        test_y: [m], class ids.
        k: how many neighbours vote; all if there are fewer.
        temperature: above 0.

    Returns:
        The share of test rows whose class has the most votes.

    Raises:
        UserError: shapes, widths, labels, `k` or `temperature` do not fit, or a number is not finite.
        TypeError: features are not floating-point numbers or labels are not integers.

    Example:
        >>> x, y = torch.eye(2), torch.tensor([0, 1])
        >>> knn(x, y, torch.tensor([[0.9, 0.1], [0.1, 0.9]]), y)
        1.0
    """
    if k < 1:
        raise UserError(f"`k` must be at least 1, found {k}.")
    if not temperature > 0:
        raise UserError(f"`temperature` must be above 0, found {temperature}.")
    train_x, train_y, test_x, test_y = _checked(train_x, train_y, test_x, test_y)
    train, test = nn.functional.normalize(train_x, dim=1), nn.functional.normalize(test_x, dim=1)
    classes = int(max(train_y.max(), test_y.max())) + 1
    right = 0
    for part in blocks(len(test), max(len(train), classes)):
        nearest, rows = (test[part] @ train.T).topk(min(k, len(train)), dim=1)
        # Relative to the nearest, so that a small temperature does not overflow.
        weights = ((nearest - nearest[:, :1]) / temperature).exp()
        votes = weights.new_zeros(len(rows), classes).scatter_add_(1, train_y[rows], weights)
        right += int((votes.argmax(dim=1) == test_y[part]).sum())
    return right / len(test)


def _checked(
    train_x: torch.Tensor, train_y: torch.Tensor, test_x: torch.Tensor, test_y: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    train_x = check_embeddings("train_x", train_x)
    test_x = check_embeddings("test_x", test_x).to(train_x.device, train_x.dtype)
    check_same_width("train_x", train_x, "test_x", test_x)
    train_y = check_classes("train_y", train_y, len(train_x), None, train_x.device)
    test_y = check_classes("test_y", test_y, len(test_x), None, train_x.device)
    if int(train_y.min()) == int(train_y.max()):
        raise UserError(f"`train_y` must hold at least 2 classes, found only {int(train_y[0])}.")
    return train_x, train_y, test_x, test_y
