"""What a training leaves in its folder, for the report and for whoever uses the model."""

from __future__ import annotations

import base64
import io
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from guidestar.data.split import Split
from guidestar.files import replacing, write_json
from guidestar.training.prepare import SeedData
from guidestar.training.weight_log import WeightLog

SHOWN = 12


def environment(device: torch.device) -> dict[str, Any]:
    """Versions and machine of this process, for the record."""
    return {
        "guidestar": version("guidestar"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device.type),
        "threads": torch.get_num_threads(),
        "date": datetime.now(UTC).date().isoformat(),
    }


def write_weights(folder: Path, log: WeightLog, data: SeedData) -> None:
    """`weights.npz` and `samples.json` of a strategy that weighed its samples; nothing if none was visited.

    Raises:
        DiskFull: the disk is full.
        OSError: a file cannot be written for another reason.
    """
    rows, weights, rho = log.mean()
    if not len(rows):
        return
    arrays: dict[str, Any] = {
        "row": rows.numpy(),
        "weight": weights.numpy(),
        "label": data.train.labels[rows].numpy(),
        "rho": rho.numpy(),
    }
    if data.true_labels is not None:
        arrays["true_label"] = data.true_labels[rows].numpy()
    with replacing(folder / "weights.npz") as stream:
        np.savez(stream, **arrays)
    # Equal weights (selection leaves many at 0) are told apart by the excess loss.
    order = np.lexsort((-rho.numpy(), -weights.numpy()))
    shown = min(SHOWN, len(rows) // 2)
    record = {
        "most": [_sample(data, int(rows[i]), weights[i]) for i in order[:shown]],
        "least": [_sample(data, int(rows[i]), weights[i]) for i in order[::-1][:shown]],
    }
    write_json(folder / "samples.json", record)


def _sample(data: SeedData, row: int, weight: Tensor) -> dict[str, Any]:
    split, names = data.train, data.train.class_names
    label = int(split.labels[row])
    true = None if data.true_labels is None else int(data.true_labels[row])
    return {
        "row": row,
        "key": split.keys([row])[0],
        "label": names[label],
        "true_label": None if true is None or true == label else names[true],
        "weight": float(weight),
        "image": _data_uri(split, row),
        "text": "" if split.kind == "image" else split.describe(row),
    }


def _data_uri(split: Split, row: int) -> str | None:
    from PIL import Image

    pixels = split.image(row)
    if pixels is None:
        return None
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
