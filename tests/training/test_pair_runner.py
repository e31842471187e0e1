"""Runs of a recipe of pairs: every strategy, resuming, stores, evaluation, galleries, export and bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from guidestar.errors import UserError
from guidestar.reference.embeddings import EmbeddingStore
from guidestar.training.exporting import export_run
from guidestar.training.interrupt import Interrupted, StopRequest
from guidestar.training.pair_evaluation import PairEvaluation
from guidestar.training.pair_prepare import pair_seed_data
from guidestar.training.pair_recipe import PAIR_STRATEGIES
from guidestar.training.recipe_io import LoadedRecipe
from guidestar.training.reevaluate import evaluate_run
from guidestar.training.runner import Options, Run, collect, read_result

RETRIEVAL = {f"{way}_r{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5, 10)}
ZERO_SHOT = {"zero_shot_top1", "zero_shot_top5", "zero_shot_mean_class", "zero_shot_ece", "zero_shot_nll"}
COST = {"seconds", "samples_trained", "forward_samples", "reference_forward_samples"}

#: Every ninth picture of the tiny data is no picture.
BROKEN = """

whole = load


def load():
    import io

    from PIL import Image

    found = whole()
    files = []
    for row, image in enumerate(found["images"]):
        Image.fromarray(image).save(file := io.BytesIO(), "PNG")
        files.append(b"none" if row % 9 == 0 else file.getvalue())
    return {**found, "images": files}
"""


@pytest.fixture(autouse=True)
def no_engine_left_over():
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def compare(loaded: LoadedRecipe, **options: Any) -> dict:
    strategies = loaded.recipe.resolved_strategies().usable
    return Run(loaded, Options(**options)).compare(strategies, loaded.recipe.seeds)


def without_seconds(results: dict) -> dict:
    return {s: {name: v for name, v in metrics.items() if name != "seconds"} for s, metrics in results.items()}


def weights(loaded: LoadedRecipe, strategy: str, seed: int = 0) -> dict[str, torch.Tensor]:
    return load_file(loaded.run_folder / f"seed-{seed}" / strategy / "model.safetensors")


def test_every_strategy_runs_and_leaves_what_the_report_wants(load_pairs_recipe) -> None:
    loaded = load_pairs_recipe("data.mismatch=0.25", "evaluate.queries=2")
    assert loaded.recipe.resolved_strategies() == (PAIR_STRATEGIES, {})
    results = compare(loaded)
    assert list(results) == list(PAIR_STRATEGIES)
    for strategy, metrics in results.items():
        assert set(metrics) == RETRIEVAL | ZERO_SHOT | COST, strategy
        assert all(0 <= metrics[name][0] <= 1 for name in RETRIEVAL)
    assert json.loads((loaded.run_folder / "results.json").read_text()) == results
    assert results["steer"]["reference_forward_samples"] == [80.0]  # 136 less 24 for testing and 32 for the reference
    assert results["as_is"]["samples_trained"] == [0.0]
    gallery = json.loads((loaded.run_folder / "seed-0" / "steer" / "gallery.json").read_text())
    assert len(gallery["text_to_image"]) == len(gallery["image_to_text"]) == 2
    assert (loaded.run_folder / "seed-0" / "as_is" / "gallery.json").is_file()
    again = compare(loaded, resume=True)
    assert again == results


def test_steering_learns_from_pairs_what_they_say(load_pairs_recipe) -> None:
    loaded = load_pairs_recipe("strategies=[erm, steer]", "training.steps=60", "reference.fit.epochs=30")
    results = compare(loaded)
    for strategy in ("erm", "steer"):  # eight kinds of pictures, 24 to search: chance is 10/24 with ties against it
        assert results[strategy]["image_to_text_r10"][0] > 0.6
        assert results[strategy]["zero_shot_top1"][0] > 0.5  # of eight classes


def test_a_probe_is_fitted_at_the_end_only(load_pairs_recipe) -> None:
    pytest.importorskip("sklearn")
    loaded = load_pairs_recipe("strategies=[erm]", "evaluate.probe=true", "evaluate.probe_samples=40")
    results = compare(loaded)
    assert {"linear_probe", "knn"} < set(results["erm"])
    lines = (loaded.run_folder / "seed-0" / "erm" / "metrics.jsonl").read_text().splitlines()
    measured = [json.loads(line)["test"] for line in lines]
    assert ["knn" in test for test in measured] == [False] * (len(measured) - 1) + [True]


def test_pictures_that_cannot_be_read_are_left_out(load_pairs_recipe, tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    loaded = load_pairs_recipe("strategies=[as_is, steer]", "evaluate.probe=true", "data.on_error=skip")
    module = tmp_path / "tiny_pairs.py"
    module.write_text(module.read_text() + BROKEN)
    results = compare(loaded)
    assert results["steer"]["linear_probe"][0] > 0
    run = Run(loaded, Options(overwrite=True))
    data = run.task.seed_data(0)
    lost = [key for key in data.test.keys(range(len(data.test))) if int(key[5:]) % 9 == 0]
    found = run.task._evaluation(data).embed(run.task.target("erm", 0, torch.nn.Module))
    assert lost
    assert len(found.image) == len(found.rows) == len(data.test) - len(lost)
    assert len(run.task.example(run.task.target("erm", 0, torch.nn.Module), data, 12)[0]) == 12


def test_no_test_picture_can_be_read(load_pairs_recipe, tmp_path: Path) -> None:
    loaded = load_pairs_recipe("strategies=[erm]", "data.on_error=skip")
    module = tmp_path / "tiny_pairs.py"
    module.write_text(module.read_text() + BROKEN.replace("% 9 == 0", ">= 0"))
    run = Run(loaded, Options())
    with pytest.raises(UserError, match="none of the 24 rows of 'test' can be read"):
        run.task.evaluate(run.task.target("erm", 0, torch.nn.Module), run.task.seed_data(0))


def test_stored_and_online_embeddings_steer_alike(load_pairs_recipe) -> None:
    stored = load_pairs_recipe("strategies=[steer]", "data.mismatch=0.5")
    online = load_pairs_recipe("strategies=[steer]", "data.mismatch=0.5", "reference.scoring=online", "name=online")
    compare(stored)
    results = compare(online)
    assert results["steer"]["reference_forward_samples"] == [8 * 16]
    assert not (online.run_folder / "reference" / "seed-0" / "store").exists()
    first, second = weights(stored, "steer"), weights(online, "steer")
    for name in first:  # float16 in the store; Adam's first steps are the sign of the gradient
        difference = (first[name].float() - second[name].float()).abs()
        assert float(difference.mean()) < 5e-3, name


def with_weights(load: Any, *overrides: str) -> LoadedRecipe:
    """A recipe whose reference was trained by a run before."""
    before = load("strategies=[as_is]", "name=before")
    if not before.run_folder.exists():
        compare(before)
    path = before.run_folder / "reference" / "seed-0" / "model.safetensors"
    tokenizer = before.run_folder / "tokenizer"
    given = (f"reference.weights={path}", f"reference.tokenizer={tokenizer}", "reference.fit=null")
    return load(*given, "strategies=[steer]", *overrides)


def test_a_store_that_is_given_equals_scoring_here(load_pairs_recipe) -> None:
    here = with_weights(load_pairs_recipe)
    (store,) = Run(here, Options()).score(here.recipe.seeds)
    assert store == here.run_folder / "reference" / "store"
    assert len(EmbeddingStore.open(store)) == 112
    compare(here, resume=True)
    given = with_weights(load_pairs_recipe, f"reference.store={store}", "name=given", "data.train_samples=112")
    results = compare(given)
    assert results["steer"]["reference_forward_samples"] == [0]
    first, second = weights(here, "steer"), weights(given, "steer")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_stores_that_do_not_fit(load_pairs_recipe) -> None:
    here = with_weights(load_pairs_recipe)
    (store,) = Run(here, Options()).score(here.recipe.seeds)
    given = f"reference.store={store}"
    with pytest.raises(UserError, match="captions"):
        compare(with_weights(load_pairs_recipe, given, "name=a", "data.mismatch=0.5"))
    other = load_pairs_recipe("strategies=[as_is]", "name=other", "reference.fit.epochs=1")
    compare(other)
    weights_of_another = other.run_folder / "reference" / "seed-0" / "model.safetensors"
    with pytest.raises(UserError, match="weights"):
        compare(with_weights(load_pairs_recipe, given, "name=b", f"reference.weights={weights_of_another}"))
    next(iter(store.glob("*.safetensors"))).unlink()
    with pytest.raises(UserError, match="guidestar score"):
        compare(with_weights(load_pairs_recipe, given, "name=c"))


def test_a_tokenizer_of_another_model(load_pairs_recipe) -> None:
    here = with_weights(load_pairs_recipe, "tokenizer.length=10", "name=d")
    model = here.run_folder.parent / "before" / "reference" / "seed-0" / "model.safetensors"
    with pytest.raises(UserError, match="another tokenizer"):
        compare(
            load_pairs_recipe(
                f"reference={{model: {{options: {here.recipe.model.options}}}, weights: {model}}}",
                "strategies=[as_is]",
                "tokenizer.length=10",
                "name=e",
            )
        )


def test_a_signal_while_scoring(load_pairs_recipe) -> None:
    loaded = load_pairs_recipe("strategies=[steer]")
    run = Run(loaded, Options())
    request = StopRequest()
    references = run._references(request)
    data = run.task.seed_data(0)
    references.model(0, data)
    request.number = 2
    with pytest.raises(Interrupted, match=r"stopped by SIGINT; continue with --resume"):
        references.score(0, data)
    request.number = 0
    assert len(references.score(0, data)) == 80


def test_mismatched_captions_are_of_the_target_only(load_pairs_recipe) -> None:
    run = Run(load_pairs_recipe("data.mismatch=0.5"), Options())
    data = run.task.seed_data(0)
    assert int(data.moved.sum()) == 40
    clean = {key: run.task.source.train.captions(row) for row, key in enumerate(_keys(run.task.source.train))}
    same = [clean[key] == data.train.captions(row) for row, key in enumerate(_keys(data.train))]
    assert [not moved for moved in data.moved.tolist()] == same
    assert all(clean[key] == data.reference.captions(row) for row, key in enumerate(_keys(data.reference)))
    parts = [set(_keys(part)) for part in (data.train, data.reference, data.test)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 136


def _keys(pairs: Any) -> list[str]:
    return pairs.keys(list(range(len(pairs))))


def test_fewer_samples_are_a_part_of_more(load_pairs_recipe) -> None:
    run = Run(load_pairs_recipe(), Options())
    few, more = (
        set(_keys(pair_seed_data(load_pairs_recipe(f"data.train_samples={n}").recipe, run.task.source, 0).train))
        for n in (20, 50)
    )
    assert len(few) == 20
    assert few < more


def test_evaluating_a_run_again_gives_its_numbers(load_pairs_recipe) -> None:
    loaded = load_pairs_recipe("strategies=[as_is, erm, siglip, finetune, steer]", "training.ema=0.5")
    results = compare(loaded)
    again, _ = evaluate_run(loaded.run_folder)
    assert list(again) == list(results)
    for strategy, columns in again.items():
        for name, values in columns.items():
            assert values == pytest.approx(results[strategy][name], rel=1e-5), (strategy, name)
    fewer, _ = evaluate_run(
        loaded.run_folder,
        ["data.test_samples=null", "data.test={source: function, function: 'tiny_pairs.py:load', options: {rows: 12}}"],
    )
    assert fewer["erm"]["text_to_image_r10"][0] > 0.5


def test_the_most_frequent_classes_compete(load_pairs_recipe) -> None:
    run = Run(load_pairs_recipe("strategies=[erm]"), Options())
    data = run.task.seed_data(0)
    evaluation = PairEvaluation(
        run.loaded.recipe.data,
        run.loaded.recipe.evaluate.model_copy(update={"classes": 2}),
        data,
        run.engine,
    )
    assert data.class_counts is not None
    order = np.argsort(-data.class_counts.numpy(), kind="stable")
    assert evaluation._classes(data.test.labels).tolist() == order[:2].tolist()


def test_exporting(load_pairs_recipe, tmp_path: Path) -> None:
    loaded = load_pairs_recipe("strategies=[as_is, erm]")
    compare(loaded)
    folder = export_run(loaded.run_folder, tmp_path / "out")
    facts = json.loads((folder / "model.json").read_text())
    assert (facts["strategy"], facts["seed"], facts["model"]["name"]) == ("erm", 0, "dual")
    exported, own = load_file(folder / "model.safetensors"), weights(loaded, "erm")
    assert all(torch.equal(exported[name], own[name]) for name in own)
    assert (folder / "tokenizer" / "tokenizer.json").is_file()
    with pytest.raises(UserError, match=r"`--out` must be a new or empty folder"):
        export_run(loaded.run_folder, folder)
    with pytest.raises(
        UserError, match=r"must hold a trained model of steer. Found in .*: erm \(seed 0\), as_is \(seed 0\)"
    ):
        export_run(loaded.run_folder, tmp_path / "b", strategy="steer")
    with pytest.raises(UserError, match=r"`run` must be a run's folder"):
        export_run(tmp_path / "nothing", tmp_path / "c")
    assert (
        json.loads((export_run(loaded.run_folder, tmp_path / "d", strategy="as_is") / "model.json").read_text())[
            "strategy"
        ]
        == "as_is"
    )


def test_a_strategy_that_fails_leaves_the_others(load_pairs_recipe) -> None:
    loaded = load_pairs_recipe("strategies=[erm, dro]", "training.lr=1e30", "training.checkpoint_every=1")
    assert compare(loaded) == {}
    failed = read_result(loaded.run_folder / "seed-0" / "erm" / "result.json")
    assert failed["status"] == "failed"
    assert "tau" in failed["error"] or "weights" in failed["error"]
    assert collect(loaded.run_folder, ["erm"], [0]) == {}


def test_overwriting_trains_another_tokenizer(load_pairs_recipe) -> None:
    compare(load_pairs_recipe("strategies=[erm]"))
    small = load_pairs_recipe("strategies=[erm]", "tokenizer.vocabulary=262")
    compare(small, overwrite=True)
    assert len(json.loads((small.run_folder / "tokenizer" / "tokenizer.json").read_text())["model"]["vocab"]) <= 262


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.test_samples=136"], r"`data.test_samples` asks for 136 test rows of the 136"),
        (["reference.fit.samples=112"], r"`reference.fit.samples` is 112, and 110 rows are left for it"),
        (["data.train_samples=90"], r"`data.train_samples` is 90, and 80 rows are left for it"),
        (
            ["training.batch_size=90"],
            r"`training.batch_size` must be at most the number of training rows, 80; found 90",
        ),
        (
            ["data.groups=label", "data.train.options={several: false}", "data.train.function=tiny_pairs.py:missing"],
            r"has no function `missing`",
        ),
    ],
)
def test_data_that_do_not_suffice(load_pairs_recipe, overrides: list[str], message: str) -> None:
    loaded = load_pairs_recipe("strategies=[erm]", *overrides)
    with pytest.raises(UserError, match=message):
        compare(loaded)
