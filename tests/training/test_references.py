"""What the reference is, and what the user is told about it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState

from guidestar.errors import UserError
from guidestar.models.load import build_model
from guidestar.models.weights import save_weights
from guidestar.reference import Store
from guidestar.training.display import Display
from guidestar.training.prepare import load_source, reference_model, target_model
from guidestar.training.recipe_io import LoadedRecipe, load_recipe
from guidestar.training.recipe_sections import ModelSettings
from guidestar.training.reevaluate import evaluate_run
from guidestar.training.runner import Options, Run

TEXT = """
name: own
output: {output}
seeds: [0]
data:
  train: {{source: npz, path: data.npz, inputs: x, labels: y}}
  test: {{source: npz, path: data.npz, inputs: x, labels: y}}
model: {{name: mlp, options: {{hidden: [8]}}}}
reference: {{model: {{name: mlp, options: {{hidden: [8]}}}}, weights: own.safetensors}}
training: {{steps: 3, batch_size: 16, threads: 1}}
"""


class Notes(Display):
    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture(autouse=True)
def no_engine_left_over():
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    draw = np.random.default_rng(0)
    y = np.arange(200) % 2
    np.savez(tmp_path / "data.npz", x=draw.normal(size=(200, 3)).astype(np.float32) + 2.0 * y[:, None], y=y)
    torch.manual_seed(5)
    save_weights(build_model(ModelSettings(name="mlp", options={"hidden": [8]}), (3,), 2), tmp_path / "own.safetensors")
    (tmp_path / "own.yaml").write_text(TEXT.format(output=tmp_path / "runs"))
    return tmp_path / "own.yaml"


def run(loaded: LoadedRecipe, *strategies: str, **options: bool) -> tuple[Notes, dict]:
    display = Notes()
    return display, Run(loaded, Options(display=display, **options)).compare(strategies, loaded.recipe.seeds)


def test_the_normalisation_that_was_guessed_is_named(recipe):
    display, _ = run(load_recipe(recipe), "erm")
    assert any("normalised with the mean and standard deviation of `data.train`" in text for text in display.said)
    display, _ = run(load_recipe(recipe, ["reference={model: {name: mlp, options: {hidden: [8]}}, weights: own.safetensors, "
                                          "mean: [0.0], std: [1.0]}", "name=b"]), "erm")  # fmt: skip
    assert display.said == []


def test_a_function_without_weights_and_a_poor_reference_are_named(recipe):
    (recipe.parent / "mine.py").write_text(
        "import torch\n"
        "class Wrong(torch.nn.Module):\n"
        "    def forward(self, x):\n"
        "        return torch.stack([x.sum(1), -x.sum(1)], 1)\n"  # the classes swapped
        "def net(input_shape, num_classes):\n"
        "    return Wrong()\n"
    )
    loaded = load_recipe(recipe, ["reference={model: {name: 'mine.py:net'}}"])
    display, results = run(loaded, "as_is")
    assert results["as_is"]["accuracy"][0] < 0.5
    assert any("mine.py:net is used as it comes" in text for text in display.said)
    assert any("no better than that of always answering the commonest class" in text for text in display.said)


def test_a_transformers_folder_says_how_its_inputs_are_normalised(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
        image_size=8,
        patch_size=4,
        num_labels=10,
    )
    config.num_channels = 1
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path / "vit")
    (tmp_path / "vit" / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.5], "image_std": [0.25], "size": {"height": 8, "width": 8}})
    )
    (tmp_path / "r.yaml").write_text(
        "name: v\ndata: {train: {source: sklearn_digits}, test_fraction: 0.5}\n"
        "model: {name: 'transformers:vit'}\nreference: {model: {name: 'transformers:vit'}}\n"
    )
    loaded = load_recipe(tmp_path / "r.yaml")
    source = load_source(loaded)
    reference, target = reference_model(loaded, source, 0), target_model(loaded, source, 1)
    assert (reference.mean.item(), reference.std.item(), reference.size) == (0.5, 0.25, (8, 8))
    assert target.mean.item() == pytest.approx(source.mean[0])
    states = [dict(model.model.named_parameters()) for model in (reference, target)]
    weight = next(name for name in states[0] if name.endswith("projection.weight"))
    assert not torch.equal(states[0][weight], states[1][weight])  # the target starts from random weights
    (tmp_path / "vit" / "preprocessor_config.json").write_text("{")
    with pytest.raises(UserError, match=r"preprocessor_config.json is not JSON"):
        reference_model(loaded, source, 0)


def test_a_store_serves_a_part_of_the_data_beside_the_model(recipe):
    loaded = load_recipe(recipe)
    (store,) = Run(loaded, Options()).score([0])
    assert Store.open(store).meta.preprocessing["mean"] == pytest.approx(load_source(loaded).mean)
    assert load_source(load_recipe(recipe, ["data.train.limit=100"])).mean != load_source(loaded).mean
    part = load_recipe(recipe, [f"reference.store={store}", "data.train.limit=100", "name=part"])
    _, results = run(part, "steer", "as_is")
    assert results["steer"]["accuracy"][0] is not None
    assert results["steer"]["reference_forward_samples"] == [0.0]
    save_weights(
        build_model(ModelSettings(name="mlp", options={"hidden": [8]}), (3,), 2), recipe.parent / "own.safetensors"
    )
    other = load_recipe(recipe, [f"reference.store={store}", "name=other"])
    with pytest.raises(UserError, match="was not made for this"):
        run(other, "erm", "steer")
    assert not (other.run_folder / "seed-0").exists()  # found out before anything was trained


def test_a_run_that_never_began_is_no_run(recipe):
    weights = recipe.parent / "own.safetensors"
    weights.rename(recipe.parent / "elsewhere.safetensors")
    with pytest.raises(FileNotFoundError, match="found none at"):
        run(load_recipe(recipe), "as_is")
    (recipe.parent / "elsewhere.safetensors").rename(weights)
    _, results = run(load_recipe(recipe, ["training.steps=4"]), "as_is")
    assert results["as_is"]["accuracy"][0] is not None


def test_only_the_data_of_a_run_can_be_changed(recipe):
    run(load_recipe(recipe), "erm")
    with pytest.raises(UserError, match=r"`training.lr=3`: only the data can be changed"):
        evaluate_run(recipe.parent / "runs" / "own", ["training.lr=3"])
