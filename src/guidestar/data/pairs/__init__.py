"""Image-text pairs: the sources they are read from, batches of them, and controlled changes."""

from guidestar.data.pairs.batches import PairBatch, PairDataset, pad_tokens
from guidestar.data.pairs.index import index_shards
from guidestar.data.pairs.load import load_pairs
from guidestar.data.pairs.memory import MemoryContent
from guidestar.data.pairs.mismatch import mismatch
from guidestar.data.pairs.plan import ShardPlan
from guidestar.data.pairs.protocol import Pairs, Part, Unreadable
from guidestar.data.pairs.rows import RowPairs
from guidestar.data.pairs.settings import (
    FolderPairs,
    FunctionPairs,
    HubPairs,
    PairSource,
    ParquetPairs,
    ShardPairs,
)

__all__ = [
    "FolderPairs",
    "FunctionPairs",
    "HubPairs",
    "MemoryContent",
    "PairBatch",
    "PairDataset",
    "PairSource",
    "Pairs",
    "ParquetPairs",
    "Part",
    "RowPairs",
    "ShardPairs",
    "ShardPlan",
    "Unreadable",
    "index_shards",
    "load_pairs",
    "mismatch",
    "pad_tokens",
]
