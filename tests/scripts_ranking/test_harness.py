"""The harness: what it trains, keeps and chooses; and that each method learns."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scripts.ranking import methods, peers
from scripts.ranking.batches import shuffled, with_rate
from scripts.ranking.curves import curve, tuned_curves
from scripts.ranking.harness import Trained, chosen, run
from scripts.ranking.metrics import ranking_metrics
from scripts.ranking.task import BinaryTask, network_scorer


@dataclass
class Fixed:
    """A method whose scores are right by the factor of its setting; remembers what was asked of it."""

    name: str = "fixed"
    settings: tuple[float, ...] = (-1.0, 0.0, 1.0)
    calls: list[tuple[float, int]] = field(default_factory=list)

    def fit(self, task: Any, setting: float, seed: int) -> Any:
        self.calls.append((setting, seed))
        return lambda part: setting * (1.0 + part.y.numpy())


def test_tunes_on_the_first_seed_and_resumes(toy: BinaryTask, tmp_path: Path) -> None:
    method = Fixed()
    run(lambda seed: toy, "toy", [method], tmp_path)
    assert method.calls == [(-1.0, 0), (0.0, 0), (1.0, 0), (1.0, 1), (1.0, 2)]
    result = json.loads((tmp_path / "toy" / "fixed" / "1-2.json").read_text())
    assert result["test"] == {"auroc": 1.0, "ap": 1.0, "pauc": 1.0, "tpauc": 1.0}
    (tmp_path / "toy" / "fixed" / "1-1.json").unlink()
    run(lambda seed: toy, "toy", [method], tmp_path)
    assert method.calls[5:] == [(1.0, 1)]


def test_a_diverged_training_is_kept_and_not_chosen(toy: BinaryTask, tmp_path: Path) -> None:
    method = Fixed(settings=(float("inf"), 0.5))
    run(lambda seed: toy, "toy", [method], tmp_path, seeds=(0,))
    assert "diverged" in json.loads((tmp_path / "toy" / "fixed" / "inf-0.json").read_text())["failed"]
    assert chosen(tmp_path / "toy" / "fixed", 0) == 0.5


@pytest.mark.parametrize("method", [*methods.BASELINES, *methods.OURS], ids=lambda method: method.name)
def test_every_loss_learns(toy: BinaryTask, method: Trained) -> None:
    found = toy.judge(method.fit(toy, 0.05, 0))["test"]
    assert found["auroc"] > 0.9


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", peers.LIBAUC, ids=lambda method: method.name)
def test_every_peer_runs(toy: BinaryTask, method: Trained) -> None:
    pytest.importorskip("libauc")
    assert toy.judge(method.fit(toy, 0.02, 0))["test"]["auroc"] > 0.5


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", [peers.Trees("lightgbm"), peers.Trees("xgboost")], ids=lambda method: method.name)
def test_trees(toy: BinaryTask, method: peers.Trees) -> None:
    pytest.importorskip(method.name)
    assert toy.judge(method.fit(toy, 0.1, 0))["test"]["auroc"] > 0.9


@pytest.mark.filterwarnings("ignore")
def test_dro_without_its_networks(toy: BinaryTask) -> None:
    pytest.importorskip("cvxpy")
    if not peers.installed(("dro", (peers.LinearChiSquare(),))):
        pytest.skip("needs dro")
    assert toy.judge(peers.LinearChiSquare().fit(toy, 0.1, 0))["test"]["auroc"] > 0.9


def test_what_is_not_installed_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert peers.installed(("no_such_package", (Fixed(),)), ("numpy", (Fixed(name="there"),)))[0].name == "there"
    assert capsys.readouterr().out == "left out, no_such_package is not installed: fixed\n"


def test_batches(toy: BinaryTask) -> None:
    batches = shuffled(toy, 0)
    assert sorted(torch.cat([next(batches) for _ in range(5)]).tolist()) == list(range(80))
    rated = with_rate(toy, 0, 0.25)
    assert {int(toy.train.y[next(rated)].sum()) for _ in range(30)} == {4}


def test_curves(toy: BinaryTask) -> None:
    method = methods.BASELINES[0]
    found = curve(toy, method, 0.05, 0, 20, lambda model, loss: float(ranking(model, toy)))
    assert found["steps"] == [0, 20, 40, 60]
    assert found["values"][-1] > 0.9
    curves = tuned_curves(lambda seed: toy, [method], 30, lambda scorer, part: area(scorer(part), part.labels))
    assert curves["ce"]["lr"] in method.settings
    assert [len(values) for values in curves["ce"]["values"]] == [3, 3, 3]


def area(scores: np.ndarray, labels: np.ndarray) -> float:
    return ranking_metrics(scores, labels)["auroc"]


def ranking(model: torch.nn.Module, task: BinaryTask) -> float:
    return area(network_scorer(model)(task.test), task.test.labels)


def test_scores_that_are_not_finite_are_an_error() -> None:
    with pytest.raises(ValueError, match="diverged"):
        ranking_metrics(np.array([np.nan, 1.0]), np.array([0, 1]))
