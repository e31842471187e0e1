"""`kill -9` in a training on pairs and while its reference is scored, then --resume: the same bits. Real processes."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from guidestar.training.recipe_io import load_recipe
from guidestar.training.runner import Options, Run

RECIPE = """
name: run
output: {output}
seeds: [0]
task: pairs
strategies: [steer]
data:
  train: {{source: function, function: "colours.py:load"}}
  test_samples: 40
  crop: random
  flip: true
  mismatch: 0.2
model: &model {{options: {{size: 8, width: 8, image_hidden: 8, image_layers: 2, text_hidden: 8}}}}
tokenizer: {{vocabulary: 300, length: 12}}
reference: {{model: *model, fit: {{samples: 60, epochs: 2, batch_size: 16}}}}
training: {{steps: {steps}, batch_size: 16, chunk: 8, ema: 0.99, lr: 0.01, checkpoint_every: 7, threads: 1, evaluate_every: 5}}
objective: {{contrast: {{temperature: {{kind: learnt, rho: 2.0, shared: none, gamma: 0.9}}}}}}
"""
COLOURS = """
import numpy as np


def load():
    draw = np.random.default_rng(0)
    images = draw.integers(0, 255, (500, 10, 10, 3)).astype(np.uint8)
    captions = [[f"number {row}", f"a square, the {row}th"] for row in range(500)]
    return {"images": images, "captions": captions, "keys": [f"k{row}" for row in range(500)]}
"""


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    pytest.importorskip("tokenizers")
    (tmp_path / "colours.py").write_text(COLOURS)

    def make(name: str, steps: int) -> Path:
        path = tmp_path / f"{name}.yaml"
        path.write_text(RECIPE.format(output=tmp_path / name, steps=steps))
        return path

    return make


def start(*arguments: object) -> subprocess.Popen[str]:
    # Compiled files are kept: without them a process takes ten seconds more to import what it needs.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": ""}
    command = [sys.executable, "-m", "guidestar", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def finish(*arguments: object) -> None:
    process = start(*arguments)
    out, _ = process.communicate(timeout=250)
    assert process.returncode == 0, out


def kill_when(process: subprocess.Popen[str], ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not ready():
        assert process.poll() is None, "it ended before it was killed:\n" + process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.kill()
    process.communicate()
    assert process.returncode == -9


def newest_step(folder: Path) -> int:
    names = [path.stem for path in folder.glob("checkpoints/step-*.pt")]
    return max((int(name.removeprefix("step-")) for name in names), default=0)


def without_seconds(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_seconds(entry) for key, entry in value.items() if key != "seconds"}
    return value


def records(path: Path) -> list[Any]:
    text = path.read_text()
    return [without_seconds(json.loads(line)) for line in (text.splitlines() if path.suffix == ".jsonl" else [text])]


def assert_same_run(first: Path, second: Path) -> None:
    """Bit-identical weights and embeddings, and equal numbers but for the seconds."""
    kept = {"metrics.jsonl", "result.json", "results.json", "gallery.json", "tokenizer.json"}
    names = [
        sorted(
            str(path.relative_to(run)) for path in run.rglob("*") if path.name in kept or path.suffix == ".safetensors"
        )
        for run in (first, second)
    ]
    assert names[0] == names[1]
    assert len(names[0]) > 3
    for name in names[0]:
        left, right = first / name, second / name
        if left.suffix == ".safetensors":
            assert left.read_bytes() == right.read_bytes(), name
        else:
            assert records(left) == records(right), name


def straight_run(recipe: Path, *overrides: str) -> Path:
    """A run in this process that nobody interrupts."""
    loaded = load_recipe(recipe, overrides)
    Run(loaded, Options()).compare(loaded.recipe.strategies, loaded.recipe.seeds)
    return loaded.run_folder


def test_a_training_that_is_killed_ends_in_the_same_bits(write: Callable[..., Path], tmp_path: Path) -> None:
    """Steered, with temperatures and averages of each row, chunks, random crops and an average of the weights."""
    straight = straight_run(write("straight", 150))
    recipe, folder = write("killed", 150), tmp_path / "killed" / "run" / "seed-0" / "steer"
    step = random.Random(os.getpid()).randrange(14, 80)
    kill_when(start("train", recipe), lambda: newest_step(folder) >= step)
    assert newest_step(folder) < 150
    finish("train", recipe, "--resume")
    assert_same_run(straight, tmp_path / "killed" / "run")


@pytest.mark.slow
def test_killed_twice_with_selection(write: Callable[..., Path], tmp_path: Path) -> None:
    option = "strategies=[jest]"
    straight = straight_run(write("straight", 100), option)
    recipe, folder = write("killed", 100), tmp_path / "killed" / "run"
    store = folder / "reference" / "seed-0" / "store"
    kill_when(start("train", recipe, option), store.exists)  # while it is scored
    kill_when(start("train", recipe, option, "--resume"), lambda: newest_step(folder / "seed-0" / "jest") >= 30)
    finish("train", recipe, option, "--resume")
    assert_same_run(straight, folder)
