"""The figures, from made numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib")

from scripts.objectives import films, omniglot, spectral
from scripts.objectives.figures import DRAWN


def entry(values: list[float]) -> dict[str, Any]:
    """A method with the same curve for two seeds."""
    return {"curve": {"steps": [[0, 1, 2]] * 2, "values": [values] * 2, "accuracy": [values] * 2}}


def made(folder: Path, values: list[float], *names: str) -> list[bytes]:
    """The figures of these names."""
    curves = {name: entry(values) for name in (*films.SHOWN, *omniglot.TITLES, *spectral.TITLES)}
    studies = {study.name: {"valid": {name: curves[name] for name in spectral.TITLES}} for study in spectral.STUDIES}
    folder.mkdir()
    for name in names:
        found = {"valid": curves, "loss": curves, "studies": studies}
        (folder / f"objectives_{name}.json").write_text(json.dumps(found))
        DRAWN[name](folder)
    return [(folder / f"objectives_{name}.svg").read_bytes() for name in names]


def test_figures_depend_on_the_numbers_alone(tmp_path: Path) -> None:
    first = made(tmp_path / "first", [3.0, 2.0, 1.0], "films", "omniglot")
    assert first == made(tmp_path / "same", [3.0, 2.0, 1.0], "films", "omniglot")
    other = made(tmp_path / "other", [3.0, 2.0, 0.5], "films", "omniglot")
    assert first[0] != other[0]
    assert first[1] != other[1]


def test_the_spectral_figure_has_a_panel_a_study(tmp_path: Path) -> None:
    (figure,) = made(tmp_path / "one", [1.0, 0.1, 1e-12], "spectral")
    assert figure.count(b'id="axes_') == len(spectral.STUDIES)
