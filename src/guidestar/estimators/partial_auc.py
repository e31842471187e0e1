"""`PartialAUCClassifier`: the area under the ROC curve at small false positive rates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from guidestar import surrogates
from guidestar.estimators.ranking import RankingClassifier
from guidestar.losses.base import Loss
from guidestar.losses.sopa import SOPALoss


class PartialAUCClassifier(RankingClassifier):
    r"""Two-class classifier for tables that maximises the area under the ROC curve at false positive rates up to `max_fpr`.

    A linear model or an MLP is trained with `SOPALoss`, which compares each positive with the share `max_fpr` of the
    negatives that score highest, on batches with a fixed number of positives (`DualSampler`). An epoch is one pass over
    the negatives. Probabilities are made of the scores afterwards, by Platt's method on the training rows: see
    `predict_proba`.

    Equations:
        6.23 to 6.26; Alg. 29 (SOPA).

    Args:
        max_fpr: the largest false positive rate that counts, in (0, 1]; 1 is the whole area.
        threshold_lr: step size of the thresholds, one for each positive, in units of the surrogate.
        surrogate: of "a negative scores at least as high as a positive", see `guidestar.surrogates`.
        hidden: widths of the hidden layers; `()` is a linear model.
        epochs: passes over the negatives.
        batch_size: samples of a batch.
        rate: fraction of positives in a batch.
        lr: learning rate of AdamW at the start; it falls to 0.
        weight_decay: of AdamW.
        standardize: whether columns are first brought to mean 0 and variance 1.
        device: where the training runs, such as "cpu" or "cuda"; the fitted model is on the CPU.
        random_state: as in scikit-learn; a number gives the same fit each time.

    Shapes:
        `X` `[n, features]`, `y` `[n]` with two classes; `classes_[1]` is the positive one.

    State:
        `network_` (float64, on the CPU), `mean_` and `scale_` of the columns, `platt_`, `classes_`, and `losses_`, the
        mean loss of each epoch.

    Raises:
        ValueError: `y` has one class or more than two, a setting is out of range, the training diverged.

    Source:
        Zhu et al., "When AUC Meets DRO: Optimizing Partial AUC for Deep Learning with Non-Convex Convergence
        Guarantee", ICML 2022.

    Example:
        >>> from sklearn.datasets import load_breast_cancer
        >>> from sklearn.metrics import roc_auc_score
        >>> X, y = load_breast_cancer(return_X_y=True)
        >>> model = PartialAUCClassifier(max_fpr=0.2, epochs=5).fit(X[:400], y[:400])
        >>> bool(roc_auc_score(y[400:], model.decision_function(X[400:]), max_fpr=0.2) > 0.95)
        True
    """

    def __init__(
        self,
        *,
        max_fpr: float = 0.1,
        threshold_lr: float = 0.1,
        surrogate: Callable[[Tensor], Tensor] = surrogates.squared_hinge,
        hidden: tuple[int, ...] = (),
        epochs: int = 50,
        batch_size: int = 64,
        rate: float = 0.5,
        lr: float = 0.05,
        weight_decay: float = 1e-4,
        standardize: bool = True,
        device: str = "cpu",
        random_state: Any = 0,
    ) -> None:
        self.max_fpr = max_fpr
        self.threshold_lr = threshold_lr
        self.surrogate = surrogate
        self.hidden = hidden
        self.epochs = epochs
        self.batch_size = batch_size
        self.rate = rate
        self.lr = lr
        self.weight_decay = weight_decay
        self.standardize = standardize
        self.device = device
        self.random_state = random_state

    def _loss(self, num_rows: int) -> Loss:
        if not 0.0 < self.max_fpr <= 1.0:
            raise ValueError(f"`max_fpr` must lie in (0, 1], found {self.max_fpr}.")
        if not self.threshold_lr > 0.0:
            raise ValueError(f"`threshold_lr` must be positive, found {self.threshold_lr}.")
        return SOPALoss(num_rows, beta=self.max_fpr, lr=self.threshold_lr, surrogate=self.surrogate)
