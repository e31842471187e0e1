"""Tiny runs: `load(overrides)` gives a recipe on scikit-learn's digits that trains in a fraction of a second."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from guidestar.training.recipe_io import LoadedRecipe, load_recipe

TEXT = """
name: tiny
output: {output}
seeds: [0]
data: {{train: {{source: sklearn_digits}}, test_fraction: 0.8, train_samples: 120, label_noise: 0.2}}
model: {{name: mlp, options: {{hidden: [16]}}}}
reference: {{model: {{name: mlp, options: {{hidden: [16]}}}}, fit: {{samples: 40, epochs: 4, batch_size: 16}}}}
training: {{steps: 20, batch_size: 16, checkpoint_every: 5, threads: 1, lr: 0.01}}
"""

Load = Callable[..., LoadedRecipe]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def make(*overrides: str) -> LoadedRecipe:
        path = tmp_path / "tiny.yaml"
        path.write_text(TEXT.format(output=tmp_path / "runs"))
        return load_recipe(path, list(overrides))

    return make
