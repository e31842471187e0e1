"""`SpectralRegressor`: regression that minds its largest errors."""

from __future__ import annotations

import copy
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import RegressorMixin
from sklearn.utils.validation import validate_data

from guidestar.estimators.base import TableEstimator
from guidestar.estimators.shuffled import shuffled
from guidestar.risks import Spectral
from guidestar.risks.base import Risk, check_risk
from guidestar.risks.spectra import superquantile


class SpectralRegressor(RegressorMixin, TableEstimator):
    r"""Regressor for tables that minimises a risk over the samples' squared errors.

    $\min_w \mathrm{risk}_i\big(\tfrac12 (f(x_i) - y_i)^2\big)$, with y brought to mean 0 and variance 1. A spectral risk
    weighs the errors by their ranks; it is taken within the batch, so a batch should hold some of the tail.

    Equations:
        6.116 (within the batch), with `Spectral(superquantile(alpha))`.

    Args:
        risk: a risk over samples, without rows of its own; each fit trains a copy. None:
            `Spectral(superquantile(0.5), nu=1.0)`. `Mean()` is least squares.
        hidden: widths of the hidden layers; `()` is a linear model.
        epochs: passes over the rows.
        batch_size: samples of a batch.
        lr: learning rate of AdamW at the start; it falls to 0.
        weight_decay: of AdamW.
        standardize: whether columns are first brought to mean 0 and variance 1.
        device: where the training runs, such as "cpu" or "cuda"; the fitted model is on the CPU.
        random_state: as in scikit-learn; a number gives the same fit each time.

    Shapes:
        `X` `[n, features]`, `y` `[n]`.

    State:
        `network_` (float64, on the CPU), `mean_` and `scale_` of the columns, `target_mean_`, `target_scale_`, and
        `losses_`, the mean of the objective in each epoch.

    Raises:
        ValueError: a setting is out of range, the training diverged.
        TypeError: `risk` is no risk.

    Source:
        Mehta, Roulet, Pillutla and Harchaoui, "Distributionally Robust Optimization with Bias and Variance Reduction"
        (Prospect), ICLR 2024.

    Example:
        >>> from sklearn.datasets import load_diabetes
        >>> X, y = load_diabetes(return_X_y=True)
        >>> bool(SpectralRegressor().fit(X, y).score(X, y) > 0.4)
        True
    """

    def __init__(
        self,
        *,
        risk: Risk | None = None,
        hidden: tuple[int, ...] = (),
        epochs: int = 50,
        batch_size: int = 64,
        lr: float = 0.05,
        weight_decay: float = 1e-4,
        standardize: bool = True,
        device: str = "cpu",
        random_state: Any = 0,
    ) -> None:
        self.risk = risk
        self.hidden = hidden
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.weight_decay = weight_decay
        self.standardize = standardize
        self.device = device
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> Self:
        """Train on a table.

        Args:
            X: numbers `[n, features]`.
            y: numbers `[n]`.

        Raises:
            ValueError: a setting is out of range.
            TypeError: `risk` is no risk.
        """
        X, y = validate_data(self, X, y, y_numeric=True)
        self._check_settings()
        # A copy: fitting must leave the parameter as it is.
        risk = Spectral(superquantile(0.5), nu=1.0) if self.risk is None else check_risk(copy.deepcopy(self.risk))
        self.target_mean_ = float(np.mean(y, dtype=np.float64))
        self.target_scale_ = float(np.std(y, dtype=np.float64)) or 1.0
        target = torch.from_numpy((y - self.target_mean_) / self.target_scale_).float().to(self.device)
        seed = self._seed()
        batches = shuffled(len(y), self.batch_size, seed)
        self._train(X, 1, lambda out, rows: risk(0.5 * (out[:, 0] - target[rows]).square()), risk, batches, seed)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """The predicted numbers `[n]`.

        Args:
            X: numbers `[n, features]`.
        """
        outputs = self._outputs(X)
        return outputs[:, 0] * self.target_scale_ + self.target_mean_
