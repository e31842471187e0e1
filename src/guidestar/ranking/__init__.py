"""What losses over pairs of scores share: checked batches, means over the pairs of an anchor, and their fast paths."""

from guidestar.ranking.positive_rows import positive_rows
from guidestar.ranking.queries import ideal_dcg

__all__ = ["ideal_dcg", "positive_rows"]
