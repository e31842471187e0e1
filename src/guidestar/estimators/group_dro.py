"""`GroupDROClassifier`: classification that minds its worst groups."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

import numpy as np
import torch
from sklearn.utils.validation import check_consistent_length, column_or_1d
from torch.nn import functional

from guidestar.estimators.softmax import SoftmaxClassifier
from guidestar.group_mean import GroupMean
from guidestar.losses.group_dro import GroupDROLoss
from guidestar.risks import TopK
from guidestar.samplers.group import GroupSampler


class GroupDROClassifier(SoftmaxClassifier):
    r"""Classifier for tables that minimises the mean loss of its worst groups.

    $\min_w \mathrm{CVaR}_\alpha\big(L_1(w), \dots, L_K(w)\big)$: the mean over the share $\alpha$ = `alpha` of the groups
    with the largest mean cross-entropies $L_g$. Batches draw the groups uniformly (`GroupSampler`), and the means of
    groups that are not in a batch are remembered (`GroupMean`).

    Equations:
        6.17; Alg. 25 of the book, steps 3 to 6.

    Args:
        alpha: share of the groups that counts, in (0, 1]; with less than one group the worst group, with 1 all alike.
        gamma: rate of the groups' running means, in (0, 1]; 1 uses the batch alone.
        hidden: widths of the hidden layers; `()` is a linear model.
        epochs: passes; one has about as many samples as the table has rows.
        batch_size: samples of a batch, at most: as many of each group as fit.
        lr: learning rate of AdamW at the start; it falls to 0.
        weight_decay: of AdamW. A model that fits its training rows perfectly has no worst group left: for one with many
            weights, a larger one is what keeps the groups apart.
        standardize: whether columns are first brought to mean 0 and variance 1.
        device: where the training runs, such as "cpu" or "cuda"; the fitted model is on the CPU.
        random_state: as in scikit-learn; a number gives the same fit each time.

    Shapes:
        `X` `[n, features]`, `y` `[n]` with any number of classes, `groups` `[n]` of any kind; needed for `fit` alone.

    State:
        `network_` (float64, on the CPU), `mean_` and `scale_` of the columns, `classes_`, `groups_` (the distinct groups),
        and `losses_`, the mean of the objective in each epoch.

    Raises:
        ValueError: `y` has one class, `groups` has another length, a setting is out of range, the training diverged.

    Source:
        Sagawa et al., "Distributionally Robust Neural Networks for Group Shifts", ICLR 2020.

    Example:
        >>> from sklearn.datasets import make_classification
        >>> X, y = make_classification(300, class_sep=2.0, random_state=0)
        >>> groups = ["left" if x < 0 else "right" for x in X[:, 0]]
        >>> model = GroupDROClassifier(alpha=0.5).fit(X, y, groups=groups)
        >>> model.groups_.tolist(), bool(model.score(X, y) > 0.9)
        (['left', 'right'], True)
    """

    def __init__(
        self,
        *,
        alpha: float = 0.2,
        gamma: float = 0.9,
        hidden: tuple[int, ...] = (),
        epochs: int = 50,
        batch_size: int = 64,
        lr: float = 0.05,
        weight_decay: float = 1e-4,
        standardize: bool = True,
        device: str = "cpu",
        random_state: Any = 0,
    ) -> None:
        self.alpha = alpha
        self.gamma = gamma
        self.hidden = hidden
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.weight_decay = weight_decay
        self.standardize = standardize
        self.device = device
        self.random_state = random_state

    def fit(self, X: Any, y: Any, groups: Any = None) -> Self:
        """Train on a table.

        Args:
            X: numbers `[n, features]`.
            y: classes `[n]`.
            groups: the group of each row `[n]`, names or numbers; None: each class is a group.

        Raises:
            ValueError: `y` has one class; `groups` has another length; a setting is out of range.
        """
        X, labels = self._check_table(X, y)
        if groups is None:
            self.groups_, numbers = self.classes_, labels
        else:
            check_consistent_length(X, groups)
            self.groups_, numbers = np.unique(column_or_1d(groups), return_inverse=True)
        loss = GroupDROLoss(TopK(self.alpha), GroupMean(len(self.groups_), gamma=self.gamma))
        target, group = torch.from_numpy(labels).to(self.device), torch.from_numpy(numbers).to(self.device)
        seed, drawn = self._seed(), min(len(self.groups_), self.batch_size)
        each = max(min(self.batch_size, len(labels)) // drawn, 1)
        sampler = GroupSampler(numbers, drawn, each, seed=seed, rank=0, world=1)

        def batches(epoch: int) -> Iterator[list[int]]:
            sampler.set_epoch(epoch)
            return iter(sampler)

        def objective(logits: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
            return loss(functional.cross_entropy(logits, target[rows], reduction="none"), group[rows])

        self._train(X, len(self.classes_), objective, loss, batches, seed)
        return self
