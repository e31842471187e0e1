"""How good a model is: accuracy, likelihood and calibration of a classifier; the worst group; how well scores rank."""

from guidestar.evaluation.groups import per_group, worst_group
from guidestar.evaluation.labels import PerLabel, per_label
from guidestar.evaluation.metrics import classification_metrics, evaluate, per_class_accuracy
from guidestar.evaluation.ranking import (
    NDCG,
    auc,
    average_precision,
    ndcg_at_k,
    partial_auc,
    two_way_partial_auc,
)

__all__ = [
    "NDCG",
    "PerLabel",
    "auc",
    "average_precision",
    "classification_metrics",
    "evaluate",
    "ndcg_at_k",
    "partial_auc",
    "per_class_accuracy",
    "per_group",
    "per_label",
    "two_way_partial_auc",
    "worst_group",
]
