"""Risks: what is made of a set of losses. No model, no data.

`risk(losses[..., m], index=None, mask=None) -> [...]`; see `guidestar.risks.base.Risk`.
"""

from guidestar.risks.base import Risk
from guidestar.risks.chi_square import ChiSquare
from guidestar.risks.cvar import CVaR, TopK
from guidestar.risks.kl import KL
from guidestar.risks.kl_ball import KLBall
from guidestar.risks.mean import Mean
from guidestar.risks.spectral import Spectral
from guidestar.risks.stages import Stages

__all__ = ["KL", "CVaR", "ChiSquare", "KLBall", "Mean", "Risk", "Spectral", "Stages", "TopK"]
