"""BBBP and HIV of MoleculeNet: Morgan fingerprints, split so that no scaffold is in two parts.

A molecule is 1,024 bits (Morgan, radius 2). The molecules of one Bemis-Murcko scaffold stay together: the scaffolds are
shuffled by the seed and dealt out until the training part has 60 % of the molecules and the validation part 20 %.
"""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

import numpy as np
import torch

from guidestar.models.small import MLP

from .task import BinaryTask, Part

BITS = 1024
RADIUS = 2
TRAIN, VALIDATION = 0.6, 0.2
BATCH_SIZE = 128
#: Name -> the column of labels, the title, the optimizer steps.
SETS = {"bbbp": ("p_np", "BBBP", 300), "hiv": ("hiv_active", "HIV", 800)}


def load_molecules(name: str, seed: int, data: Path, cache: Path) -> BinaryTask:
    """The task `bbbp` or `hiv`; each seed shuffles the scaffolds."""
    bits, labels, scaffolds = fingerprints(name, data, cache)
    parts = split_by_group(scaffolds, np.random.default_rng(seed))
    x, y = np.unpackbits(bits, axis=1), torch.from_numpy(labels.astype(np.int64))
    train, valid, test = (Part(torch.from_numpy(x[rows]).float(), y[torch.from_numpy(rows)]) for rows in parts)
    _, title, steps = SETS[name]
    return BinaryTask(
        name=name,
        title=title,
        train=train,
        valid=valid,
        test=test,
        network=lambda: MLP((BITS,), 1, hidden=[128], dropout=0.2),
        steps=steps,
        batch_size=BATCH_SIZE,
    )


def split_by_group(groups: np.ndarray, generator: np.random.Generator) -> list[np.ndarray]:
    """Rows of the training, validation and test part, with all rows of a group in one of them.

    Example:
        >>> parts = split_by_group(np.array([0, 0, 1, 2, 3, 3]), np.random.default_rng(0))
        >>> sorted(int(row) for part in parts for row in part)
        [0, 1, 2, 3, 4, 5]
    """
    order = generator.permutation(int(groups.max()) + 1)
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    sizes = np.bincount(groups, minlength=len(order))[order]
    # A group goes where its middle falls, so that one large group does not empty the next part.
    middle = (np.cumsum(sizes) - sizes / 2) / len(groups)
    part_of = np.digitize(middle, [TRAIN, TRAIN + VALIDATION])[place[groups]]
    return [np.flatnonzero(part_of == part) for part in range(3)]


def fingerprints(name: str, data: Path, cache: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Packed bits `[n, 128]`, labels `[n]` and scaffold numbers `[n]`; kept in `cache` as an npz."""
    kept = cache / f"{name}_morgan.npz"
    if not kept.exists():
        cache.mkdir(parents=True, exist_ok=True)
        bits, labels, scaffolds = _compute(data / "molecules" / f"{name}.csv.gz", SETS[name][0])
        np.savez(kept, bits=bits, labels=labels, scaffolds=scaffolds)
    with np.load(kept) as archive:
        return archive["bits"], archive["labels"], archive["scaffolds"]


def _compute(path: Path, column: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    try:
        from rdkit import Chem, rdBase
        from rdkit.Chem import rdFingerprintGenerator
        from rdkit.Chem.Scaffolds import MurckoScaffold
    except ImportError as error:
        raise ImportError("The molecules need rdkit: pip install 'guidestar[peers]'.") from error
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=RADIUS, fpSize=BITS)
    bits, labels, scaffolds = [], [], []
    number: dict[str, int] = {}
    with rdBase.BlockLogs(), gzip.open(path, "rt", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            molecule = Chem.MolFromSmiles(row["smiles"])
            if molecule is None or not row[column]:
                continue
            bits.append(np.packbits(generator.GetFingerprintAsNumPy(molecule)))
            labels.append(int(float(row[column])))
            scaffold = MurckoScaffold.MurckoScaffoldSmiles(mol=molecule)
            scaffolds.append(number.setdefault(scaffold, len(number)))
    return np.stack(bits), np.array(labels), np.array(scaffolds)
