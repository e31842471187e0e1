"""Every objective, one file each. `__all__` is what the contract tests iterate over."""

from guidestar.losses.distillation import DistillationLoss
from guidestar.losses.drrho_cross_entropy import DRRhoCrossEntropyLoss

__all__ = ["DRRhoCrossEntropyLoss", "DistillationLoss"]
