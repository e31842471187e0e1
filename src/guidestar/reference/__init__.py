"""What a reference model says about each sample: computed once and stored, or live."""

from guidestar.reference.joined import StoredReference
from guidestar.reference.live import LiveReference
from guidestar.reference.score import score
from guidestar.reference.store import Store

__all__ = ["LiveReference", "Store", "StoredReference", "score"]
