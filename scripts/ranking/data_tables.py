"""Adult, COMPAS and German credit as matrices of numbers.

Categories are one-hot over the values of the training part, numbers are standardized by its mean and deviation. Adult
keeps its official test part; the others are split 60 / 20 / 20 by the seed, and 20 % of Adult's training part validate.
COMPAS is used without the columns that contain the outcome or COMPAS's own scores.
"""

from __future__ import annotations

import csv
import gzip
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from guidestar.models.small import MLP

from .task import BinaryTask, Part

BATCH_SIZE = 128


@dataclass(frozen=True)
class Source:
    """Where a table is and what its columns are."""

    title: str
    file: str
    label: str
    positive: str
    numbers: tuple[str, ...]
    left_out: tuple[str, ...]
    steps: int


SETS = {
    "adult": Source(
        "Adult", "adult", "income", ">50K",
        ("age", "education_num", "capital_gain", "capital_loss", "hours_per_week"), ("fnlwgt", "education", "split"), 800,
    ),
    "compas": Source(
        "COMPAS", "compas_two_years", "two_year_recid", "1",
        ("age", "juv_fel_count", "juv_misd_count", "juv_other_count", "priors_count"),
        (
            "age_cat", "days_b_screening_arrest", "c_charge_desc", "decile_score", "score_text", "v_decile_score",
            "v_score_text", "is_recid", "is_violent_recid",
        ), 300,
    ),
    "german": Source(
        "German credit", "german_credit", "credit_risk", "2",
        ("duration", "credit_amount", "installment_rate", "residence_since", "age", "existing_credits", "people_liable"),
        (), 200,
    ),
}  # fmt: skip


def load_table(name: str, seed: int, data: Path) -> BinaryTask:
    """The task `adult`, `compas` or `german`."""
    source = SETS[name]
    with gzip.open(data / "fairness" / f"{source.file}.csv.gz", "rt", encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    parts = _parts(rows, np.random.default_rng(seed))
    matrix = _matrix(rows, source, parts[0])
    labels = np.array([row[source.label] == source.positive for row in rows]).astype(np.int64)
    train, valid, test = (Part(torch.from_numpy(matrix[part]), torch.from_numpy(labels[part])) for part in parts)
    return BinaryTask(
        name=name,
        title=source.title,
        train=train,
        valid=valid,
        test=test,
        network=lambda: MLP((matrix.shape[1],), 1, hidden=[64]),
        steps=source.steps,
        batch_size=BATCH_SIZE,
    )


def _parts(rows: list[dict[str, str]], generator: np.random.Generator) -> list[np.ndarray]:
    official = np.array([row.get("split") == "test" for row in rows])
    order = generator.permutation(np.flatnonzero(~official))
    if official.any():
        cut = round(0.8 * len(order))
        return [order[:cut], order[cut:], np.flatnonzero(official)]
    first, second = round(0.6 * len(order)), round(0.8 * len(order))
    return [order[:first], order[first:second], order[second:]]


def _matrix(rows: list[dict[str, str]], source: Source, train: np.ndarray) -> np.ndarray:
    """float32 `[n, features]`; a category that the training part does not have is all zeros."""
    columns = []
    for column in rows[0]:
        if column == source.label or column in source.left_out:
            continue
        values = np.array([row[column] for row in rows])
        if column in source.numbers:
            numbers = values.astype(np.float64)
            columns.append(((numbers - numbers[train].mean()) / (numbers[train].std() + 1e-12))[:, None])
        else:
            columns.append(values[:, None] == np.unique(values[train])[None])
    return np.concatenate(columns, axis=1).astype(np.float32)
