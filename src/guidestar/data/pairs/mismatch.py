"""Pairs whose captions were put to other images, to see what a method makes of wrong data."""

from __future__ import annotations

import numpy as np
import torch

from guidestar.data.pairs.protocol import Pairs
from guidestar.errors import UserError


def mismatch(pairs: Pairs, share: float, seed: int) -> tuple[Pairs, torch.Tensor]:
    """Pairs in which a share of the rows has the captions of other rows.

    The chosen rows pass their captions round one random cycle, so none keeps its own and all captions still occur once.
    Images, keys and labels stay where they are.

    Args:
        pairs: the pairs; they stay as they are.
        share: how many rows lose their captions, as a fraction in [0, 1]; rounded to whole rows.
        seed: decides which, and to where.

    Returns:
        The changed copy, and which rows were changed, bool `[n]`.

    Raises:
        UserError: `share` is not in [0, 1], or comes to a single row, which has none to exchange with.

    Example:
        >>> from guidestar.data.pairs.memory import MemoryContent
        >>> from guidestar.data.pairs.rows import RowPairs
        >>> from guidestar.data.pairs.strings import CaptionLists
        >>> captions = CaptionLists.of([["a"], ["b"], ["c"], ["d"]])
        >>> pairs = RowPairs(MemoryContent([b""] * 4, captions, None, 64), name="train")
        >>> changed, moved = mismatch(pairs, 0.5, seed=0)
        >>> sum(changed.captions(row) != pairs.captions(row) for row in range(4)), int(moved.sum())
        (2, 2)
    """
    if not 0 <= share <= 1:
        raise UserError(f"`share` must be a fraction in [0, 1], found {share}.")
    count = round(share * len(pairs))
    if count == 1:
        raise UserError(f"`share` {share} of {len(pairs)} rows is one row, which has none to exchange captions with.")
    moved = torch.zeros(len(pairs), dtype=torch.bool)
    chosen = np.random.default_rng(seed).permutation(len(pairs))[:count]
    moved[torch.from_numpy(chosen)] = True
    if count == 0:
        return pairs, moved
    source = np.arange(len(pairs))
    source[chosen] = np.roll(chosen, 1)
    return pairs.with_captions([pairs.captions(row) for row in source.tolist()]), moved
