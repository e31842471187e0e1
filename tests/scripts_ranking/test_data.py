"""The tasks of the results: sizes, rates, and that no sample is in two parts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scripts.ranking import data_images, data_tables
from scripts.ranking.data_molecules import load_molecules, split_by_group
from scripts.ranking.task import BinaryTask


def distinct(task: BinaryTask) -> list[set[bytes]]:
    """The different samples of each part."""
    return [{row.tobytes() for row in part.flat} for part in (task.train, task.valid, task.test)]


@pytest.mark.parametrize(("name", "samples", "rate"), [("german", 1000, 0.3), ("compas", 7214, 0.45)])
def test_table(shared_data: Path, name: str, samples: int, rate: float) -> None:
    task = data_tables.load_table(name, 0, shared_data)
    assert sum(len(part.y) for part in (task.train, task.valid, task.test)) == samples
    assert task.positive_rate == pytest.approx(rate, abs=0.02)
    assert torch.isfinite(task.train.x).all()
    numbers = task.train.x[:, [i for i in range(task.train.x.shape[1]) if len(task.train.x[:, i].unique()) > 2]]
    torch.testing.assert_close(numbers.mean(0), torch.zeros(numbers.shape[1]), atol=1e-4, rtol=0)


def test_a_seed_draws_its_own_split(shared_data: Path) -> None:
    first, again, other = (data_tables.load_table("german", seed, shared_data).train.y for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_category_the_training_part_lacks_is_all_zeros() -> None:
    rows = [{"colour": value, "y": "1"} for value in ("red", "blue", "green")]
    source = data_tables.Source("", "", "y", "1", (), (), 1)
    assert data_tables._matrix(rows, source, np.array([0, 1])).tolist() == [[0, 1], [1, 0], [0, 0]]


def test_images_have_the_rate_and_no_image_twice(shared_data: Path, tmp_path: Path) -> None:
    task = data_images.load_images("fashion", 0.01, 0, shared_data, tmp_path)
    assert task.rows - task.positives == data_images.NEGATIVES
    assert task.positive_rate == pytest.approx(0.01, abs=1e-4)
    assert float(task.test.y.double().mean()) == 0.5
    train, valid, _ = distinct(task)
    assert not train & valid
    assert task.network()(task.train.x[:2]).shape == (2, 1)


def test_scaffolds_stay_together(shared_data: Path, tmp_path: Path) -> None:
    pytest.importorskip("rdkit")
    task = load_molecules("bbbp", 0, shared_data, tmp_path)
    assert len(task.train.y) == pytest.approx(0.6 * 2039, rel=0.1)
    assert set(task.train.x.unique().tolist()) == {0.0, 1.0}
    assert (tmp_path / "bbbp_morgan.npz").exists()


def test_split_by_group() -> None:
    groups = np.repeat(np.arange(50), np.arange(50) % 7 + 1)
    parts = split_by_group(groups, np.random.default_rng(0))
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(groups)))
    seen = [set(groups[rows].tolist()) for rows in parts]
    assert not seen[0] & seen[1]
    assert not seen[0] & seen[2]
    assert not seen[1] & seen[2]
    assert len(parts[0]) == pytest.approx(0.6 * len(groups), rel=0.15)
