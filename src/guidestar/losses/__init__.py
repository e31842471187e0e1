"""Every objective, one file each. `__all__` is what the contract tests iterate over."""

from guidestar.losses.absgd import ABSGDLoss
from guidestar.losses.aldr import ALDRLoss
from guidestar.losses.alexr import ALEXRLoss
from guidestar.losses.auc_margin import AUCMarginLoss
from guidestar.losses.average_precision import AveragePrecisionLoss
from guidestar.losses.class_balanced import ClassBalancedLoss
from guidestar.losses.clip import CLIPLoss
from guidestar.losses.clip_distillation import CLIPDistillationLoss
from guidestar.losses.distillation import DistillationLoss
from guidestar.losses.drrho_clip import DRRhoCLIPLoss
from guidestar.losses.drrho_contrastive import DRRhoContrastiveLoss
from guidestar.losses.drrho_cross_entropy import DRRhoCrossEntropyLoss
from guidestar.losses.extreme_classification import ExtremeClassificationLoss
from guidestar.losses.fast_clip import FastCLIPLoss
from guidestar.losses.feature_distillation import FeatureDistillationLoss
from guidestar.losses.focal import FocalLoss
from guidestar.losses.group_dro import GroupDROLoss
from guidestar.losses.info_nce import InfoNCELoss
from guidestar.losses.isogclr import ISogCLRLoss
from guidestar.losses.ldr import LDRLoss
from guidestar.losses.listwise_cross_entropy import ListwiseCrossEntropyLoss
from guidestar.losses.logit_adjusted import LogitAdjustedLoss
from guidestar.losses.ndcg import NDCGLoss
from guidestar.losses.online_group_dro import OnlineGroupDROLoss
from guidestar.losses.pairwise_auc import PairwiseAUCLoss
from guidestar.losses.partial_auc import PartialAUCLoss
from guidestar.losses.primal_dual_group_dro import PrimalDualGroupDROLoss
from guidestar.losses.siglip import SigLIPLoss
from guidestar.losses.sogclr import SogCLRLoss
from guidestar.losses.sonex import SONEXLoss
from guidestar.losses.sonx import SONXLoss
from guidestar.losses.sopa import SOPALoss
from guidestar.losses.sopa_s import SOPAsLoss
from guidestar.losses.sota_s import SOTAsLoss
from guidestar.losses.staco import STACOLoss
from guidestar.losses.tempnet import TempNetLoss
from guidestar.losses.top_k_ndcg import RankInclusion as RankInclusion
from guidestar.losses.top_k_ndcg import ThresholdInclusion as ThresholdInclusion
from guidestar.losses.two_way_partial_auc import TwoWayPartialAUCLoss

__all__ = [
    "ABSGDLoss",
    "ALDRLoss",
    "ALEXRLoss",
    "AUCMarginLoss",
    "AveragePrecisionLoss",
    "CLIPDistillationLoss",
    "CLIPLoss",
    "ClassBalancedLoss",
    "DRRhoCLIPLoss",
    "DRRhoContrastiveLoss",
    "DRRhoCrossEntropyLoss",
    "DistillationLoss",
    "ExtremeClassificationLoss",
    "FastCLIPLoss",
    "FeatureDistillationLoss",
    "FocalLoss",
    "GroupDROLoss",
    "ISogCLRLoss",
    "InfoNCELoss",
    "LDRLoss",
    "ListwiseCrossEntropyLoss",
    "LogitAdjustedLoss",
    "NDCGLoss",
    "OnlineGroupDROLoss",
    "PairwiseAUCLoss",
    "PartialAUCLoss",
    "PrimalDualGroupDROLoss",
    "SONEXLoss",
    "SONXLoss",
    "SOPALoss",
    "SOPAsLoss",
    "SOTAsLoss",
    "STACOLoss",
    "SigLIPLoss",
    "SogCLRLoss",
    "TempNetLoss",
    "TwoWayPartialAUCLoss",
]
