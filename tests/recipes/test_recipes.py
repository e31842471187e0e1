"""The recipes that come with guidestar: all load, the demo shows what it claims, the others run on their real data."""

from __future__ import annotations

from pathlib import Path

import pytest
from accelerate.state import AcceleratorState

from guidestar.training.pair_prepare import load_splits
from guidestar.training.pair_recipe import PAIR_STRATEGIES
from guidestar.training.recipe_io import load_recipe
from guidestar.training.runner import Options, Run

RECIPES = Path(__file__).resolve().parents[2] / "recipes"


@pytest.fixture(autouse=True)
def no_engine_left_over():
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def compare(name: str, folder: Path, *overrides: str) -> dict:
    loaded = load_recipe(RECIPES / name, [f"output={folder}", *overrides])
    return Run(loaded, Options()).compare(loaded.recipe.resolved_strategies().usable, loaded.recipe.seeds)


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_it_loads(path):
    loaded = load_recipe(path)
    usable = loaded.recipe.resolved_strategies().usable
    assert {"as_is", "erm", "dro", "distill", "select", "steer", "steer+distill"} <= set(usable)
    assert len(loaded.recipe.seeds) >= 3


def test_flickr8k_is_in_its_official_split(shared_data):
    splits = load_splits(load_recipe(RECIPES / "flickr8k.yaml"))
    assert (len(splits.train), len(splits.test)) == (6000, 1000)
    assert len(splits.test.captions(0)) == 5
    assert "3385593926_d3e9c21170.jpg" in splits.test.keys(range(1000))  # the first of the official list


def cut_down(name, folder, *overrides):
    pytest.importorskip("tokenizers")
    tests = "data.test_samples=100" if name == "fashion_products.yaml" else "data.test.limit=100"
    few = ("seeds=[0]", "data.train_samples=1000", tests, "data.mismatch=0.2", "training.evaluate_every=99")
    return compare(name, folder, *few, *overrides)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fashion_products.yaml", "flickr8k.yaml"])
def test_every_strategy_runs_on_the_real_pairs(name, tmp_path, shared_data):
    short = ("training.steps=2", "training.batch_size=64", "reference.fit={samples: 128, epochs: 1, batch_size: 64}")
    results = cut_down(name, tmp_path, *short)
    assert set(results) == set(PAIR_STRATEGIES)
    assert results["steer"]["reference_forward_samples"] == [1000.0]
    for metrics in results.values():
        assert ("zero_shot_top1" in metrics) == (name == "fashion_products.yaml")


@pytest.mark.slow
def test_products_are_found_after_a_short_training(tmp_path, shared_data):
    longer = ("training.epochs=8", "training.batch_size=64", "data.train_samples=2500", "data.mismatch=0.0")
    metrics = cut_down("fashion_products.yaml", tmp_path, *longer, "strategies=[erm]")["erm"]
    assert metrics["image_to_text_r10"][0] + metrics["text_to_image_r10"][0] > 0.3  # of 100: chance is 0.1 each
    assert metrics["zero_shot_top1"][0] > 0.1  # of 30 classes


def test_the_demo_shows_its_effect(tmp_path):
    pytest.importorskip("sklearn")
    results = compare("demo.yaml", tmp_path, "seeds=[0, 1]", "strategies=[as_is, erm, dro, steer]")
    for seed in (0, 1):
        accuracy = {strategy: values["accuracy"][seed] for strategy, values in results.items()}
        assert accuracy["steer"] > accuracy["erm"] + 0.01
        assert accuracy["steer"] > accuracy["as_is"] + 0.01  # better than its reference: weak to strong
        assert accuracy["dro"] < accuracy["erm"]  # the control: without a reference the same risk learns the noise


@pytest.mark.parametrize("name", ["fashion_mnist.yaml", "cifar10.yaml"])
def test_a_small_part_runs_on_the_real_data(name, tmp_path, shared_data):
    results = compare(
        name,
        tmp_path,
        "seeds=[0]",
        "strategies=[as_is, erm, steer]",
        "data.train_samples=600",
        "data.train.limit=1500",
        "data.test.limit=500",
        "data.label_noise=0.2",
        "reference.fit={samples: 300, epochs: 4, lr: 0.003, batch_size: 32}",
        "training.steps=30",
    )
    for strategy in ("as_is", "erm", "steer"):
        assert results[strategy]["accuracy"][0] > 0.15  # ten classes: chance is 0.1
    assert results["steer"]["reference_forward_samples"] == [600.0]
