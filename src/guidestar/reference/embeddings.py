"""What a reference says about image-text pairs: embeddings of both towers, computed once and stored, or live.

`score_pairs` fills an `EmbeddingStore`; `StoredEmbeddings` joins it to pairs by key, and `LiveEmbeddings` gives the same
from a frozen model.
"""

from guidestar.reference.embeddings_join import StoredEmbeddings
from guidestar.reference.embeddings_score import score_pairs
from guidestar.reference.embeddings_store import EmbeddingStore
from guidestar.reference.live_embeddings import LiveEmbeddings

__all__ = ["EmbeddingStore", "LiveEmbeddings", "StoredEmbeddings", "score_pairs"]
