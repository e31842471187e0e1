"""guidestar: train PyTorch models with a reference model as the guide.

The library is two stateful primitives, `Tracker` and `Dual`, and an algebra of risks over them; see
`guidestar.steering` for the objectives relative to a reference model and `guidestar.losses` for named losses.
"""

from guidestar import losses, risks, schedules, surrogates
from guidestar.duals import Dual
from guidestar.errors import UserError
from guidestar.group_mean import GroupMean
from guidestar.risks import KL, ChiSquare, CVaR, KLBall, Mean, TopK
from guidestar.state import PerSampleState, reset, set_epoch
from guidestar.steering.rho import DRRho
from guidestar.tracking import Tracker

__version__ = "0.1.0"

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
    "TopK",
    "Tracker",
    "UserError",
    "losses",
    "reset",
    "risks",
    "schedules",
    "set_epoch",
    "surrogates",
]
