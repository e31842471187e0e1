"""`torchrun` with two processes: the model of one process, written and told once. Real processes, gloo on the loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from guidestar.training.recipe_io import load_recipe
from guidestar.training.runner import Options, Run

RECIPE = """
name: run
output: {output}
seeds: [0]
strategies: [as_is, erm, select, steer]
data: {{train: {{source: sklearn_digits}}, test_fraction: 0.8, train_samples: 120, label_noise: 0.2}}
model: {{name: mlp, options: {{hidden: [16]}}}}
reference: {{model: {{name: mlp, options: {{hidden: [16]}}}}, fit: {{samples: 40, epochs: 4, batch_size: 16}}}}
training: {{steps: 20, batch_size: 16, optimizer: sgd, lr: 0.05, checkpoint_every: 8, threads: 1, device: cpu}}
steer: {{risk: {{kind: kl, gamma: 0.9}}}}
"""


def torchrun(*arguments: object, processes: int = 2) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "-m", "guidestar", *map(str, arguments)]
    # Compiled files are kept: without them a process takes ten seconds more to import what it needs.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONDONTWRITEBYTECODE": ""}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=250, check=False)


def write(tmp_path: Path, name: str) -> Path:
    path = tmp_path / f"{name}.yaml"
    path.write_text(RECIPE.format(output=tmp_path / name))
    return path


@pytest.fixture
def alone(tmp_path: Path) -> Path:
    loaded = load_recipe(write(tmp_path, "alone"), ["strategies=[as_is, erm, steer]"])
    Run(loaded, Options()).compare(loaded.recipe.strategies, loaded.recipe.seeds)
    return loaded.run_folder


def assert_close(first: Path, second: Path) -> None:
    left, right = load_file(first), load_file(second)
    assert left.keys() == right.keys()
    for name, value in left.items():
        torch.testing.assert_close(value, right[name], rtol=0, atol=1e-5)


def test_two_processes_train_the_model_of_one(tmp_path: Path, alone: Path) -> None:
    ended = torchrun("compare", write(tmp_path, "both"), "strategies=[as_is, erm, steer]")
    assert ended.returncode == 0, ended.stderr
    both = tmp_path / "both" / "run"
    for strategy in ("erm", "steer"):
        state = torch.load(both / "seed-0" / strategy / "checkpoints" / "step-00000020.pt", weights_only=True)
        assert len(state["random"]) == 2  # one a process: both took part
        assert_close(
            alone / "seed-0" / strategy / "model.safetensors", both / "seed-0" / strategy / "model.safetensors"
        )
        lines = [
            [json.loads(line) for line in (run / "seed-0" / strategy / "metrics.jsonl").read_text().splitlines()]
            for run in (alone, both)
        ]
        assert [line["step"] for line in lines[1]] == [line["step"] for line in lines[0]]  # written once
        for one, two in zip(*lines, strict=True):
            assert two["train_loss"] == pytest.approx(one["train_loss"], abs=1e-4)
            assert two["samples_trained"] == one["samples_trained"]
            assert two["forward_samples"] == one["forward_samples"]
    assert_close(alone / "reference/seed-0/model.safetensors", both / "reference/seed-0/model.safetensors")
    results = [json.loads((run / "results.json").read_text()) for run in (alone, both)]
    assert results[1].keys() == results[0].keys()
    assert results[1]["steer"]["nll"] == pytest.approx(results[0]["steer"]["nll"], abs=1e-4)
    assert ended.stdout.count("erm, seed 0") == 1
    assert ended.stdout.count("report: ") == 1


@pytest.mark.slow
def test_two_processes_resume_select_and_refuse(tmp_path: Path) -> None:
    recipe = write(tmp_path, "both")
    assert torchrun("train", recipe, "--strategy", "select").returncode == 0
    folder = tmp_path / "both" / "run" / "seed-0" / "select"
    expected = load_file(folder / "model.safetensors")
    (folder / "result.json").unlink()
    (folder / "checkpoints" / "step-00000020.pt").unlink()  # as if killed after step 16
    ended = torchrun("train", recipe, "--strategy", "select", "--resume")
    assert ended.returncode == 0, ended.stderr
    assert all(torch.equal(value, expected[name]) for name, value in load_file(folder / "model.safetensors").items())

    ended = torchrun("train", recipe, "--strategy", "select")
    assert ended.returncode != 0
    assert "holds a run already" in ended.stderr
    ended = torchrun("train", recipe, "--strategy", "erm", "training.batch_size=15", "name=odd")
    assert ended.returncode != 0
    assert "`batch_size` must be a multiple of 2, the number of processes" in ended.stderr


@pytest.mark.slow
def test_a_strategy_that_fails_fails_on_both_and_the_others_go_on(tmp_path: Path) -> None:
    recipe = write(tmp_path, "both")
    ended = torchrun("compare", recipe, "strategies=[erm, as_is]", "training.lr=1e30")
    assert ended.returncode != 0
    assert "1 of 2 trainings failed" in ended.stderr
    results = json.loads((tmp_path / "both" / "run" / "results.json").read_text())
    assert list(results) == ["as_is"]


@pytest.mark.slow
def test_two_processes_score_one_store(tmp_path: Path) -> None:
    recipe = write(tmp_path, "both")
    ended = torchrun("score", recipe)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("store: ") == 1
    assert (tmp_path / "both" / "run" / "reference" / "seed-0" / "store" / "meta.json").exists()
