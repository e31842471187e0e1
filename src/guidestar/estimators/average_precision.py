"""`AveragePrecisionClassifier`: the area under the precision-recall curve."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from guidestar import surrogates
from guidestar.estimators.ranking import RankingClassifier
from guidestar.losses.average_precision import AveragePrecisionLoss
from guidestar.losses.base import Loss


class AveragePrecisionClassifier(RankingClassifier):
    r"""Two-class classifier for tables that maximises the average precision, for positives that are rare.

    A linear model or an MLP is trained with `AveragePrecisionLoss` (SOAP), which keeps running averages of each
    positive's rank, on batches with a fixed number of positives (`DualSampler`). An epoch is one pass over the negatives.
    Probabilities are made of the scores afterwards, by Platt's method on the training rows: see `predict_proba` and `predict`.

    Equations:
        6.22; Alg. 28 (SOAP).

    Args:
        gamma: rate of the running averages, in (0, 1]; 1 uses the batch alone.
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
        Qi et al., "Stochastic Optimization of Areas Under Precision-Recall Curves with Provable Convergence", NeurIPS
        2021.

    Example:
        >>> from sklearn.datasets import make_classification
        >>> from sklearn.metrics import average_precision_score
        >>> X, y = make_classification(1000, weights=[0.95], class_sep=2.0, random_state=0)
        >>> model = AveragePrecisionClassifier(epochs=5).fit(X[:700], y[:700])
        >>> bool(average_precision_score(y[700:], model.decision_function(X[700:])) > 0.5)
        True
    """

    def __init__(
        self,
        *,
        gamma: float = 0.9,
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
        self.gamma = gamma
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
        return AveragePrecisionLoss(num_rows, gamma=self.gamma, surrogate=self.surrogate)
