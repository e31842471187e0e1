"""Training steps steered from a store against plain ones, and scoring against a bare forward loop, at ResNet-18 size.

    python benchmarks/training.py [--device cuda] [--repeats 12]

Steps are those of the training loop itself, data loading included, on 32 x 32 colour images; the store is filled by `score`
first. The targets are at most 3 % more for a steered step, and at least 0.9 of the bare loop's speed for scoring.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from interleaved import medians, publish

from guidestar.models.load import build_model
from guidestar.models.weights import weights_hash
from guidestar.reference import StoredReference, score
from guidestar.training.interrupt import StopRequest
from guidestar.training.job import Job
from guidestar.training.loop import Training
from guidestar.training.prepare import load_source, seed_data, target_model
from guidestar.training.recipe_io import LoadedRecipe, load_recipe
from guidestar.training.recipe_sections import ModelSettings
from guidestar.training.runner import build_engine

ROWS = 2048


def write_recipe(folder: Path, device: str, batch: int) -> LoadedRecipe:
    """A recipe on random images (the values do not matter for the time)."""
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (ROWS, 3, 32, 32), dtype=np.uint8)
    np.savez(folder / "data.npz", x=images, y=np.arange(ROWS) % 10)
    source = "{source: npz, path: data.npz, inputs: x, labels: y}"
    (folder / "recipe.yaml").write_text(
        f"name: steps\noutput: {folder}\nseeds: [0]\nstrategies: [erm, steer]\n"
        f"data: {{train: {source}, test_fraction: 0.25}}\nmodel: {{name: resnet18}}\n"
        f"reference: {{model: {{name: cnn}}, fit: {{samples: 1}}}}\n"
        f"training: {{steps: 100000, batch_size: {batch}, checkpoint_every: 1000000, device: {device}}}\n"
    )
    return load_recipe(folder / "recipe.yaml")


def steps(loaded: LoadedRecipe, strategy: str, reference: Any, folder: Path) -> Any:
    """A call that makes one training step of a strategy."""
    engine = build_engine(loaded.recipe, folder)
    source = load_source(loaded)
    data = seed_data(loaded, source, 0)
    model = target_model(loaded, source, 0)
    job = Job(loaded, strategy, 0, data, model, reference(data.train), 0, folder / strategy, engine)
    training = Training(job, resume=False)
    batches = iter(training.stepper.batches(0, training.total))

    def call() -> None:
        training._step(batches, StopRequest())
        if engine.device.type == "cuda":
            torch.cuda.synchronize()

    return call


def main() -> None:
    """Time, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--repeats", type=int, default=12)
    options = parser.parse_args()
    batch = 256 if options.device == "cuda" else 32
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        loaded = write_recipe(folder, options.device, batch)
        source = load_source(loaded)
        model = build_model(ModelSettings(name="resnet18"), source.train.input_shape, 10).to(options.device)
        rows = [_scoring(model, source.train, folder, options.device)]
        store = score(model, source.train, folder / "store", **_about(model, options.device))
        plain = steps(loaded, "erm", lambda split: None, folder)
        steered = steps(loaded, "steer", lambda split: StoredReference(store, split), folder)
        first, second = medians(plain, steered, repeats=options.repeats, inner=1)
    rows.insert(
        0, ["steered step / ERM step", f"{second / 1e3:.1f} ms", f"{first / 1e3:.1f} ms", f"{second / first:.3f}"]
    )
    publish(
        f"training_{options.device}",
        "Steering's cost in a training step, and scoring's speed",
        ["what", "guidestar", "peer", "ratio"],
        rows,
        f"ResNet-18 (11.2 M parameters) on 32 x 32 images, batches of {batch}; steps take turns in one process, medians of "
        f"{options.repeats} each. Scoring: rows a second over {ROWS - ROWS // 4:,} rows against a loop over the same batches "
        "that only runs the model, medians of 3 turns each.",
    )


def _about(model: torch.nn.Module, device: str) -> dict[str, Any]:
    return {
        "batch_size": 128,
        "device": device,
        "reference_name": "resnet18",
        "weights_hash": weights_hash(model),
        "progress": False,
        "block": 512,
    }


def _scoring(model: torch.nn.Module, split: Any, folder: Path, device: str) -> list[str]:
    batches = [list(range(at, min(at + 128, len(split)))) for at in range(0, len(split), 128)]
    model.eval()

    def bare() -> None:
        with torch.inference_mode():
            for rows in batches:
                model(split.__getitems__(rows)[0].to(device))
        if device == "cuda":
            torch.cuda.synchronize()

    taken: dict[str, list[float]] = {"bare": [], "score": []}
    for turn in range(4):
        start = time.perf_counter()
        bare()
        middle = time.perf_counter()
        score(model, split, folder / f"store-{turn}", **_about(model, device))
        end = time.perf_counter()
        if turn:  # the first turn warms up
            taken["bare"].append(middle - start)
            taken["score"].append(end - middle)
    speed = {name: len(split) / float(np.median(seconds)) for name, seconds in taken.items()}
    ratio = speed["score"] / speed["bare"]
    return [
        "scoring / bare forward loop",
        f"{speed['score']:.0f} rows/s",
        f"{speed['bare']:.0f} rows/s",
        f"{ratio:.3f}",
    ]


if __name__ == "__main__":
    main()
