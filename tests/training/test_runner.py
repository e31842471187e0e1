"""A run and its folder: the layout of the results, resuming, refusing, failing strategies, the reference and its store."""

from __future__ import annotations

import errno
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from guidestar.errors import UserError
from guidestar.reference.store import Store
from guidestar.training.interrupt import Interrupted, StopRequest
from guidestar.training.recipe import STRATEGIES
from guidestar.training.recipe_io import LoadedRecipe
from guidestar.training.reevaluate import evaluate_run
from guidestar.training.references import References
from guidestar.training.runner import Options, Run, collect, read_result

METRICS = {"accuracy", "balanced_accuracy", "nll", "ece"}
COSTS = {"seconds", "samples_trained", "forward_samples", "reference_forward_samples"}


def compare(loaded: LoadedRecipe, *, resume: bool = False, overwrite: bool = False, seeds: Any = None) -> Any:
    run = Run(loaded, Options(resume=resume, overwrite=overwrite))
    return run.compare(loaded.recipe.resolved_strategies().usable, seeds or loaded.recipe.seeds)


def written(loaded: LoadedRecipe, name: str = "results.json") -> Any:
    return json.loads((loaded.run_folder / name).read_text())


def without_seconds(results: Any) -> Any:
    return {s: {name: v for name, v in columns.items() if name != "seconds"} for s, columns in results.items()}


def test_all_strategies_and_what_they_leave(load) -> None:
    loaded = load("seeds=[0, 3]")
    results = compare(loaded)
    folder = loaded.run_folder
    assert written(loaded) == results
    assert list(results) == list(STRATEGIES)
    assert all(set(columns) == METRICS | COSTS for columns in results.values())
    assert all(len(values) == 2 for columns in results.values() for values in columns.values())
    assert results["as_is"]["samples_trained"] == [0, 0]
    assert results["steer"]["reference_forward_samples"] == [120, 120]  # the store's passes
    assert results["erm"]["reference_forward_samples"] == [0, 0]
    assert results["finetune"]["reference_forward_samples"] == [0, 0]
    assert read_result(folder / "seed-3" / "steer" / "result.json")["status"] == "finished"
    for strategy in ("steer", "select", "dro", "steer+distill"):
        arrays = np.load(folder / "seed-0" / strategy / "weights.npz")
        assert set(arrays) == {"row", "weight", "label", "rho", "true_label"}
        shown = json.loads((folder / "seed-0" / strategy / "samples.json").read_text())
        assert [len(shown["most"]), len(shown["least"])] == [12, 12]
        assert shown["most"][0]["weight"] == float(arrays["weight"].max())
        assert shown["most"][0]["image"].startswith("data:image/png;base64,")
    assert not (folder / "seed-0" / "erm" / "weights.npz").exists()
    lines = [json.loads(line) for line in (folder / "seed-0" / "steer" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [7, 14, 20]
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert lines[-1]["test"]["accuracy"] == results["steer"]["accuracy"][0]
    assert set(written(loaded, "environment.json")) >= {"guidestar", "torch", "python", "platform", "device", "threads"}
    assert not list(folder.rglob("*.tmp"))


def test_seeds_differ_and_repeat(load, tmp_path: Path) -> None:
    options = ("strategies=[erm, steer]", "seeds=[0, 1]")
    first = compare(load(*options))
    second = compare(load(*options, f"output={tmp_path / 'other'}"))
    assert without_seconds(first) == without_seconds(second)
    assert first["erm"]["nll"][0] != first["erm"]["nll"][1]


def test_fine_tuning_starts_from_the_reference(load) -> None:
    loaded = load("strategies=[as_is, finetune]", "finetune.lr_factor=1e-20")
    results = compare(loaded)
    assert results["finetune"]["nll"] == pytest.approx(results["as_is"]["nll"], rel=1e-9)
    reference = load_file(loaded.run_folder / "reference" / "seed-0" / "model.safetensors")
    tuned = load_file(loaded.run_folder / "seed-0" / "finetune" / "model.safetensors")
    assert all(torch.equal(reference[name], tuned[name]) for name in reference)


def test_a_run_is_not_touched_without_being_told(load) -> None:
    loaded = load("strategies=[erm]")
    compare(loaded)
    with pytest.raises(
        UserError, match=r"holds a run already: continue it with --resume, start again with --overwrite"
    ):
        compare(loaded)
    with pytest.raises(
        UserError, match=r"a run of another recipe: training.lr: 0.01 in the checkpoint, 0.2 in the recipe"
    ):
        compare(load("strategies=[erm]", "training.lr=0.2"), resume=True)


def test_resume_does_what_is_missing_only_and_loses_nothing(load) -> None:
    first = compare(load("strategies=[erm, dro]", "seeds=[0, 1]"))
    folder = load().run_folder
    stamp = (folder / "seed-0" / "erm" / "model.safetensors").stat().st_mtime_ns
    results = compare(load("strategies=[steer]", "seeds=[1]"), resume=True)
    assert list(results) == ["steer"]
    assert (folder / "seed-0" / "erm" / "model.safetensors").stat().st_mtime_ns == stamp
    everything = written(load())
    assert list(everything) == ["erm", "dro", "steer"]
    assert {name: everything[name] for name in first} == {  # the recipe's seed first, then the others
        name: {metric: values[::-1] for metric, values in columns.items()} for name, columns in first.items()
    }
    assert everything["steer"]["accuracy"] == [results["steer"]["accuracy"][0], None]


def test_overwrite_starts_again(load) -> None:
    compare(load("strategies=[erm, steer]"))
    folder = load().run_folder
    (folder / "notes.txt").write_text("mine")
    compare(load("strategies=[dro]", "training.lr=0.2"), overwrite=True)
    assert sorted(path.name for path in (folder / "seed-0").iterdir()) == ["dro"]
    assert not (folder / "reference").exists()
    assert (folder / "notes.txt").read_text() == "mine"
    assert list(written(load())) == ["dro"]


def test_a_strategy_that_fails_is_named_and_the_others_go_on(load) -> None:
    loaded = load("strategies=[erm, as_is, finetune]", "training.lr=1e30", "training.checkpoint_every=1")
    results = compare(loaded)
    failed = read_result(loaded.run_folder / "seed-0" / "erm" / "result.json")
    assert failed["status"] == "failed"
    assert "erm (seed 0)" in failed["error"]
    assert "step 2" in failed["error"]
    assert "the last good checkpoint is " in failed["error"]
    assert "step-00000001.pt" in failed["error"]
    assert "erm" not in results
    assert "erm" not in written(loaded)
    assert results["as_is"]["accuracy"][0] is not None
    again = compare(loaded, resume=True)  # it is tried again, and fails in the same way
    assert without_seconds(again) == without_seconds(results)
    assert read_result(loaded.run_folder / "seed-0" / "erm" / "result.json") == failed


def test_a_reference_that_cannot_be_fitted_ends_the_run(load) -> None:
    with pytest.raises(UserError, match=r"the reference could not be fitted, see `reference.fit`: "):
        compare(load("strategies=[as_is, erm]", "reference.fit.lr=1e30"))


def test_online_and_stored_scores_steer_alike(load, tmp_path: Path) -> None:
    stored, online = load("strategies=[steer]"), load("strategies=[steer]", "reference.scoring=online", "name=online")
    compare(stored)
    results = compare(online)
    assert results["steer"]["reference_forward_samples"] == [20 * 16]
    assert not (online.run_folder / "reference" / "seed-0" / "store").exists()
    first, second = (load_file(x.run_folder / "seed-0" / "steer" / "model.safetensors") for x in (stored, online))
    # Losses are stored in float32; a batch of 16 and one of 120 round differently in the last bits.
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=0, atol=1e-5)


def with_weights(load, *overrides: str) -> LoadedRecipe:
    """A recipe whose reference was trained by a run before."""
    before = load("strategies=[as_is]", "name=before")
    if not before.run_folder.exists():
        compare(before)
    weights = before.run_folder / "reference" / "seed-0" / "model.safetensors"
    return load("reference.fit=null", f"reference.weights={weights}", "strategies=[steer]", *overrides)


def test_a_store_that_is_given_equals_scoring_here(load) -> None:
    here = with_weights(load, "data.label_noise=0.0")
    stores = Run(here, Options()).score(here.recipe.seeds)
    assert stores == [here.run_folder / "reference" / "store"]
    assert len(Store.open(stores[0])) > 120  # the whole training data, of which the target gets a part
    compare(here, resume=True)
    given = with_weights(load, "data.label_noise=0.0", f"reference.store={stores[0]}", "name=given")
    results = compare(given)
    assert results["steer"]["reference_forward_samples"] == [0]
    first, second = (load_file(x.run_folder / "seed-0" / "steer" / "model.safetensors") for x in (here, given))
    assert all(torch.equal(first[name], second[name]) for name in first)
    noisy = with_weights(load, f"reference.store={stores[0]}", "name=noisy")  # other labels: losses from the logits
    assert compare(noisy)["steer"]["accuracy"][0] > 0


def test_a_store_of_other_weights_or_data(load) -> None:
    here = with_weights(load, "data.label_noise=0.0")
    (store,) = Run(here, Options()).score(here.recipe.seeds)
    other = load("name=other", "seeds=[7]", "strategies=[as_is]")
    compare(other)
    weights = other.run_folder / "reference" / "seed-7" / "model.safetensors"
    with pytest.raises(UserError, match=r"reference store .*store was not made for this:\n.*weights"):
        compare(with_weights(load, f"reference.store={store}", f"reference.weights={weights}", "name=a"))
    with pytest.raises(UserError, match=r"reference store"):
        compare(with_weights(load, f"reference.store={store}", "data.test_fraction=0.1", "name=b"))


def test_a_half_written_store(load) -> None:
    here = with_weights(load, "data.label_noise=0.0")
    (path,) = Run(here, Options()).score(here.recipe.seeds)
    valid = np.load(path / "valid.npy")
    valid[-1] = 0
    np.save(path / "valid.npy", valid)
    with pytest.raises(UserError, match=r"is half written: .* rows are missing.*guidestar score RECIPE --resume"):
        compare(with_weights(load, f"reference.store={path}", "name=given"))
    Run(here, Options(resume=True)).score(here.recipe.seeds)
    Store.open(path).require_complete()


def test_a_signal_while_scoring(load) -> None:
    loaded = with_weights(load, "data.label_noise=0.0")
    run = Run(loaded, Options())
    request = StopRequest()
    references = run._references(request)
    data = run.task.seed_data(0)
    request.number = 2
    with pytest.raises(Interrupted, match=r"stopped by SIGINT; continue with --resume"):
        references.score(0, data)
    request.number = 0
    assert len(references.score(0, data)) == len(run.task.source.train)


def test_a_signal_between_trainings(load, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load("strategies=[as_is, erm]")
    finished: list[str] = []
    run = Run(loaded, Options())

    def one(strategy: str, seed: int, data: Any, references: Any, request: StopRequest) -> None:
        finished.append(strategy)
        request.number = 15

    monkeypatch.setattr(run, "_one", one)
    with pytest.raises(Interrupted, match="SIGTERM"):
        run.compare(("as_is", "erm"), (0,))
    assert finished == ["as_is"]


def test_the_reference_is_the_same_whether_fitted_now_or_before(load) -> None:
    loaded = load("reference.model={name: cnn, options: {width: 4}}", "strategies=[as_is]", "name=cnn")
    run = Run(loaded, Options())
    data = run.task.seed_data(0)
    references = References(run.task, StopRequest(), run.options.display)
    fitted, found = references.model(0, data).eval(), references.model(0, data).eval()
    inputs = data.test.__getitems__(list(range(64)))[0]
    assert torch.equal(fitted(inputs), found(inputs))
    strides = [[value.stride() for value in model.state_dict().values()] for model in (fitted, found)]
    assert strides[0] == strides[1]


def test_evaluating_a_run_again_gives_its_numbers(load) -> None:
    loaded = load("seeds=[10, 2]", "strategies=[as_is, erm, finetune, steer]")
    results = compare(loaded)
    again, path = evaluate_run(loaded.run_folder)
    assert json.loads(path.read_text()) == again
    assert list(again) == list(results)
    order = [loaded.recipe.seeds.index(seed) for seed in (2, 10)]
    for strategy, columns in again.items():
        assert set(columns) == METRICS
        for name, values in columns.items():
            assert values == pytest.approx([results[strategy][name][i] for i in order], rel=1e-6)


def test_evaluating_on_other_data(load, tmp_path: Path) -> None:
    loaded = load("strategies=[as_is, erm]")
    compare(loaded)
    images = np.zeros((5, 8, 8), np.float32)
    np.savez(tmp_path / "other.npz", x=images, y=np.arange(5))
    found, _ = evaluate_run(
        loaded.run_folder,
        ["data.test_fraction=null", f"data.test={{source: npz, path: {tmp_path / 'other.npz'}, inputs: x, labels: y}}"],
    )
    for strategy in ("erm", "as_is"):  # five equal pictures get one answer
        accuracy = found[strategy]["accuracy"][0]
        assert accuracy in (0.0, pytest.approx(0.2))


def test_evaluating_what_is_no_run(load, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"`run` must be a run's folder, with a recipe.yaml. Found none in"):
        evaluate_run(tmp_path)
    loaded = load("strategies=[erm]")
    compare(loaded)
    (loaded.run_folder / "seed-0" / "erm" / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"holds no trained model"):
        evaluate_run(loaded.run_folder)


def test_damaged_results(load) -> None:
    loaded = load("strategies=[erm]")
    compare(loaded)
    path = loaded.run_folder / "seed-0" / "erm" / "result.json"
    for text, message in (("{", r"result.json is not JSON"), ("[]", r"result.json holds no result")):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            compare(loaded, resume=True)
    path.unlink()
    assert collect(loaded.run_folder, ["erm"], [0]) == {}
    assert compare(loaded, resume=True)["erm"]["accuracy"][0] is not None


def test_a_full_disk_ends_the_run(load, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    loaded = load("strategies=[erm, dro]")
    monkeypatch.setattr("guidestar.training.runner.save_weights", full)
    with pytest.raises(UserError, match=r"the disk is full: .*erm/model.safetensors could not be written"):
        compare(loaded)
    assert not (loaded.run_folder / "seed-0" / "dro").exists()
    monkeypatch.undo()
    assert list(compare(loaded, resume=True)) == ["erm", "dro"]


def test_what_the_machine_lacks(load) -> None:
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match=r"`training.device` is cuda, and torch finds no GPU"):
            Run(load("training.device=cuda"), Options())
    if importlib.util.find_spec("tensorboard") is None:
        with pytest.raises(UserError, match=r"`training.tracker` is tensorboard, which is not installed"):
            Run(load("training.tracker=tensorboard"), Options())
        assert not load().run_folder.exists()
