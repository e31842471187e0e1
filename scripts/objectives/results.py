"""From the files of the trainings to one JSON file a study in the documentation's folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scripts.ranking.output import save_json

from . import spectral
from .study import SEEDS, Study, gather


def write(study: Study, runs: Path, data: Path, folder: Path) -> None:
    """`objectives_<study>.json`: facts of the data, and for each criterion the methods' numbers."""
    found: dict[str, Any] = {"seeds": len(SEEDS), "facts": study.facts(study.load(data, SEEDS[0]))}
    for criterion in study.criteria:
        found[criterion] = gather(study, runs, criterion=criterion)
    save_json(folder / f"objectives_{study.name}.json", found)


def write_spectral(runs: Path, data: Path, folder: Path) -> None:
    """All spectral studies in one file."""
    found = {
        study.name: {"facts": study.facts(study.load(data, SEEDS[0])), "valid": gather(study, runs)}
        for study in spectral.STUDIES
    }
    save_json(folder / "objectives_spectral.json", {"seeds": len(SEEDS), "studies": found})
