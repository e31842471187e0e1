"""The package of scripts is found from the root of the repository, and a small task that needs no files."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.ranking.task import BinaryTask, Part


@pytest.fixture
def toy() -> BinaryTask:
    """80 points of two classes with different means, a quarter of them positive, in all three parts."""
    generator = torch.Generator().manual_seed(0)
    y = (torch.arange(80) < 20).long()
    x = torch.randn(80, 3, generator=generator) + 2.0 * y[:, None]
    part = Part(x, y)
    return BinaryTask("toy", "Toy", part, part, part, lambda: nn.Linear(3, 1), steps=60, batch_size=16)
