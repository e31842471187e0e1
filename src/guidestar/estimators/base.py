"""`TableEstimator`: what the estimators share; a network for the rows of a table, and its training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from numbers import Real
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn

from guidestar.samplers.arrays import count
from guidestar.state import set_epoch

#: (outputs of a batch, its row numbers) -> the loss.
Objective = Callable[[Tensor, Tensor], Tensor]


class TableEstimator(BaseEstimator):
    """Base of the estimators: a linear model or an MLP, trained by AdamW with a learning rate that falls to 0.

    Subclasses hold the parameters `hidden`, `epochs`, `batch_size`, `lr`, `weight_decay`, `standardize`, `device` and
    `random_state`.
    """

    hidden: tuple[int, ...]
    epochs: int
    batch_size: int
    lr: float
    weight_decay: float
    standardize: bool
    device: str
    random_state: Any

    def _seed(self) -> int:
        return int(check_random_state(self.random_state).randint(2**31 - 1))

    def _check_settings(self) -> None:
        count(self.epochs, "epochs")
        count(self.batch_size, "batch_size", least=2)
        if not isinstance(self.hidden, Sequence):
            raise TypeError(f"`hidden` must be a tuple of widths, such as () or (64,). Found {self.hidden!r}.")
        for width in self.hidden:
            count(width, "hidden")
        for name in ("lr", "weight_decay"):
            if not isinstance(getattr(self, name), Real):
                raise TypeError(f"`{name}` must be a number. Found {getattr(self, name)!r}.")
        if not self.lr > 0.0:
            raise ValueError(f"`lr` must be positive, found {self.lr}.")
        if not self.weight_decay >= 0.0:
            raise ValueError(f"`weight_decay` must be at least 0, found {self.weight_decay}.")

    def _train(
        self,
        X: np.ndarray,
        outputs: int,
        objective: Objective,
        loss: nn.Module,
        batches: Callable[[int], Iterable[list[int]]],
        seed: int,
    ) -> None:
        """Fit `network_`.

        Args:
            X: the table `[n, features]`.
            outputs: outputs of the network.
            objective: the loss of a batch.
            loss: the module with its state, which is told the epoch.
            batches: epoch -> lists of row numbers.
            seed: of the network's first weights.
        """
        self.mean_ = X.mean(axis=0, dtype=np.float64) if self.standardize else np.zeros(X.shape[1])
        spread = X.std(axis=0, dtype=np.float64) if self.standardize else np.ones(X.shape[1])
        # A constant column stays at 0; its computed spread may be a rounding error.
        self.scale_ = np.where(spread > 1e-12 * np.abs(self.mean_), spread, 1.0)
        device = torch.device(self.device)
        rows = torch.from_numpy((X - self.mean_) / self.scale_).float().to(device)
        network = build(X.shape[1], outputs, tuple(self.hidden), seed).to(device)
        loss = loss.to(device)
        optimizer = torch.optim.AdamW(network.parameters(), lr=self.lr, weight_decay=self.weight_decay, fused=True)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 1.0 - epoch / self.epochs)
        self.losses_: list[float] = []
        for epoch in range(self.epochs):
            set_epoch(loss, epoch)
            values = []
            for batch in batches(epoch):
                index = torch.tensor(batch, device=device)
                value = objective(network(rows[index]), index)
                optimizer.zero_grad()
                value.backward()
                optimizer.step()
                values.append(value.detach())
            schedule.step()
            self.losses_.append(float(torch.stack(values).mean()))
        self.network_ = network.cpu().double().requires_grad_(False)
        if not all(bool(parameter.isfinite().all()) for parameter in self.network_.parameters()):
            raise ValueError(
                f"The training diverged with `lr` = {self.lr}: weights are not finite. Use a smaller `lr`"
                + (" and `standardize=True`." if not self.standardize else ".")
            )

    def _outputs(self, X: Any) -> np.ndarray:
        """The network's outputs `[n, outputs]` in float64, so that they do not depend on which rows come together."""
        check_is_fitted(self)
        return self._outputs_of(validate_data(self, X, reset=False))

    def _outputs_of(self, X: Any) -> np.ndarray:
        """The same for a table that has been checked: the array that is left of it has no column names any more."""
        return self.network_(torch.from_numpy((X - self.mean_) / self.scale_).double()).numpy()


def build(features: int, outputs: int, hidden: tuple[int, ...], seed: int) -> nn.Sequential:
    """A linear model (no hidden layer; its weights begin at 0) or an MLP with ReLU.

    Args:
        features: width of the input.
        outputs: width of the output.
        hidden: widths of the layers between.
        seed: of the first weights; torch's own generator is not moved.

    Example:
        >>> [tuple(p.shape) for p in build(3, 1, (4,), seed=0).parameters()]
        [(4, 3), (4,), (1, 4), (1,)]
    """
    generator = torch.Generator().manual_seed(seed)
    widths = [features, *hidden, outputs]
    layers: list[nn.Module] = []
    for entering, leaving in pairwise(widths):
        linear = nn.Linear(entering, leaving, device="meta").to_empty(device="cpu")
        if hidden:
            nn.init.kaiming_normal_(linear.weight, nonlinearity="relu", generator=generator)
        else:
            nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])
