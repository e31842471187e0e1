"""`DROClassifier`: classification that minds its hard samples."""

from __future__ import annotations

import copy
from typing import Any, Self

import torch

from guidestar.estimators.shuffled import shuffled
from guidestar.estimators.softmax import SoftmaxClassifier
from guidestar.losses.drrho_cross_entropy import DRRhoCrossEntropyLoss
from guidestar.risks import KL
from guidestar.risks.base import Risk


class DROClassifier(SoftmaxClassifier):
    r"""Classifier for tables that minimises a risk over the samples' cross-entropies (distributionally robust).

    $\min_w \mathrm{risk}_i\big(\ell_i(w)\big)$: with the default risk, $\tau \log \frac1n \sum_i e^{\ell_i / \tau}$ with a
    running average (ABSGD), hard samples weigh more.

    Equations:
        6.10 to 6.16; Alg. 24 of the book (ABSGD).

    Args:
        risk: a risk over samples, without rows of its own, such as `KL(tau=0.5, gamma=0.9)`, `KLBall(rho=0.1)`,
            `CVaR(alpha=0.2)`, `ChiSquare(rho=1.0)` or `Spectral(...)`; each fit trains a copy. None:
            `KL(tau=1.0, gamma=0.9)`. `Mean()` is plain cross-entropy.
        hidden: widths of the hidden layers; `()` is a linear model.
        epochs: passes over the rows.
        batch_size: samples of a batch.
        lr: learning rate of AdamW at the start; it falls to 0.
        weight_decay: of AdamW.
        standardize: whether columns are first brought to mean 0 and variance 1.
        device: where the training runs, such as "cpu" or "cuda"; the fitted model is on the CPU.
        random_state: as in scikit-learn; a number gives the same fit each time.

    Shapes:
        `X` `[n, features]`, `y` `[n]` with any number of classes.

    State:
        `network_` (float64, on the CPU), `mean_` and `scale_` of the columns, `classes_`, and `losses_`, the mean of the
        objective in each epoch.

    Raises:
        ValueError: `y` has one class, a setting is out of range, the training diverged.
        TypeError: `risk` is no risk.

    Source:
        Qi et al., "Attentional-Biased Stochastic Gradient Descent", TMLR 2023.

    Example:
        >>> from guidestar import CVaR
        >>> from sklearn.datasets import load_iris
        >>> X, y = load_iris(return_X_y=True)
        >>> bool(DROClassifier(risk=CVaR(0.3)).fit(X, y).score(X, y) > 0.9)
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
            y: classes `[n]`.

        Raises:
            ValueError: `y` has one class; a setting is out of range.
            TypeError: `risk` is no risk.
        """
        X, labels = self._check_table(X, y)
        # A copy: fitting must leave the parameter as it is.
        loss = DRRhoCrossEntropyLoss(KL(tau=1.0, gamma=0.9) if self.risk is None else copy.deepcopy(self.risk))
        target, seed = torch.from_numpy(labels).to(self.device), self._seed()
        batches = shuffled(len(labels), self.batch_size, seed)
        self._train(X, len(self.classes_), lambda logits, rows: loss(logits, target[rows]), loss, batches, seed)
        return self
