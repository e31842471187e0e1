"""A head on the reference's embeddings: trained from the store, whole when it is used, the reference untouched."""

from __future__ import annotations

import json

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from guidestar.errors import UserError
from guidestar.training.pair_head import CachedRows, HeadedEncoder
from guidestar.training.reevaluate import evaluate_run
from guidestar.training.runner import Options, Run

HEAD = "head={width: 6, hidden: 12}"


@pytest.fixture(autouse=True)
def no_engine_left_over():
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def test_embeddings_and_pictures_give_the_same(load_pairs_recipe) -> None:
    task = Run(load_pairs_recipe(HEAD), Options()).task
    reference = task.reference(0)
    model = HeadedEncoder(task.reference(0), width=6, hidden=None).eval()
    images, tokens = task.example(model, task.seed_data(0), 5)
    given = reference.eval()(images, tokens)
    for one, other in zip(model(images, tokens), model(*given), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
        assert one.shape == (5, 6)
    model.train()
    assert not any(module.training for module in model.image_tower.get_submodule("inner").modules())
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {
        "log_scale", "image_tower.head.weight", "image_tower.head.bias", "text_tower.head.weight", "text_tower.head.bias"
    }  # fmt: skip


def test_every_strategy_trains_a_head_and_leaves_the_reference_alone(load_pairs_recipe) -> None:
    loaded = load_pairs_recipe(HEAD, "training.chunk=8", "training.steps=40", "reference.fit.epochs=20")
    usable, dropped = loaded.recipe.resolved_strategies()
    assert set(dropped) == {"finetune", "steer_init"}
    results = Run(loaded, Options()).compare(usable, [0])
    reference = load_file(loaded.run_folder / "reference" / "seed-0" / "model.safetensors")
    for strategy in usable[1:]:
        weights = load_file(loaded.run_folder / "seed-0" / strategy / "model.safetensors")
        below = {name.replace(".inner.", "."): value for name, value in weights.items() if ".inner." in name}
        assert below
        assert all(torch.equal(value, reference[name]) for name, value in below.items())
        assert results[strategy]["reference_forward_samples"] == [80.0]  # the store's, and no more
    lines = (loaded.run_folder / "seed-0" / "erm" / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["train_loss"] for line in lines]
    assert losses[-1] < losses[0] - 0.1
    again, path = evaluate_run(loaded.run_folder)
    assert again["steer"]["image_to_text_r5"] == pytest.approx(results["steer"]["image_to_text_r5"])
    assert json.loads(path.read_text()) == again


def test_rows_and_captions_depend_on_the_batch_only(load_pairs_recipe) -> None:
    pairs = Run(load_pairs_recipe(HEAD), Options()).task.seed_data(0).train
    rows = CachedRows(pairs, "random", 3)
    batch = rows.__getitems__((7, [4, 9, 30]))
    assert torch.equal(batch.choice, rows.__getitems__((7, [4, 9, 30])).choice)
    assert batch.rows.tolist() == [4, 9, 30]
    drawn = torch.cat([rows.__getitems__((number, [4, 9])).choice for number in range(20)])
    assert set(drawn.tolist()) == {0, 1}
    assert CachedRows(pairs, "first", 3).__getitems__((7, [4, 9])).choice.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["reference={store: s}", "strategies=[erm]"], "`head` needs a reference model to stand on"),
        (["training.freeze=image"], "`head` and `training.freeze` are both given"),
        (["data.groups=caption"], "`head` is trained without captions at hand"),
        (["strategies=[finetune]"], "starts from the reference's weights, as every `head` does"),
    ],
)
def test_what_a_head_refuses(load_pairs_recipe, overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_pairs_recipe(HEAD, *overrides)
