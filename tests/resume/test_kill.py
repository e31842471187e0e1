"""`kill -9` at any moment, then --resume: the same bits as the run that was not killed. Real processes."""

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

import numpy as np
import pytest

from guidestar.models.weights import save_weights
from guidestar.training.prepare import load_source, reference_model
from guidestar.training.recipe_io import load_recipe
from guidestar.training.runner import Options, Run

RECIPE = """
name: run
output: {output}
seeds: [0]
strategies: [steer]
data: {{train: {{source: sklearn_digits}}, test_fraction: 0.5, train_samples: 400, label_noise: 0.2}}
model: {{name: mlp, options: {{hidden: [16], dropout: 0.3}}}}
reference: {{model: {{name: mlp, options: {{hidden: [16]}}}}, fit: {{samples: 60, epochs: 10, batch_size: 16}}}}
training: {{steps: {steps}, batch_size: 16, optimizer: sgd, lr: 0.05, checkpoint_every: 13, threads: 1}}
steer: {{risk: {{kind: kl, gamma: 0.9}}}}
"""
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def make(name: str, steps: int) -> Path:
        path = tmp_path / f"{name}.yaml"
        path.write_text(RECIPE.format(output=tmp_path / name, steps=steps))
        return path

    return make


def start(*arguments: object) -> subprocess.Popen[str]:
    # Compiled files are kept: without them a process takes ten seconds more to import what it needs.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": ""}
    return subprocess.Popen(
        [sys.executable, "-m", "guidestar", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )


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


def journal(path: Path) -> list[Any]:
    return [without_seconds(json.loads(line)) for line in path.read_text().splitlines()]


def assert_same_run(first: Path, second: Path) -> None:
    """Bit-identical weights, and equal numbers but for the seconds, in everything that the two runs hold."""
    kept = {"model.safetensors", "metrics.jsonl", "result.json", "results.json", "samples.json", "weights.npz"}
    stores = {"loss.npy", "logits.npy", "label.npy", "key.npy", "valid.npy", "input_mean.npy"}
    names = [
        sorted(str(path.relative_to(run)) for path in run.rglob("*") if path.name in kept | stores)
        for run in (first, second)
    ]
    assert names[0] == names[1]
    assert names[0]
    for name in names[0]:
        left, right = first / name, second / name
        if left.suffix == ".json":
            assert without_seconds(json.loads(left.read_text())) == without_seconds(json.loads(right.read_text())), name
        elif left.suffix == ".jsonl":
            assert journal(left) == journal(right), name
        else:
            assert left.read_bytes() == right.read_bytes(), name
    assert not list(second.rglob("checkpoints/*.tmp"))


def straight_run(recipe: Path, tmp_path: Path, strategy: str) -> Path:
    """A run in this process that nobody interrupts."""
    loaded = load_recipe(recipe, [f"strategies=[{strategy}]"])
    Run(loaded, Options()).compare(loaded.recipe.strategies, loaded.recipe.seeds)
    return tmp_path / recipe.stem / "run"


def test_a_training_that_is_killed_ends_in_the_same_bits(write: Write, tmp_path: Path) -> None:
    """Steered, with a tracked average, dropout and momentum; killed at a random step."""
    straight = straight_run(write("straight", 900), tmp_path, "steer")
    recipe, folder = write("killed", 900), tmp_path / "killed" / "run" / "seed-0" / "steer"
    step = random.Random(os.getpid()).randrange(50, 500)
    kill_when(start("train", recipe), lambda: newest_step(folder) >= step)
    assert newest_step(folder) < 900
    finish("train", recipe, "--resume")
    assert_same_run(straight, tmp_path / "killed" / "run")


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["select", "steer+distill", "dro"])
def test_other_strategies_too_killed_twice(write: Write, tmp_path: Path, strategy: str) -> None:
    option = f"strategies=[{strategy}]"
    straight = straight_run(write("straight", 900), tmp_path, strategy)
    recipe, folder = write("killed", 900), tmp_path / "killed" / "run" / "seed-0" / strategy
    kill_when(start("train", recipe, option), lambda: newest_step(folder) >= 200)
    kill_when(start("train", recipe, option, "--resume"), lambda: newest_step(folder) >= 500)
    finish("train", recipe, option, "--resume")
    assert_same_run(straight, tmp_path / "killed" / "run")


@pytest.mark.slow
def test_a_comparison_that_is_killed_at_random_times(write: Write, tmp_path: Path) -> None:
    options = (
        "strategies=[as_is, erm, finetune, distill, select, steer]",
        "model={name: mlp, options: {hidden: [16]}}",
        "seeds=[0, 1]",
    )
    finish("compare", write("straight", 150), *options)
    recipe, folder = write("killed", 150), tmp_path / "killed" / "run"
    kill_when(start("compare", recipe, *options), lambda: (folder / "recipe.yaml").exists())
    rng = random.Random(os.getpid())
    for _ in range(4):
        process, seen, limit = start("compare", recipe, *options, "--resume"), [0], rng.randrange(5, 200)

        def passed(seen: list[int] = seen, limit: int = limit, names: set[str] = set(listing(folder))) -> bool:  # noqa: B006, B008
            seen[0] += len(set(listing(folder)) - names)  # grows as soon as there are new files, and goes on growing
            return seen[0] >= limit

        kill_when(process, passed)
    finish("compare", recipe, *options, "--resume")
    assert_same_run(tmp_path / "straight" / "run", folder)


def listing(folder: Path) -> list[str]:
    return [str(path) for path in folder.rglob("*")]


ROWS = """
import torch

from guidestar.data.arrays import ArraySplit


def rows():
    inputs = torch.rand(400_000, 8, generator=torch.Generator().manual_seed(0))
    train = ArraySplit(inputs, inputs.argmax(1), name="train", num_classes=8)
    return {"train": train, "test": train.subset(list(range(100)), "test")}
"""


@pytest.mark.slow
def test_scoring_that_is_killed_gives_the_same_store(tmp_path: Path) -> None:
    (tmp_path / "rows.py").write_text(ROWS)
    mlp, recipe = "{name: mlp, options: {hidden: [64, 64]}}", tmp_path / "score.yaml"
    recipe.write_text(
        f"name: run\noutput: {tmp_path}/straight\nstrategies: [steer]\nseeds: [0]\n"
        "data: {train: {source: function, function: 'rows.py:rows'}}\n"
        f"model: {mlp}\nreference: {{model: {mlp}, weights: weights.safetensors}}\ntraining: {{threads: 1, steps: 5}}\n"
    )
    loaded = load_recipe(recipe)
    save_weights(reference_model(loaded, load_source(loaded), 3), tmp_path / "weights.safetensors")
    finish("score", recipe)
    there, store = f"output={tmp_path}/killed", tmp_path / "killed" / "run" / "reference" / "store"
    kill_when(start("score", recipe, there), lambda: blocks(store) >= 8)
    assert blocks(store) < 98
    finish("score", recipe, there, "--resume")
    assert_same_run(tmp_path / "straight" / "run", tmp_path / "killed" / "run")


def blocks(store: Path) -> int:
    """How many blocks of 4,096 rows are marked as valid."""
    if not (store / "meta.json").exists() or not (store / "valid.npy").exists():
        return 0
    return int(np.unpackbits(np.load(store / "valid.npy")).sum()) // 4096
