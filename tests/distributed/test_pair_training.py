"""Two processes train on pairs as one does: steps, chunks, the objective's parameters, and who gets which selected pair."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from guidestar.training.exchange import my_share
from guidestar.training.recipe_io import load_recipe
from guidestar.training.runner import Options, Run

RECIPE = """
name: run
output: {output}
task: pairs
seeds: [0]
data: {{train: {{source: function, function: "colours.py:load"}}, test_samples: 20, groups: label}}
model: &model {{options: {{size: 8, width: 8, image_hidden: 8, image_layers: 2, text_hidden: 8}}}}
tokenizer: {{vocabulary: 300, length: 12}}
reference: {{model: *model, fit: {{samples: 40, epochs: 2, batch_size: 16}}}}
training: {{steps: 6, batch_size: 16, accumulate: 2, optimizer: sgd, lr: 0.05, threads: 1, device: cpu}}
select: {{fraction: 0.5}}
"""
COLOURS = """
import numpy as np


def load():
    draw = np.random.default_rng(0)
    images = draw.integers(0, 255, (160, 8, 8, 3)).astype(np.uint8)
    captions = [[f"number {row % 9}", f"a square, the {row}th"] for row in range(160)]
    return {"images": images, "captions": captions, "labels": [str(row % 9) for row in range(160)]}
"""


def torchrun(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "-m", "guidestar", *map(str, arguments)]
    # Compiled files are kept: without them a process takes ten seconds more to import what it needs.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONDONTWRITEBYTECODE": ""}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=250, check=False)


@pytest.mark.slow
def test_two_processes_train_the_model_of_one(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    (tmp_path / "colours.py").write_text(COLOURS)
    recipe = tmp_path / "recipe.yaml"
    names = ["as_is", "erm", "dro", "select", "steer"]
    predicted = "objective.contrast.temperature={kind: predicted, rho: 2.0, hidden: 4}"
    options = [f"strategies=[{', '.join(names)}]", predicted, "training.chunk=8"]
    recipe.write_text(RECIPE.format(output=tmp_path / "both"))
    ended = torchrun("compare", recipe, *options)
    assert ended.returncode == 0, ended.stderr
    recipe.write_text(RECIPE.format(output=tmp_path / "alone"))
    loaded = load_recipe(recipe, options)
    alone = Run(loaded, Options()).compare(names, [0])
    results = json.loads((tmp_path / "both" / "run" / "results.json").read_text())
    assert list(results) == list(alone)
    for name in names:
        for cost in ("samples_trained", "forward_samples", "reference_forward_samples"):
            assert results[name][cost] == alone[name][cost], (name, cost)
        if name != "as_is":
            place = Path("run") / "seed-0" / name / "model.safetensors"
            first, second = (load_file(tmp_path / kind / place) for kind in ("alone", "both"))
            for key, value in first.items():
                torch.testing.assert_close(second[key], value, rtol=0, atol=2e-5, msg=f"{name}: {key}")


def test_selected_pairs_are_shared_out_equally_wherever_they_were_loaded(two_ranks) -> None:
    kept = torch.tensor([5, 0, 6, 7])  # one candidate of the first process, three of the second

    def function(rank: int) -> list[torch.Tensor]:
        rows = torch.arange(4) + 4 * rank
        return my_share([rows, rows.float().unsqueeze(1).repeat(1, 2)], kept, 4)

    first, second = two_ranks(function)
    assert first[0].tolist() == [5, 0]
    assert second[0].tolist() == [6, 7]
    assert torch.equal(torch.cat([first[1], second[1]]), kept.float().unsqueeze(1).repeat(1, 2))
