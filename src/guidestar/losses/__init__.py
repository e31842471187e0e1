"""Every objective, one file each. `__all__` is what the contract tests iterate over."""

from guidestar.losses.clip import CLIPLoss
from guidestar.losses.clip_distillation import CLIPDistillationLoss
from guidestar.losses.distillation import DistillationLoss
from guidestar.losses.drrho_clip import DRRhoCLIPLoss
from guidestar.losses.drrho_contrastive import DRRhoContrastiveLoss
from guidestar.losses.drrho_cross_entropy import DRRhoCrossEntropyLoss
from guidestar.losses.fast_clip import FastCLIPLoss
from guidestar.losses.feature_distillation import FeatureDistillationLoss
from guidestar.losses.info_nce import InfoNCELoss
from guidestar.losses.isogclr import ISogCLRLoss
from guidestar.losses.siglip import SigLIPLoss
from guidestar.losses.sogclr import SogCLRLoss
from guidestar.losses.tempnet import TempNetLoss

__all__ = [
    "CLIPDistillationLoss",
    "CLIPLoss",
    "DRRhoCLIPLoss",
    "DRRhoContrastiveLoss",
    "DRRhoCrossEntropyLoss",
    "DistillationLoss",
    "FastCLIPLoss",
    "FeatureDistillationLoss",
    "ISogCLRLoss",
    "InfoNCELoss",
    "SigLIPLoss",
    "SogCLRLoss",
    "TempNetLoss",
]
