"""`SoftmaxClassifier`: any number of classes, with the softmax of a network's outputs as probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import softmax
from sklearn.base import ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import validate_data

from guidestar.estimators.base import TableEstimator


class SoftmaxClassifier(ClassifierMixin, TableEstimator):
    """Base of the classifiers whose outputs are logits of the classes.

    `predict_proba` is their softmax: what the robust objective makes of it, which is less sure of easy samples than
    cross-entropy is, and not calibrated for the average sample.
    """

    def _check_table(self, X: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
        """The table and the number of each row's class; sets `classes_`."""
        X, y = validate_data(self, X, y)
        self._check_settings()
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                f"`y` has 1 class, {self.classes_[0]!r}: there is nothing to learn. Two classes are needed."
            )
        return X, labels

    def decision_function(self, X: Any) -> np.ndarray:
        """The logits `[n, classes]`; with two classes the log-odds of the second `[n]`.

        Args:
            X: numbers `[n, features]`.
        """
        outputs = self._outputs(X)
        return outputs[:, 1] - outputs[:, 0] if outputs.shape[1] == 2 else outputs

    def predict_proba(self, X: Any) -> np.ndarray:
        """The softmax of the logits `[n, classes]`.

        Args:
            X: numbers `[n, features]`.
        """
        return softmax(self._outputs(X), axis=1)

    def predict(self, X: Any) -> np.ndarray:
        """The most probable class `[n]`.

        Args:
            X: numbers `[n, features]`.
        """
        outputs = self._outputs(X)  # first: it tells when there was no fit
        return self.classes_[outputs.argmax(axis=1)]
