"""How good image and text embeddings are: retrieval, zero-shot classification, probes of frozen features, a gallery."""

from guidestar.evaluation.pairs.gallery import build_gallery
from guidestar.evaluation.pairs.probes import knn, linear_probe
from guidestar.evaluation.pairs.prompts import DEFAULT_TEMPLATES, class_embeddings
from guidestar.evaluation.pairs.retrieval import retrieval
from guidestar.evaluation.pairs.zero_shot import zero_shot

__all__ = [
    "DEFAULT_TEMPLATES",
    "build_gallery",
    "class_embeddings",
    "knn",
    "linear_probe",
    "retrieval",
    "zero_shot",
]
