"""Other libraries on the same tasks: LibAUC's losses and optimizers, LightGBM, XGBoost, and `dro`.

A library that is not installed is left out with a message. `pip install 'guidestar[peers]'` brings what they need, and
`pip install --no-deps libauc dro` these two: what is used of them needs few of the packages that they ask for.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .batches import half_positive
from .harness import Method, Trained
from .methods import BETA, RATES, WEIGHT_DECAY
from .task import BinaryTask, Part, network_scorer

#: LibAUC's own default for PESG is 0.1.
PESG_RATES = (0.02, 0.1, 0.5)
TREE_RATES = (0.03, 0.1, 0.3)
TREES = 100
#: The conic solver gets this many training rows at most.
SOLVED_ROWS = 5000
RADII = (0.01, 0.1, 1.0)


def libauc(part: str) -> Any:
    """`libauc.losses` or `libauc.optimizers`."""
    return importlib.import_module(f"libauc.{part}")


@dataclass(frozen=True)
class Probabilities:
    """A loss of LibAUC; its examples give it scores in [0, 1]. `inner` is for its optimizer."""

    inner: nn.Module

    def __call__(self, scores: Tensor, labels: Tensor, index: Tensor) -> Tensor:
        return self.inner(torch.sigmoid(scores), labels.float(), index=index)


def _peer(
    name: str, loss: str, optimizer: str, rates: tuple[float, ...] = RATES, sizes: bool = True,
    mode: str | None = None, **options: Any,
) -> Trained:  # fmt: skip
    """A loss and an optimizer of LibAUC; `sizes`: the loss wants the number of rows, else it holds the variables a, b."""

    def make_loss(task: BinaryTask) -> Probabilities:
        rows = {"data_len": task.rows} if sizes else {}
        if loss == "pAUC_CVaR_Loss":
            rows["pos_len"] = task.positives
        return Probabilities(getattr(libauc("losses"), loss)(device="cpu", **rows, **options))

    def make_optimizer(model: nn.Module, made: Probabilities, lr: float) -> torch.optim.Optimizer:
        extra: dict[str, Any] = {} if sizes else {"loss_fn": made.inner}
        if mode is not None:
            extra["mode"] = mode
        found = getattr(libauc("optimizers"), optimizer)
        return found(model.parameters(), lr=lr, weight_decay=WEIGHT_DECAY, verbose=False, device="cpu", **extra)

    return Trained(name, make_loss, make_optimizer, half_positive, rates, network_scorer)


LIBAUC = (
    _peer("libauc_aucm", "AUCMLoss", "PESG", PESG_RATES, sizes=False, mode="sgd", version="v2"),
    # In its Adam mode version 2, which LibAUC recommends, did not learn Fashion-MNIST at any of the rates; version 1 did.
    _peer("libauc_aucm_adam", "AUCMLoss", "PESG", sizes=False, mode="adam", version="v1"),
    _peer("libauc_comp", "CompositionalAUCLoss", "PDSCA", PESG_RATES, sizes=False, version="v2"),
    _peer("libauc_soap", "APLoss", "SOAP", mode="adam"),
    _peer("libauc_sopa", "pAUC_CVaR_Loss", "SOPA", mode="adam", beta=BETA),
    _peer("libauc_sopa_s", "pAUC_DRO_Loss", "SOPAs", mode="adam"),
    _peer("libauc_sota_s", "tpAUC_KL_Loss", "SOTAs", mode="adam"),
)


@dataclass(frozen=True)
class Trees:
    """Boosted trees of LightGBM or XGBoost with their defaults; the shrinkage is tuned."""

    name: str
    settings: tuple[float, ...] = TREE_RATES

    def fit(self, task: BinaryTask, setting: float, seed: int) -> Callable[[Part], np.ndarray]:
        """Fit on the training part; the scores are log odds."""
        x, y = task.train.flat, task.train.labels
        if self.name == "lightgbm":
            import lightgbm

            options = {"objective": "binary", "learning_rate": setting, "seed": seed, "num_threads": 1, "verbose": -1}
            booster = lightgbm.train(options, lightgbm.Dataset(x, y), num_boost_round=TREES)
            return lambda part: np.asarray(booster.predict(part.flat, raw_score=True))
        import xgboost

        options = {"objective": "binary:logistic", "eta": setting, "seed": seed, "nthread": 1}
        forest = xgboost.train(options, xgboost.DMatrix(x, y), num_boost_round=TREES)
        return lambda part: forest.predict(xgboost.DMatrix(part.flat), output_margin=True).astype(np.float64)


def _linear_dro() -> Any:
    """`dro.linear_model.chi2_dro` alone: importing `dro` itself asks for torchvision, which only its networks need."""
    if "dro" not in sys.modules and (spec := importlib.util.find_spec("dro")) is not None:
        sys.modules["dro"] = importlib.util.module_from_spec(spec)
    return importlib.import_module("dro.linear_model.chi2_dro")


@dataclass(frozen=True)
class LinearChiSquare:
    """`dro`'s chi-square DRO of a logistic regression, solved by a conic solver; its radius is tuned."""

    name: str = "dro_chi2"
    settings: tuple[float, ...] = RADII

    def fit(self, task: BinaryTask, setting: float, seed: int) -> Callable[[Part], np.ndarray]:
        """Solve on the training part."""
        made = _linear_dro().Chi2DRO
        model = made(input_dim=task.train.flat.shape[1], model_type="logistic")
        model.update({"eps": setting})
        rows = slice(SOLVED_ROWS)  # the training part is in random order
        found = model.fit(task.train.flat[rows].astype(np.float64), 2.0 * task.train.labels[rows] - 1.0)
        theta = np.asarray(found["theta"], dtype=np.float64)
        return lambda part: part.flat @ theta


def installed(*groups: tuple[str, tuple[Method, ...]]) -> tuple[Method, ...]:
    """The methods whose package is installed; says which are left out."""
    found: list[Method] = []
    for package, methods in groups:
        if importlib.util.find_spec(package) is None:
            print(f"left out, {package} is not installed: {', '.join(method.name for method in methods)}")
        else:
            found += methods
    return tuple(found)
