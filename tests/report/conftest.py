"""A fabricated run directory with the files and the proportions of a real one."""

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

# strategy: final accuracy, its spread over seeds, seconds.
STRATEGIES = {
    "as_is": (0.901, 0.0, 0.1),
    "erm": (0.852, 0.008, 3.1),
    "dro": (0.831, 0.012, 3.2),
    "finetune": (0.921, 0.006, 3.0),
    "distill": (0.929, 0.007, 3.4),
    "select": (0.930, 0.008, 11.8),
    "steer": (0.947, 0.006, 3.2),
    "steer+distill": (0.936, 0.006, 3.5),
}
RECIPE: dict[str, Any] = {
    "name": "digits",
    "seeds": [0, 1, 2, 3, 4],
    "strategies": list(STRATEGIES),
    "data": {"train": {"source": "sklearn_digits"}, "label_noise": 0.3, "imbalance": 1.0, "train_samples": 1000},
    "model": {"name": "mlp", "options": {"hidden": [256, 256]}},
    "reference": {"model": {"name": "mlp", "options": {"hidden": [32]}}, "fit": {"samples": 200, "epochs": 60}},
    "training": {"epochs": 20, "steps": None, "batch_size": 128},
    "steer": {"risk": {"kind": "kl", "tau": 1.0, "gamma": 0.9}},
}
ENVIRONMENT = {
    "guidestar": "0.1.0",
    "torch": "2.13.0",
    "python": "3.12.3",
    "platform": "Linux",
    "device": "cpu",
    "threads": 2,
    "date": "2026-01-01T12:00:00Z",
}
EPOCHS, SAMPLES = 20, 1000


def png(pixels: np.ndarray) -> str:
    """An image as a data URI."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def fabricate(path: Path, seeds: int = 5, images: np.ndarray | None = None, **recipe: Any) -> Path:
    """Write a finished run; `images` (uint8 [m, H, W]) stand for the samples' pictures."""
    path.mkdir(parents=True)
    generator = np.random.default_rng(0)
    if images is None:
        images = generator.integers(0, 256, size=(24, 8, 8), dtype=np.uint8)
    filled = {**RECIPE, "name": path.name, "seeds": list(range(seeds)), **recipe}
    (path / "recipe.yaml").write_text(yaml.safe_dump(filled, sort_keys=False))
    (path / "environment.json").write_text(json.dumps(ENVIRONMENT))
    totals: dict[str, dict[str, list[float]]] = {}
    for seed in range(seeds):
        for strategy in STRATEGIES:
            folder = path / f"seed-{seed}" / strategy
            folder.mkdir(parents=True)
            result = _result(strategy, generator)
            (folder / "result.json").write_text(json.dumps(result))
            for name, value in {**result["metrics"], **result["cost"]}.items():
                totals.setdefault(strategy, {}).setdefault(name, []).append(value)
            if strategy != "as_is":
                _write_curve(folder, result["metrics"], generator)
            if strategy in ("steer", "steer+distill", "select", "dro"):
                _write_weights(folder, strategy, images, generator)
    (path / "results.json").write_text(json.dumps(totals))
    return path


def _result(strategy: str, generator: np.random.Generator) -> dict[str, Any]:
    accuracy, spread, seconds = STRATEGIES[strategy]
    accuracy += spread * float(generator.standard_normal())
    trained = 0 if strategy == "as_is" else EPOCHS * SAMPLES
    forward = 10 * trained if strategy == "select" else trained
    uses_reference = strategy in ("distill", "select", "steer", "steer+distill")
    return {
        "status": "finished",
        "metrics": {
            "accuracy": accuracy,
            "balanced_accuracy": accuracy - 0.002,
            "nll": 1.6 * (1 - accuracy) + 0.1,
            "ece": 0.4 * (1 - accuracy),
        },
        "cost": {
            "seconds": seconds + 0.05 * float(generator.random()),
            "samples_trained": trained,
            "forward_samples": forward,
            "reference_forward_samples": SAMPLES if uses_reference else 0,
        },
    }


def _write_curve(folder: Path, metrics: dict[str, float], generator: np.random.Generator) -> None:
    lines = []
    for epoch in range(1, EPOCHS + 1):
        noise = 0.01 * float(generator.standard_normal())
        share = 1.0 if epoch == EPOCHS else min(1 - float(np.exp(-epoch / 3)) + noise, 1.01)
        test = {**metrics, "accuracy": 0.3 + (metrics["accuracy"] - 0.3) * share}
        record = {"step": 8 * epoch, "epoch": epoch, "samples_trained": SAMPLES * epoch, "train_loss": 1 / epoch}
        lines.append(json.dumps({**record, "seconds": 0.15 * epoch}))
        lines.append(json.dumps({**record, "seconds": 0.15 * epoch, "test": test}))
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")


def _write_weights(folder: Path, strategy: str, images: np.ndarray, generator: np.random.Generator) -> None:
    label = generator.integers(0, 10, SAMPLES)
    true_label = label.copy()
    true_label[:300] = (label[:300] + 1 + generator.integers(0, 9, 300)) % 10
    corrupted = true_label != label
    centre = np.where(corrupted, -2.2, 0.3) if strategy != "dro" else np.where(corrupted, 0.8, -0.4)
    weight = np.exp(centre + 0.55 * generator.standard_normal(SAMPLES))
    if strategy == "select":
        weight[weight < 0.6] = 0
    weight = (weight / weight.mean()).astype(np.float32)
    arrays = {"row": np.arange(SAMPLES), "weight": weight, "label": label, "true_label": true_label}
    np.savez(folder / "weights.npz", rho=generator.standard_normal(SAMPLES).astype(np.float32), **arrays)
    order = np.argsort(-weight)
    ends = {"most": order[:12], "least": order[::-1][:12]}
    samples = {
        end: [
            {
                "row": int(row),
                "key": f"digits/train/{row:05d}",
                "label": str(label[row]),
                "true_label": str(true_label[row]),
                "weight": float(weight[row]),
                "image": png(images[place % len(images)]),
                "text": f"digit {true_label[row]}",
            }
            for place, row in enumerate(rows)
        ]
        for end, rows in ends.items()
    }
    (folder / "samples.json").write_text(json.dumps(samples))


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Fabricates runs in a temporary folder: `make_run("name", seeds=2, ...)`."""

    def make(name: str = "digits", **options: Any) -> Path:
        return fabricate(tmp_path / "runs" / name, **options)

    return make
