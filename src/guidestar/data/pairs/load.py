"""From the settings of a source to its pairs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from guidestar.data.pairs.folder import read_folder
from guidestar.data.pairs.function import read_function
from guidestar.data.pairs.hub import read_hub
from guidestar.data.pairs.parquet import read_parquet
from guidestar.data.pairs.protocol import Pairs
from guidestar.data.pairs.settings import FolderPairs, FunctionPairs, HubPairs, PairSource, ParquetPairs
from guidestar.data.pairs.shards import read_shards


def load_pairs(
    settings: PairSource,
    *,
    base: Path,
    on_error: Literal["raise", "skip"] = "raise",
    name: str = "train",
    class_names: Sequence[str] | None = None,
) -> Pairs:
    """The pairs of a source.

    Args:
        settings: the source.
        base: the folder of the recipe, which paths are relative to.
        on_error: "raise", or "skip" rows that have no caption or whose file is missing. Images are decoded only when
            they are read; see `PairDataset` for those that then turn out to be broken.
        name: "train" or "test".
        class_names: the classes of the training data, when this is the test data.

    Raises:
        ImportError: a package that the source needs is not installed.
        UserError: the data is not as the settings say.
        OSError: a file cannot be read.
    """
    arguments = {"base": base, "name": name, "other": class_names, "on_error": on_error}
    if isinstance(settings, FunctionPairs):
        pairs = read_function(settings, **arguments)
    elif isinstance(settings, FolderPairs):
        pairs = read_folder(settings, **arguments)
    elif isinstance(settings, ParquetPairs):
        pairs = read_parquet(settings, **arguments)
    elif isinstance(settings, HubPairs):
        pairs = read_hub(settings, **arguments)
    else:
        # What can be skipped there was skipped when the shards were indexed.
        pairs = read_shards(settings, base=base, name=name, other=class_names)
    if settings.limit is None or settings.limit >= len(pairs):
        return pairs
    rows = np.random.default_rng(settings.limit_seed).permutation(len(pairs))[: settings.limit]
    return pairs.subset(np.sort(rows))
