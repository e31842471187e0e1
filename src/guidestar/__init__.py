"""guidestar: train PyTorch models with a reference model as the guide.

The library is two stateful primitives, `Tracker` and `Dual`, and an algebra of risks over them; see
`guidestar.steering` for the objectives relative to a reference model and `guidestar.losses` for named losses.
"""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

from guidestar import losses, networks, optim, ranking, risks, samplers, schedules, surrogates
from guidestar.duals import Dual
from guidestar.errors import UserError
from guidestar.group_mean import GroupMean
from guidestar.risks import KL, ChiSquare, CVaR, KLBall, Mean, Spectral, Stages, TopK
from guidestar.state import PerSampleState, reset, set_epoch
from guidestar.steering.rho import DRRho
from guidestar.tracking import Tracker

if TYPE_CHECKING:
    from guidestar import data, evaluation, models, reference, report, training
    from guidestar import estimators as estimators  # not in __all__: `import *` must work without scikit-learn

__version__ = "0.1.0"

_ON_DEMAND = ("data", "estimators", "evaluation", "models", "reference", "report", "training")


def __getattr__(name: str) -> ModuleType:
    # Data, store, training and report bring the libraries that they need; the objectives alone need only torch.
    if name in _ON_DEMAND:
        return importlib.import_module(f"guidestar.{name}")
    raise AttributeError(f"module 'guidestar' has no attribute {name!r}")


__all__ = [
    "KL",
    "CVaR",
    "ChiSquare",
    "DRRho",
    "Dual",
    "GroupMean",
    "KLBall",
    "Mean",
    "PerSampleState",
    "Spectral",
    "Stages",
    "TopK",
    "Tracker",
    "UserError",
    "data",
    "evaluation",
    "losses",
    "models",
    "networks",
    "optim",
    "ranking",
    "reference",
    "report",
    "reset",
    "risks",
    "samplers",
    "schedules",
    "set_epoch",
    "surrogates",
    "training",
]
