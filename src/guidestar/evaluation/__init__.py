"""How good a classifier is: accuracy, balanced accuracy, negative log-likelihood and calibration error."""

from guidestar.evaluation.metrics import classification_metrics, evaluate, per_class_accuracy

__all__ = ["classification_metrics", "evaluate", "per_class_accuracy"]
