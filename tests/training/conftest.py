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


PAIRS_TEXT = """
name: tiny
task: pairs
output: {output}
seeds: [0]
data:
  train: {{source: function, function: "tiny_pairs.py:load"}}
  test_samples: 24
model: &model
  name: dual
  options: {{size: 8, width: 8, image_hidden: 8, image_layers: 2, text_hidden: 8}}
tokenizer: {{vocabulary: 300, length: 12}}
reference: {{model: *model, fit: {{samples: 32, epochs: 2, batch_size: 16}}}}
training: {{steps: 8, batch_size: 16, checkpoint_every: 3, threads: 1, lr: 0.01}}
evaluate: {{templates: ["a {{}}"]}}
"""

PAIRS_FUNCTION = '''
import numpy as np

COLOURS = {"red": (200, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 200), "white": (220, 220, 220)}
THINGS = ("shoe", "shirt")


def load(rows=136, several=True):
    """Squares of a colour in the upper or lower half: a shoe or a shirt."""
    draw = np.random.default_rng(0)
    colours, things = draw.integers(0, len(COLOURS), rows), draw.integers(0, len(THINGS), rows)
    images = draw.integers(0, 40, (rows, 10, 10, 3)).astype(np.uint8)
    captions = []
    for row in range(rows):
        name = list(COLOURS)[colours[row]]
        half = slice(0, 5) if things[row] else slice(5, 10)
        images[row, half] = np.clip(np.array(COLOURS[name]) + draw.integers(-20, 20, (5, 10, 3)), 0, 255)
        own = [f"a {name} {THINGS[things[row]]}", f"{name} {THINGS[things[row]]} number {row}"]
        captions.append(own if several else own[:1])
    return {"images": images, "captions": captions, "labels": [captions[row][0][2:] for row in range(rows)],
            "keys": [f"pair-{row}" for row in range(rows)]}
'''


@pytest.fixture
def load_pairs_recipe(tmp_path: Path) -> Load:
    pytest.importorskip("tokenizers")
    (tmp_path / "tiny_pairs.py").write_text(PAIRS_FUNCTION)

    def make(*overrides: str) -> LoadedRecipe:
        path = tmp_path / "pairs.yaml"
        path.write_text(PAIRS_TEXT.format(output=tmp_path / "runs"))
        return load_recipe(path, list(overrides))

    return make
