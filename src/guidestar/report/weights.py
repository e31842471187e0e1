"""The weights that a strategy gave to the training samples, and the samples it weighted most and least."""

import base64
import binascii
import json
import math
import re
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from guidestar.report.rundir import Run, number

# The strategy whose weights are shown: the first of these that has any.
SHOWN_FIRST = ("steer", "steer+distill", "steer_init", "select", "jest", "dro")
PNG_DATA = re.compile(r"data:image/png;base64,([A-Za-z0-9+/]+={0,2})")
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Images up to this many pixels a side are scaled up crisply; larger ones smoothly.
CRISP_SIDE = 96
SAMPLES_SHOWN = 12


@dataclass(frozen=True)
class Weights:
    """The weights of a strategy, all seeds together.

    Args:
        strategy: whose weights they are.
        clean: weights of samples whose label is the true one, or of all samples if the true labels are not known.
        corrupted: weights of samples whose label was changed on purpose; None if the true labels are not known.
        seeds: how many seeds they come from.
        warnings: files that could not be read.
    """

    strategy: str
    clean: np.ndarray
    corrupted: np.ndarray | None
    seeds: int
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Sample:
    """A training sample as the report shows it; all text is as the user's data has it.

    Args:
        key: its name.
        label: the label it was trained with.
        true_label: its true label, if that is known and differs.
        weight: its weight.
        text: its description.
        image: a checked data URI, or None.
        crisp: whether the image is scaled up without smoothing.
        image_refused: whether there was something in the place of the image that is no embedded PNG.
    """

    key: str
    label: str
    true_label: str | None
    weight: float
    text: str
    image: str | None
    crisp: bool
    image_refused: bool


def read_weights(run: Run, strategy: str) -> Weights | None:
    """The weights of a strategy, pooled over seeds.

    Args:
        run: the run.
        strategy: its name.

    Returns:
        The weights, or None if no seed has a `weights.npz`.

    Example:
        >>> read_weights(Run(Path("runs/none"), "none", [0], {}), "steer") is None
        True
    """
    clean: list[np.ndarray] = []
    corrupted: list[np.ndarray] = []
    warnings: list[str] = []
    known = True
    for seed, folder in run.folders.get(strategy, []):
        path = folder / "weights.npz"
        if not path.exists():
            continue
        try:
            weight, changed = _load(path)
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
            warnings.append(f"weights.npz of {strategy} on seed {seed} cannot be read: {error}")
            continue
        usable = np.isfinite(weight) & (weight >= 0)
        if not usable.all():
            warnings.append(
                f"{int((~usable).sum())} of {len(weight)} weights of {strategy} on seed {seed} are negative, NaN or "
                "infinite; they are left out."
            )
        known = known and changed is not None
        mask = np.zeros(len(weight), dtype=bool) if changed is None else changed
        clean.append(weight[usable & ~mask])
        corrupted.append(weight[usable & mask])
    if not clean and not warnings:
        return None
    if not clean:
        return Weights(strategy, np.empty(0), None, 0, tuple(warnings))
    if not known:
        pooled = np.concatenate([*clean, *corrupted])
        return Weights(strategy, pooled, None, len(clean), tuple(warnings))
    return Weights(strategy, np.concatenate(clean), np.concatenate(corrupted), len(clean), tuple(warnings))


def read_samples(run: Run, strategy: str) -> tuple[int, list[Sample], list[Sample]] | None:
    """The samples weighted most and least, on the first seed that has them.

    Args:
        run: the run.
        strategy: its name.

    Returns:
        The seed, the samples weighted most and those weighted least; None if no seed has a readable `samples.json`.

    Example:
        >>> read_samples(Run(Path("runs/none"), "none", [0], {}), "steer") is None
        True
    """
    for seed, folder in run.folders.get(strategy, []):
        try:
            record = json.loads((folder / "samples.json").read_text(encoding="utf-8", errors="replace"))
        except (OSError, json.JSONDecodeError):
            continue
        if isinstance(record, dict):
            most, least = (_samples(record.get(end)) for end in ("most", "least"))
            if most or least:
                return seed, most, least
    return None


def embedded_png(value: Any) -> tuple[str, int] | None:
    """Check that a value is a PNG in a data URI, so that nothing else reaches the page.

    Args:
        value: anything.

    Returns:
        The URI and the longer side in pixels, or None if it is anything but an embedded PNG.

    Example:
        >>> embedded_png("https://example.org/a.png") is None
        True
    """
    match = PNG_DATA.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return None
    try:
        data = base64.b64decode(match[1], validate=True)
    except binascii.Error:
        return None
    # The header's first chunk holds the width and the height, 4 bytes each.
    if len(data) < 24 or not data.startswith(PNG_SIGNATURE):
        return None
    return match[0], max(struct.unpack(">II", data[16:24]))


def _load(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Weights, and which labels were changed if the true ones are known."""
    # np.load leaves a file open that it cannot read, so it gets one that is open already.
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        weight = arrays["weight"].astype(np.float64)
        labels = {name: arrays[name] for name in ("label", "true_label") if name in arrays}
    if weight.ndim != 1 or any(array.shape != weight.shape for array in labels.values()):
        raise ValueError("its arrays differ in length.")
    return weight, (labels["label"] != labels["true_label"]) if len(labels) == 2 else None


def _samples(records: Any) -> list[Sample]:
    items = [record for record in records if isinstance(record, dict)] if isinstance(records, list) else []
    return [_sample(record) for record in items[:SAMPLES_SHOWN]]


def _sample(record: dict[str, Any]) -> Sample:
    image = embedded_png(record.get("image"))
    label, true_label = _text(record.get("label")), record.get("true_label")
    weight = number(record.get("weight"))
    return Sample(
        key=_text(record.get("key", record.get("row"))),
        label=label,
        true_label=None if true_label is None or _text(true_label) == label else _text(true_label),
        weight=weight if math.isfinite(weight) else math.nan,
        text=_text(record.get("text")),
        image=image[0] if image else None,
        crisp=image is not None and image[1] <= CRISP_SIDE,
        image_refused=image is None and record.get("image") is not None,
    )


def _text(value: Any) -> str:
    return "" if value is None else str(value)
