"""A fabricated run on image-text pairs, and the records of a scaling grid."""

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

# strategy: zero-shot accuracy, recall at 10 from images, and from texts.
STRATEGIES = {
    "as_is": (0.396, 0.340, 0.322),
    "erm": (0.485, 0.620, 0.606),
    "siglip": (0.470, 0.600, 0.590),
    "dro": (0.480, 0.560, 0.550),
    "fastclip": (0.490, 0.610, 0.600),
    "distill": (0.500, 0.520, 0.510),
    "select": (0.460, 0.540, 0.530),
    "jest": (0.465, 0.550, 0.540),
    "steer": (0.530, 0.525, 0.515),
    "steer+distill": (0.515, 0.500, 0.490),
    "steer_init": (0.520, 0.515, 0.500),
}
SEEDS, EPOCHS = 3, 15


def fabricate_pairs(path: Path, labels: bool = True, **recipe: Any) -> Path:
    """Write a finished run; without labels there is retrieval only."""
    generator = np.random.default_rng(0)
    path.mkdir(parents=True)
    filled = {
        "name": path.name,
        "task": "pairs",
        "seeds": list(range(SEEDS)),
        "strategies": list(STRATEGIES),
        "data": {"train": {"source": "function", "function": "pairs_data.py:products"}, "mismatch": 0.4},
        "model": {"name": "dual", "options": {"image": "cnn", "text": "bag"}},
        "reference": {"model": {"name": "dual"}, "fit": {"samples": 2500, "epochs": 15}},
        "training": {"epochs": EPOCHS, "steps": None, "batch_size": 256},
        "objective": {"contrast": {"temperature": {"kind": "constant", "tau": 0.05, "gamma": 1.0}, "eps": None}},
        **recipe,
    }
    (path / "recipe.yaml").write_text(yaml.safe_dump(filled, sort_keys=False))
    (path / "environment.json").write_text(json.dumps({"torch": "2.13.0"}))
    totals: dict[str, dict[str, list[float]]] = {}
    for seed in range(SEEDS):
        for strategy, levels in STRATEGIES.items():
            folder = path / f"seed-{seed}" / strategy
            folder.mkdir(parents=True)
            noise = 0.004 * generator.standard_normal(3)
            metrics = _metrics(*(float(level) for level in np.array(levels) + noise), labels=labels)
            cost = {"seconds": 30 + float(generator.random()), "samples_trained": 0 if strategy == "as_is" else 83745}
            result = {"status": "finished", "metrics": metrics, "cost": cost}
            (folder / "result.json").write_text(json.dumps(result))
            for name, value in {**metrics, **cost}.items():
                totals.setdefault(strategy, {}).setdefault(name, []).append(value)
            if strategy != "as_is":
                _write_curve(folder, metrics)
            if seed == 0:
                (folder / "gallery.json").write_text(json.dumps(_gallery(generator)))
    (path / "results.json").write_text(json.dumps(totals))
    return path


def jpeg(pixels: np.ndarray) -> str:
    """An image in base64."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG")
    return base64.b64encode(buffer.getvalue()).decode()


def scaling_records(saving: float = 2.0, noise: float = 0.02) -> list[dict[str, Any]]:
    """A grid whose steered runs need `saving` times less compute, apart from their reference."""
    generator = np.random.default_rng(1)
    records = []
    for strategy, factor in (("erm", 1.0), ("steer", saving)):
        for place, (model, flops) in enumerate((("hidden 8", 0.02), ("hidden 16", 0.06), ("hidden 32", 0.2))):
            for samples in (1000, 2000, 4000):
                for seed in (0, 1):
                    compute = flops * samples * 15
                    error = 0.3 + 1.2 * (factor * compute) ** -0.3 + 0.003 * place
                    error *= float(np.exp(noise * generator.standard_normal()))
                    cost = 400.0 if strategy == "steer" else 0.0
                    records.append(
                        {
                            "strategy": strategy,
                            "model": model,
                            "samples": samples,
                            "seed": seed,
                            "compute": compute,
                            "reference_compute": cost,
                            "error": error,
                        }
                    )
    return records


def _metrics(top1: float, to_text: float, to_image: float, labels: bool) -> dict[str, float]:
    metrics = {}
    if labels:
        metrics = {
            "zero_shot_top1": top1,
            "zero_shot_top5": min(1.0, top1 + 0.3),
            "zero_shot_mean_class": top1 - 0.03,
            "zero_shot_ece": 0.1,
            "zero_shot_nll": 2.1,
            "linear_probe": top1 + 0.2,
            "knn": top1 + 0.15,
        }
    for way, level in (("image_to_text", to_text), ("text_to_image", to_image)):
        metrics |= {f"{way}_r1": level / 4, f"{way}_r5": level * 0.75, f"{way}_r10": level}
    return metrics


def _write_curve(folder: Path, metrics: dict[str, float]) -> None:
    lines = []
    for epoch in range(1, EPOCHS + 1):
        share = 1.0 if epoch == EPOCHS else 1 - float(np.exp(-epoch / 3))
        test = {name: share * value for name, value in metrics.items()}
        lines.append(json.dumps({"step": 22 * epoch, "samples_trained": 5583 * epoch, "test": test}))
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")


def _gallery(generator: np.random.Generator) -> dict[str, Any]:
    def picture() -> str:
        base = generator.integers(0, 256, (4, 3, 3)).astype(np.uint8)
        return jpeg(base.repeat(24, axis=0).repeat(24, axis=1))

    captions = ["Puma men's running shoe, blue", "Titan women watch", "Red chequered cotton shirt with long sleeves"]
    rows = range(5)
    return {
        "text_to_image": [
            {
                "caption": captions[query % 3],
                "found": [
                    {"key": f"{row:05d}", "jpeg": picture(), "right": row == query % 7, "score": 0.8 - 0.05 * row}
                    for row in rows
                ],
            }
            for query in range(6)
        ],
        "image_to_text": [
            {
                "key": f"q{query:05d}",
                "jpeg": picture(),
                "found": [
                    {"caption": captions[row % 3], "right": row == query % 7, "score": 0.8 - 0.05 * row} for row in rows
                ],
            }
            for query in range(6)
        ],
    }


@pytest.fixture
def make_pairs_run(tmp_path: Path) -> Callable[..., Path]:
    """Fabricates runs on pairs in a temporary folder: `make_pairs_run("name", labels=False, ...)`."""

    def make(name: str = "products", **options: Any) -> Path:
        return fabricate_pairs(tmp_path / "runs" / name, **options)

    return make


@pytest.fixture
def grid() -> Callable[..., list[dict[str, Any]]]:
    """Fabricates the records of a scaling grid."""
    return scaling_records
