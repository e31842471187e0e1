"""The command line: help, exit codes, and errors that say what to do, without a traceback unless it is asked for."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from guidestar import cli
from guidestar.models.load import build_model
from guidestar.models.weights import save_weights
from guidestar.training.prepare import load_source, reference_model
from guidestar.training.recipe_io import load_recipe

COMMANDS = ("compare", "train", "score", "evaluate", "report", "index", "export", "scaling", "where", "cite")
TEXT = """
name: tiny
output: {output}
seeds: [0]
strategies: [erm]
data: {{train: {{source: sklearn_digits}}, test_fraction: 0.8, train_samples: 120}}
model: {{name: mlp, options: {{hidden: [16]}}}}
training: {{steps: 8, batch_size: 16, checkpoint_every: 4, threads: 1, lr: 0.01}}
"""
MLP = "{name: mlp, options: {hidden: [16]}}"
FIT = f"reference={{model: {MLP}, fit: {{samples: 40, epochs: 2, batch_size: 16}}}}"


class Answer(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """Everything on stderr in one line, however it was wrapped."""
        return " ".join(self.err.split())


Call = Callable[..., Answer]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Call:
    """The command line in this process, as if started in `tmp_path`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments: object) -> Answer:
        monkeypatch.setattr(sys, "argv", ["guidestar", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        return Answer(int(ended.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(TEXT.format(output=tmp_path / "runs"))
    return path


def npz(path: Path, labels: Any, columns: int = 4) -> str:
    inputs = np.random.default_rng(0).normal(size=(len(labels), columns)).astype(np.float32)
    np.savez(path, x=inputs, y=np.asarray(labels))
    return f"data={{train: {{source: npz, path: {path}, inputs: x, labels: y}}, test_fraction: 0.25}}"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_a_terminal_and_has_an_example(call: Call, command: str) -> None:
    answer = call(command, "--help")
    assert answer.code == 0
    assert f"Example: guidestar {command}" in " ".join(answer.out.split())
    assert "--debug" in answer.out
    assert max(map(len, answer.out.splitlines())) <= 80


def test_help_lists_every_command(call: Call) -> None:
    answer = call("--help")
    assert answer.code == 0
    assert set(COMMANDS) <= set(re.findall(r"^ +(\w+) ", answer.out, re.MULTILINE))
    assert max(map(len, answer.out.splitlines())) <= 80
    assert call().code != 0
    assert call("nonsense").code == 2
    assert call("train", "a.yaml", "--seed", "-1").code == 2


def test_compare_then_evaluate_then_report(call: Call, recipe: Path, tmp_path: Path) -> None:
    answer = call("compare", recipe, FIT, "strategies=[erm, steer]")
    assert answer.code == 0, answer.err
    assert answer.err == ""
    assert re.search(r"erm, seed 0 +accuracy +[\d.]+ %", answer.out)
    assert "report: runs/tiny/report.html" in answer.out
    results = json.loads((tmp_path / "runs/tiny/results.json").read_text())
    assert list(results) == ["erm", "steer"]
    assert (tmp_path / "runs/tiny/report.html").stat().st_size > 1000

    answer = call("evaluate", "runs/tiny")
    assert answer.code == 0, answer.err
    again = json.loads((tmp_path / "runs/tiny/evaluation.json").read_text())
    assert again["steer"]["accuracy"] == pytest.approx(results["steer"]["accuracy"])
    assert "written to runs/tiny/evaluation.json" in answer.out

    assert call("report", "runs/tiny", "--out", "other.html").code == 0
    assert (tmp_path / "other.html").exists()
    answer = call("compare", recipe, FIT, "strategies=[erm, steer]")
    assert (answer.code, "holds a run already" in answer.line) == (1, True)
    assert call("compare", recipe, FIT, "strategies=[erm, steer]", "--resume").code == 0


def test_strategies_that_cannot_run_are_left_out_aloud(call: Call, recipe: Path) -> None:
    recipe.write_text(recipe.read_text().replace("strategies: [erm]\n", "").replace("steps: 8", "steps: 2"))
    other = FIT.replace("[16]", "[8]")
    answer = call("compare", recipe, other)
    assert answer.code == 0, answer.err
    assert "left out: finetune" in answer.out
    assert "finetune" not in json.loads(Path("runs/tiny/results.json").read_text())


def test_train_one_strategy(call: Call, recipe: Path) -> None:
    answer = call("train", recipe, "--seed", "3")
    assert answer.code == 0, answer.err
    assert "written to runs/tiny/seed-3/erm" in answer.out
    assert json.loads(Path("runs/tiny/results.json").read_text())["erm"]["samples_trained"] == [128]
    answer = call("train", recipe, "--strategy", "steer")
    assert answer.code == 1
    assert "`--strategy` must be one of the recipe's: erm. Found steer." in answer.line


def test_explain_runs_nothing(call: Call, recipe: Path) -> None:
    answer = call("train", "--explain", recipe, "training.lr=0.5")
    assert answer.code == 0
    assert re.search(r"training.lr = 0.5 +\(command line\)", answer.out)
    assert not Path("runs").exists()


def test_score_needs_a_reference_model(call: Call, recipe: Path) -> None:
    answer = call("score", recipe)
    assert (answer.code, "`reference.model` is needed to score" in answer.line) == (1, True)
    answer = call("score", recipe, FIT)
    assert answer.code == 0, answer.err
    assert "store: runs/tiny/reference/seed-0/store" in answer.out


PAIRS = """
name: pairs
task: pairs
output: {output}
seeds: [0]
data: {{train: {{source: shards, shards: "shards/*.tar"}}, test_samples: 12}}
model: &model {{options: {{size: 8, width: 8, image_hidden: 8, image_layers: 2, text_hidden: 8}}}}
tokenizer: {{vocabulary: 300, length: 12}}
reference: {{model: *model, fit: {{samples: 16, epochs: 1, batch_size: 8}}}}
training: {{steps: 4, batch_size: 8, threads: 1}}
"""


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """A recipe on two shards of 30 pairs each, which are not indexed yet."""
    pytest.importorskip("tokenizers")
    (tmp_path / "shards").mkdir()
    draw = np.random.default_rng(0)
    for shard in range(2):
        with tarfile.open(tmp_path / "shards" / f"{shard}.tar", "w") as archive:
            for sample in range(30):
                picture = io.BytesIO()
                Image.fromarray(draw.integers(0, 255, (9, 9, 3)).astype(np.uint8)).save(picture, "PNG")
                for suffix, content in (("png", picture.getvalue()), ("txt", f"number {sample % 7}".encode())):
                    member = tarfile.TarInfo(f"{shard}-{sample:03d}.{suffix}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
    path = tmp_path / "pairs.yaml"
    path.write_text(PAIRS.format(output=tmp_path / "runs"))
    return path


def test_pairs_from_shards_to_an_export(call: Call, pairs: Path, tmp_path: Path) -> None:
    wrong(call, "guidestar index", "train", pairs, "--strategy", "erm")
    answer = call("index", "shards/*.tar")
    assert (answer.code, "2 shards are indexed" in answer.out) == (0, True), answer.err
    answer = call("compare", pairs, "strategies=[as_is, erm, steer]")
    assert answer.code == 0, answer.err
    assert re.search(r"steer, seed 0 +R@10 +[\d.]+ %", answer.out)
    results = json.loads((tmp_path / "runs/pairs/results.json").read_text())
    assert results["steer"]["reference_forward_samples"] == [32]
    assert (tmp_path / "runs/pairs/report.html").stat().st_size > 1000
    assert call("evaluate", "runs/pairs").code == 0
    again = json.loads((tmp_path / "runs/pairs/evaluation.json").read_text())
    assert again["steer"]["text_to_image_r5"] == pytest.approx(results["steer"]["text_to_image_r5"])
    assert call("score", pairs, "--resume", "strategies=[as_is, erm, steer]").code == 0
    answer = call("export", "runs/pairs", "--out", "model")
    assert (answer.code, "written to model" in answer.out) == (0, True), answer.err
    assert json.loads((tmp_path / "model" / "model.json").read_text())["strategy"] == "steer"
    wrong(call, "`--out` must be a new or empty folder", "export", "runs/pairs", "--out", "model")
    wrong(call, "`--on-error` must be raise or skip. Found ignore", "index", "shards/*.tar", "--on-error", "ignore")


def test_export_of_a_classification(call: Call, recipe: Path, tmp_path: Path) -> None:
    assert call("train", recipe).code == 0
    assert call("export", "runs/tiny", "--out", "model").code == 0
    assert json.loads((tmp_path / "model" / "model.json").read_text())["model"]["name"] == "mlp"
    own, written = (tmp_path / path / "model.safetensors" for path in ("runs/tiny/seed-0/erm", "model"))
    assert load_file(own).keys() == load_file(written).keys()


def test_scaling(call: Call, recipe: Path, tmp_path: Path) -> None:
    grid = (recipe, "--sizes", "model.options.hidden=[4],[16]", "--samples", "40,80,120", "--strategies", "erm")
    epochs = ("training.steps=null", "training.epochs=3")
    answer = call("scaling", *grid, *epochs, "--index", "1")
    assert answer.code == 0, answer.err
    assert "cell 1 of 6: hidden=-4-n80-seed0" in " ".join(answer.out.split())
    assert not (tmp_path / "runs/tiny-scaling/scaling.json").exists()
    wrong(call, "holds a run already", "scaling", *grid, *epochs, "--index", "1")
    answer = call("scaling", *grid, *epochs, "--resume")
    assert answer.code == 0, answer.err
    assert len(json.loads((tmp_path / "runs/tiny-scaling/scaling.json").read_text())) == 6
    assert (tmp_path / "runs/tiny-scaling/scaling.html").exists()
    wrong(call, "`--index` must be in", "scaling", *grid, "--index", "6")
    wrong(call, "`--samples` must be whole numbers", "scaling", recipe, "--sizes", "model.options.hidden=[4]")
    wrong(call, "`--sizes` must", "scaling", recipe, "--samples", "10")


def test_where_and_cite(call: Call) -> None:
    assert "kl.py" in call("where", "6.11").out
    answer = call("where", "9.99")
    assert (answer.code, "nothing cites '9.99'" in answer.err) == (1, True)
    assert "@" in call("cite", "KL").out
    assert call("cite", "Nothing").code == 1


def test_an_error_is_one_message_and_with_debug_a_traceback(call: Call, recipe: Path, monkeypatch: Any) -> None:
    answer = call("compare", "no.yaml")
    assert answer.code == 1
    assert answer.err == "error: no.yaml: there is no such recipe file\n"
    monkeypatch.setattr(sys, "argv", ["guidestar", "compare", "no.yaml", "--debug"])
    with pytest.raises(ValueError, match="there is no such recipe file"):
        cli.main()


def wrong(call: Call, pattern: str, *arguments: object) -> None:
    answer = call(*arguments)
    assert answer.code == 1
    assert re.search(pattern, answer.line), answer.line
    assert answer.line.startswith("error: ")
    assert "Traceback" not in answer.err


def test_missing_data_and_weights(call: Call, recipe: Path, tmp_path: Path) -> None:
    data = f"data={{train: {{source: npz, path: {tmp_path}/no.npz, inputs: x, labels: y}}, test_fraction: 0.5}}"
    wrong(call, "no.npz", "compare", recipe, data)
    reference = f"reference={{model: {MLP}, weights: no.safetensors}}"
    wrong(call, "no.safetensors", "compare", recipe, reference, "strategies=[steer]")
    wrong(call, "recipe.yaml. Found none in nowhere", "evaluate", "nowhere")
    wrong(call, "nowhere", "report", "nowhere")


def test_labels_out_of_range(call: Call, recipe: Path, tmp_path: Path) -> None:
    wrong(call, r"-1", "compare", recipe, npz(tmp_path / "d.npz", [0, 1, -1, 1] * 20))
    wrong(call, "batch_size` must be at most", "compare", recipe, npz(tmp_path / "e.npz", [0, 1] * 10), "--overwrite")


def pictures(folder: Path) -> Path:
    for name, shade in (("a", 40), ("b", 200)):
        (folder / name).mkdir(parents=True)
        for number in range(20):
            Image.new("L", (6, 6), shade + number).save(folder / name / f"{number}.png")
    (folder / "a" / "7.png").write_bytes(b"this is no picture")
    return folder


def test_an_unreadable_picture_is_named_or_skipped_and_counted(
    call: Call, recipe: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = f"{{source: image_folder, path: {pictures(tmp_path / 'pictures')}, size: 6}}"
    data = f"{{train: {source}, test_fraction: 0.25, on_error: %s}}"
    wrong(call, r"a/7\.png", "compare", recipe, "training.batch_size=8", "data=" + data % "raise")
    answer = call("compare", recipe, "training.batch_size=8", "data=" + data % "skip", "--overwrite")
    assert answer.code == 0, answer.err
    assert "skipped 1 of 40 images" in caplog.text  # Python prints it on stderr where no one has set up logging
    assert "a/7.png cannot be read" in caplog.text


def test_a_reference_with_another_number_of_classes(call: Call, recipe: Path, tmp_path: Path) -> None:
    class Settings:
        name, options = "mlp", {"hidden": [16]}

    save_weights(build_model(Settings(), (1, 8, 8), 7), tmp_path / "seven.safetensors")
    reference = f"reference={{model: {MLP}, weights: {tmp_path}/seven.safetensors}}"
    wrong(call, "is for 7 classes, but the model must have 10", "compare", recipe, reference, "strategies=[steer]")


def test_stores_that_do_not_fit(call: Call, recipe: Path, tmp_path: Path) -> None:
    loaded = load_recipe(recipe, [f"reference={{model: {MLP}}}"])
    for seed in (1, 2):
        save_weights(reference_model(loaded, load_source(loaded), seed), tmp_path / f"{seed}.safetensors")
    reference = f"reference={{model: {MLP}, weights: {tmp_path}/1.safetensors}}"
    answer = call("score", recipe, reference, "strategies=[steer]")
    assert answer.code == 0, answer.err
    store = tmp_path / "runs/tiny/reference/store"
    given = ("compare", recipe, reference, "strategies=[steer]", f"reference.store={store}", "name=given")
    wrong(call, "was not made for this: `weights`", *given, f"reference.weights={tmp_path}/2.safetensors")
    other = npz(tmp_path / "d.npz", list(range(10)) * 20, columns=64)
    only = f"reference={{store: {store}}}"
    wrong(call, "reference store", "compare", recipe, only, "strategies=[steer]", other, "name=other")
    valid = np.load(store / "valid.npy")
    valid[-1] = 0
    np.save(store / "valid.npy", valid)
    wrong(call, "is half written: .* rows are missing", *given, "--overwrite")
    assert call("score", recipe, reference, "strategies=[steer]", "--resume").code == 0
    assert call(*given, "--overwrite").code == 0


def test_another_recipe_and_a_loss_that_is_not_finite(call: Call, recipe: Path, tmp_path: Path) -> None:
    answer = call("compare", recipe, "training.lr=1e30", "training.checkpoint_every=1", "strategies=[erm, dro]")
    assert answer.code == 1
    assert "error: 2 of 2 trainings failed; see runs/tiny/seed-0/erm/result.json" in answer.line
    assert "erm, seed 0: failed" in answer.out
    assert "the last good checkpoint is" in " ".join(answer.out.split())
    assert (tmp_path / "runs/tiny/seed-0/erm/checkpoints/step-00000001.pt").exists()
    wrong(
        call,
        r"another recipe: training.lr: 1e\+30 in the checkpoint, 0.1",
        "compare",
        recipe,
        "training.lr=0.1",
        "--resume",
    )


def test_nothing_is_printed_by_the_second_process(call: Call, recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "_process", lambda: 1)
    answer = call("train", recipe)
    assert answer == (0, "", "")
    assert call("train", recipe).err.startswith("process 1: error: ")


def started(*arguments: object) -> subprocess.Popen[str]:
    # Compiled files are kept: without them a process takes ten seconds more to import what it needs.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": ""}
    return subprocess.Popen(
        [sys.executable, "-m", "guidestar", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
def test_a_signal_ends_a_real_run_after_a_checkpoint(
    recipe: Path, tmp_path: Path, number: int, code: int, call: Call
) -> None:
    process = started("train", recipe, "training.steps=100000")
    checkpoints = tmp_path / "runs/tiny/seed-0/erm/checkpoints"
    wait_for(checkpoints, process)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    name = re.search(r"step-\d+\.pt", err)
    assert name, err
    assert err.startswith(f"stopped by {signal.Signals(number).name}; continue with --resume (")
    assert torch.load(checkpoints / name[0], weights_only=True)["counters"]["step"] == int(name[0][5:-3])


@pytest.mark.slow
def test_a_traceback_from_a_real_process_with_debug_only(recipe: Path) -> None:
    quiet, loud = started("compare", "no.yaml"), started("compare", "no.yaml", "--debug")
    assert quiet.communicate() == ("", "error: no.yaml: there is no such recipe file\n")
    assert "Traceback" in loud.communicate()[1]
    assert (quiet.returncode, loud.returncode) == (1, 1)
