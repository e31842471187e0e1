"""Studies: what is trained, what is chosen, what is gathered."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from scripts.objectives.study import Study, chosen, gather, train


@dataclass
class Fixed:
    """Its validation value is the setting, its loss prefers the setting 1; remembers what was asked of it."""

    settings: tuple[float, ...] = (1.0, 2.0, 3.0)
    calls: list[tuple[float, int]] = field(default_factory=list)

    def fit(self, task: Any, setting: float, seed: int) -> dict[str, Any]:
        self.calls.append((setting, seed))
        valid = float("nan") if setting == 3.0 else setting
        curve = {"steps": [0, 1], "values": [0.0, setting]}
        return {"valid": valid, "loss": -setting, "test": {"accuracy": setting + seed}, "curve": curve}


def study(method: Fixed, **options: Any) -> Study:
    return Study("toy", lambda data, seed: seed, {"fixed": method}, lambda task: {}, **options)


def test_tunes_on_the_first_seed_and_resumes(tmp_path: Path) -> None:
    method = Fixed()
    train(study(method), tmp_path, tmp_path)
    assert method.calls == [(1.0, 0), (2.0, 0), (3.0, 0), (2.0, 1), (2.0, 2)]
    (tmp_path / "toy" / "fixed" / "2-1.json").unlink()
    train(study(method), tmp_path, tmp_path)
    assert method.calls[5:] == [(2.0, 1)]


def test_a_value_that_is_not_finite_is_never_chosen(tmp_path: Path) -> None:
    train(study(Fixed()), tmp_path, tmp_path, seeds=(0,))
    assert chosen(tmp_path / "toy" / "fixed", 0) == 2.0


def test_each_criterion_has_its_choice_on_all_seeds(tmp_path: Path) -> None:
    method = Fixed()
    both = study(method, criteria=("valid", "loss"))
    train(both, tmp_path, tmp_path, seeds=(0, 1))
    assert method.calls[3:] == [(1.0, 1), (2.0, 1)]
    found = gather(both, tmp_path, seeds=(0, 1), criterion="loss")["fixed"]
    assert found["setting"] == 1.0
    assert found["test"] == {"accuracy": [1.0, 2.0]}
    assert found["curve"] == {"steps": [[0, 1], [0, 1]], "values": [[0.0, 1.0], [0.0, 1.0]]}


def test_gather_says_what_is_missing(tmp_path: Path) -> None:
    train(study(Fixed()), tmp_path, tmp_path, seeds=(0,))
    with pytest.raises(FileNotFoundError, match=r"2-1\.json"):
        gather(study(Fixed()), tmp_path, seeds=(0, 1))


def test_a_file_names_what_made_it(tmp_path: Path) -> None:
    train(study(Fixed()), tmp_path, tmp_path, seeds=(0,))
    result = json.loads((tmp_path / "toy" / "fixed" / "1-0.json").read_text())
    assert (result["study"], result["method"], result["setting"], result["seed"]) == ("toy", "fixed", 1.0, 0)
