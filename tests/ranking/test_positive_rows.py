"""`positive_rows`: the numbers of the positives, and of nothing else."""

from __future__ import annotations

import pytest
import torch

from guidestar.ranking.positive_rows import NO_ROW, positive_rows


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float16, torch.float32])
def test_each_positive_has_a_number_of_its_own(dtype) -> None:
    labels = torch.rand(20, 7, generator=torch.Generator().manual_seed(0)) < 0.2
    rows = positive_rows(labels.to(dtype))
    assert rows.dtype == torch.int64
    assert torch.equal(rows[labels], torch.arange(int(labels.sum())))
    assert torch.equal(rows[~labels], torch.full((int((~labels).sum()),), NO_ROW))


def test_one_label_missing_labels_and_nothing() -> None:
    assert positive_rows(torch.tensor([1.0, float("nan"), 0.0, 1.0])).tolist() == [0, -1, -1, 1]
    assert positive_rows(torch.zeros(0, 3)).shape == (0, 3)


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"`labels` must be 0 or 1. Found -1.*pass \(labels > 0\)"):
        positive_rows(torch.tensor([1, -1]))
    with pytest.raises(ValueError, match=r"`labels` must be \[n\] or \[n, L\]. Found \(1, 1, 1\)"):
        positive_rows(torch.zeros(1, 1, 1))
