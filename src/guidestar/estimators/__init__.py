"""Estimators for tables with scikit-learn's interface: no training loop to write."""

try:
    import sklearn as _  # noqa: F401
except ImportError as error:
    raise ImportError(
        "`guidestar.estimators` needs scikit-learn. Install it with: pip install 'guidestar[sklearn]'"
    ) from error

from guidestar.estimators.auc import AUCClassifier
from guidestar.estimators.average_precision import AveragePrecisionClassifier
from guidestar.estimators.dro import DROClassifier
from guidestar.estimators.group_dro import GroupDROClassifier
from guidestar.estimators.partial_auc import PartialAUCClassifier
from guidestar.estimators.spectral import SpectralRegressor

__all__ = [
    "AUCClassifier",
    "AveragePrecisionClassifier",
    "DROClassifier",
    "GroupDROClassifier",
    "PartialAUCClassifier",
    "SpectralRegressor",
]
