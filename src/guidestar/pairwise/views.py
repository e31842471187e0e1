"""The features of two views of each sample of one tower, and the statistics of their negatives."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from guidestar import distributed
from guidestar.pairwise.mask import PairMask
from guidestar.pairwise.statistics import Features, Side, pair_statistics
from guidestar.pairwise.towers import check_index, towers
from guidestar.state import merge_duplicates


@dataclass(frozen=True)
class Views:
    """This rank's 2b anchors (first views, then second views) against all ranks' 2B.

    Args:
        features: own anchors and everybody's, `[2b, d]` and `[2B, d]`.
        other: own anchors' other views, and the reference's, `[2b, d]`.
        index: row numbers `[2b]`, or None.
        samples: int64 `[2b]` and `[2B]`: anchors of one sample, or of one group, are not each other's negatives.
        valid: bool `[2b]` and `[2B]`, or None.
        first: where own anchors are among everybody's.
        spread: the ranks share the batch.
        grouped: whether `samples` are groups of several samples.
    """

    features: Features
    other: tuple[Tensor, Tensor | None]
    index: Tensor | None
    samples: tuple[Tensor, Tensor]
    valid: tuple[Tensor, Tensor] | None
    first: int
    spread: bool
    grouped: bool

    def mask(self) -> PairMask:
        """The negatives of each anchor."""
        row_valid, column_valid = self.valid or (None, None)
        rows, columns = self.features.x.shape[0], self.features.y.shape[0]
        return PairMask(rows, columns, None, False, *self.samples, row_valid, column_valid)

    def statistics(self, scale: Tensor, *, tiled: bool) -> Side:
        """Statistics of own anchors over their negatives; `scale` is a scalar or `[2b]`."""
        side, _ = pair_statistics(self.features, scale, None, self.mask(), tiled=tiled)
        return side

    def active(self, side: Side) -> Tensor | None:
        """Which anchors have a negative, None for all."""
        if self.valid is None and not self.grouped and self.features.y.shape[0] > 2:
            return None
        return torch.as_tensor(side.count, device=side.log_sum.device) >= 1

    def positives(self, *, several: bool) -> Tensor:
        """The similarity of each own anchor with its other view, or with all other anchors of its group, `[2b]`."""
        if not several or not self.grouped:
            return self.features.own(*self.other)
        everyone = self.samples[1]
        mine = slice(self.first, self.first + self.features.x.shape[0])
        ordered = torch.sort(everyone if self.valid is None else everyone[self.valid[1]]).values
        size = torch.searchsorted(ordered, self.samples[0], right=True) - torch.searchsorted(ordered, self.samples[0])
        size = size.clamp(min=2).to(self.features.x.dtype)
        active = None if self.valid is None else self.valid[1]

        def others(values: Tensor, own: Tensor) -> Tensor:
            mean = merge_duplicates(everyone, values, active=active)[mine]
            return (mean * size.unsqueeze(1) - own) / (size - 1).unsqueeze(1)

        y = others(self.features.y, self.features.x)
        if self.features.reference_x is None or self.features.reference_y is None:
            return self.features.own(y, None)
        return self.features.own(y, others(self.features.reference_y, self.features.reference_x))


def views(
    first: Tensor,
    second: Tensor,
    index: Tensor | None,
    *,
    reference_first: Tensor | None = None,
    reference_second: Tensor | None = None,
    groups: Tensor | None = None,
    mask: Tensor | None = None,
    learning: bool = True,
) -> Views:
    """Check two views of each sample, and gather them over the ranks.

    Raises:
        TypeError, ValueError: as `guidestar.pairwise.towers.towers`.
    """
    # The checks and casts are those of two towers; what is gathered differs.
    pair = towers(
        first,
        second,
        reference_x=reference_first,
        reference_y=reference_second,
        groups=groups,
        mask=mask,
        learning=False,
        names=("first", "second"),
    ).own
    check_index(index, first)
    spread = learning and distributed.world_size() > 1
    count, rank = first.shape[0], distributed.rank() if spread else 0
    own = torch.cat([pair.x, pair.y])
    other = torch.cat([pair.y, pair.x])
    reference = reference_other = None
    if pair.reference_x is not None and pair.reference_y is not None:
        reference = torch.cat([pair.reference_x, pair.reference_y])
        reference_other = torch.cat([pair.reference_y, pair.reference_x])
    ids = torch.arange(count, device=own.device) + rank * count if groups is None else groups.to(own.device)
    samples = ids.to(torch.int64).repeat(2)
    valid = None if mask is None else mask.to(own.device).repeat(2)
    everyone = Features(
        own,
        distributed.gather_summed(own) if spread else own,
        reference,
        distributed.gather(reference) if spread and reference is not None else reference,
    )
    return Views(
        everyone,
        (other, reference_other),
        None if index is None else index.repeat(2),
        (samples, distributed.gather(samples) if spread else samples),
        None if valid is None else (valid, distributed.gather(valid) if spread else valid),
        rank * 2 * count,
        spread,
        groups is not None,
    )
