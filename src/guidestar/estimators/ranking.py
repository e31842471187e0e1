"""`RankingClassifier`: two classes, a score that ranks them, and what makes probabilities of it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, Self

import numpy as np
import torch
from scipy.optimize import minimize
from sklearn.base import ClassifierMixin
from sklearn.utils import Tags
from sklearn.utils.multiclass import type_of_target
from sklearn.utils.validation import validate_data

from guidestar.estimators.base import TableEstimator
from guidestar.losses.base import Loss
from guidestar.samplers.arrays import positives_per_batch
from guidestar.samplers.dual import DualSampler


class RankingClassifier(ClassifierMixin, TableEstimator):
    """Base of the classifiers that are trained to rank positives above negatives.

    The positive class is `classes_[1]`. Batches come from `DualSampler`; a batch that asks for more positives (or
    negatives) than there are takes all of them.

    After training, $p = 1 / (1 + e^{-(a s + b)})$ with a > 0 is fitted to the scores s of the training rows.
    `decision_function` is $a s + b$, `predict_proba` is p, and `predict` says the positive class where p is above 1/2: the
    order is the network's own.
    """

    rate: float

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False  # pyright: ignore[reportOptionalMemberAccess]
        return tags

    @abstractmethod
    def _loss(self, num_rows: int) -> Loss:
        """The loss, new, for a table with this number of rows."""

    def fit(self, X: Any, y: Any) -> Self:
        """Train on a table.

        Args:
            X: numbers `[n, features]`.
            y: two classes `[n]`; the second of them in sorted order is the positive one.

        Raises:
            ValueError: `y` has one class, or more than two; a setting is out of range.
        """
        X, y = validate_data(self, X, y)
        self._check_settings()
        kind = type_of_target(y, input_name="y", raise_unknown=True)
        if kind != "binary":
            raise ValueError(
                f"Only binary classification is supported. The type of the target is {kind}. For more classes use "
                "sklearn.multiclass.OneVsRestClassifier or DROClassifier."
            )
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                f"`y` has 1 class, {self.classes_[0]!r}: there is nothing to rank. Two classes are needed."
            )
        loss, seed = self._loss(len(labels)), self._seed()
        target = torch.from_numpy(labels).to(self.device)
        sampler = self._sampler(labels, seed)

        def batches(epoch: int) -> Iterator[list[int]]:
            sampler.set_epoch(epoch)
            return iter(sampler)

        self._train(X, 1, lambda scores, rows: loss(scores[:, 0], target[rows], rows), loss, batches, seed)
        self.platt_ = platt(self._outputs_of(X)[:, 0], labels)
        return self

    def _sampler(self, labels: np.ndarray, seed: int) -> DualSampler:
        wanted = positives_per_batch(self.batch_size, self.rate)
        positives = min(wanted, int(labels.sum()))
        negatives = min(self.batch_size - wanted, int((labels == 0).sum()))
        size = positives + negatives
        return DualSampler(labels, size, positives / size, seed=seed, rank=0, world=1)

    def decision_function(self, X: Any) -> np.ndarray:
        """Log-odds of the positive class `[n]`, which grow with the network's score.

        Args:
            X: numbers `[n, features]`.
        """
        outputs = self._outputs(X)
        slope, offset = self.platt_
        return slope * outputs[:, 0] + offset

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities of the two classes `[n, 2]`.

        A ranking has no scale: they are a sigmoid of the score that is fitted to the training rows (Platt's method), so
        they are too sure where the model overfits. `sklearn.calibration.CalibratedClassifierCV` fits one to rows that
        were left out.

        Args:
            X: numbers `[n, features]`.
        """
        positive = sigmoid(self.decision_function(X))
        return np.stack([1.0 - positive, positive], axis=1)

    def predict(self, X: Any) -> np.ndarray:
        """The more probable class `[n]`.

        Where positives are rare, 1/2 is a poor threshold: `sklearn.model_selection.TunedThresholdClassifierCV` finds
        another.

        Args:
            X: numbers `[n, features]`.
        """
        chosen = (self.decision_function(X) > 0.0).astype(int)  # first: it tells when there was no fit
        return self.classes_[chosen]


def sigmoid(values: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-values)), without overflow.

    Example:
        >>> sigmoid(np.array([-1000.0, 0.0])).tolist()
        [0.0, 0.5]
    """
    return np.exp(-np.logaddexp(0.0, -values))


def platt(scores: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """The a > 0 and b for which sigmoid(a * scores + b) fits the labels best (Platt's method).

    Platt's targets are (n+ + 1) / (n+ + 2) and 1 / (n- + 2) in the place of 1 and 0, so that a and b stay finite where
    the scores separate the classes. Where a would not be positive (the scores rank worse than chance), it is tiny: the
    order is kept, and the probabilities are close to the share of positives.

    Args:
        scores: `[n]`.
        labels: 0 and 1, `[n]`.

    Example:
        >>> a, b = platt(np.array([2.0, 4.0]), np.array([0, 1]))
        >>> sigmoid(a * np.array([2.0, 4.0]) + b).round(2).tolist()
        [0.33, 0.67]
    """
    positives = labels.sum()
    target = np.where(labels == 1, (positives + 1) / (positives + 2), 1 / (len(labels) - positives + 2))
    center, scale = scores.mean(), scores.std() or 1.0
    standard = (scores - center) / scale

    def cross_entropy(ab: np.ndarray) -> tuple[float, np.ndarray]:
        logits = ab[0] * standard + ab[1]
        slope = (sigmoid(logits) - target) / len(target)
        value = np.mean(np.logaddexp(0.0, logits) - target * logits)
        return value, np.array([slope @ standard, slope.sum()])

    share = target.mean()
    start = np.array([1.0, np.log(share / (1.0 - share))])
    best = minimize(cross_entropy, start, jac=True, method="L-BFGS-B", bounds=[(1e-3, None), (None, None)], tol=1e-12)
    slope = float(best.x[0] / scale)
    return slope, float(best.x[1] - slope * center)
