"""What `torch.optim` lacks: gradient estimators, steps that raise no loss, and an optimizer of spectral risks."""

from guidestar.optim.jacobian import jacobian_backward
from guidestar.optim.prospect import Prospect
from guidestar.optim.storm import Storm, recall

__all__ = ["Prospect", "Storm", "jacobian_backward", "recall"]
