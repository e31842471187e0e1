"""How good a classifier is: accuracy, balanced accuracy, negative log-likelihood, calibration error; the worst group."""

from guidestar.evaluation.groups import per_group, worst_group
from guidestar.evaluation.metrics import classification_metrics, evaluate, per_class_accuracy

__all__ = ["classification_metrics", "evaluate", "per_class_accuracy", "per_group", "worst_group"]
