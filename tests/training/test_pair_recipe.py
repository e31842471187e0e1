"""Recipes of pairs: what they say, what they refuse and in which words."""

from __future__ import annotations

import pytest

from guidestar.errors import UserError
from guidestar.training.explain import difference, explain, recipe_digest
from guidestar.training.pair_recipe import PAIR_STRATEGIES, PairRecipe
from guidestar.training.recipe import Recipe
from guidestar.training.recipe_io import check_recipe, classification, dump, load_recipe, pairs


def refused(load, *overrides: str) -> str:
    with pytest.raises(UserError) as error:
        load(*overrides)
    return str(error.value)


def test_the_task_decides_which_recipe_it_is(load_pairs_recipe, load) -> None:
    assert isinstance(load_pairs_recipe().recipe, PairRecipe)
    assert isinstance(load().recipe, Recipe)
    assert "must be one of classification, pairs, found 'pear'" in refused(load, "task=pear")
    with pytest.raises(TypeError, match=r"`recipe` must be one of classification. Found `task: pairs`"):
        classification(load_pairs_recipe().recipe)
    with pytest.raises(TypeError, match=r"`recipe` must be one of pairs. Found `task: classification`"):
        pairs(load().recipe)


def test_keys_of_the_other_task_are_unknown(load_pairs_recipe, load) -> None:
    assert "`steer` is not a known key" in refused(load_pairs_recipe, "steer.risk={kind: kl}")
    assert "`data.label_noise` is not a known key" in refused(load_pairs_recipe, "data.label_noise=0.1")
    assert "`training.chunk` is not a known key" in refused(load, "training.chunk=4")
    assert "did you mean `data.mismatch`?" in refused(load_pairs_recipe, "data.mismach=0.1")


def test_explain_says_where_each_value_comes_from(load_pairs_recipe) -> None:
    text = explain(load_pairs_recipe("training.chunk=8"))
    assert "task = pairs" in text
    assert any(line.startswith("training.chunk = 8") and "(command line)" in line for line in text.splitlines())
    assert any(line.startswith("training.ema = null") and "(default)" in line for line in text.splitlines())
    assert "Strategies that will run: as_is, erm, siglip" in text


def test_it_is_written_and_read_back(load_pairs_recipe, tmp_path) -> None:
    loaded = load_pairs_recipe("data.mismatch=0.2", "objective.contrast.temperature={kind: learnt, rho: 3.0}")
    (tmp_path / "again.yaml").write_text(dump(loaded))
    again = load_recipe(tmp_path / "again.yaml")
    assert again.recipe.model_dump(exclude={"base", "output"}) == loaded.recipe.model_dump(exclude={"base", "output"})
    assert recipe_digest(again.recipe) == recipe_digest(loaded.recipe)
    assert again.recipe.resolved_strategies().usable == PAIR_STRATEGIES


def test_what_tells_two_recipes_apart(load_pairs_recipe) -> None:
    first = load_pairs_recipe().recipe
    assert difference(first, load_pairs_recipe("data.mismatch=0.2").recipe) == [
        "data.mismatch: 0.0 in the checkpoint, 0.2 in the recipe"
    ]
    assert difference(first, load_pairs_recipe("evaluate.queries=1", "seeds=[4]", "data.workers=2").recipe) == []


WITHOUT = "reference={}"
WRONG = [
    (
        ["data.test_fraction=0.5"],
        "exactly one of `data.test`, `data.test_fraction` and `data.test_samples` must be given; "
        "found `data.test_fraction`, `data.test_samples`",
    ),
    (["data.test_samples=null"], "`data.test_samples` must be given; found none"),
    (["data.mismatch=1.5"], "`data.mismatch` must be less than or equal to 1|`data.mismatch` must be at most 1"),
    (["training.chunk=32"], "`training.chunk` must be at most `training.batch_size`, found 32 and 16"),
    (["training.batch_size=1"], "`training.batch_size` must be at least 2, found 1"),
    (["training.ema=1.0"], "`training.ema` must be less than 1"),
    (["training.freeze=both"], "`training.freeze` must be one of image, text, found 'both'"),
    (["evaluate.templates=[a photo]"], "`evaluate.templates` must each have {} where the class goes, found 'a photo'"),
    (["reference.weights=w.safetensors"], "`reference.fit` and `reference.weights` are both given; keep one of them"),
    (["reference.store=s"], "`reference.fit` and `reference.store` are both given; keep one of them"),
    (
        [WITHOUT, "reference.store=s", "reference.scoring=online"],
        "`reference.scoring: online` and `reference.store` are",
    ),
    (["reference={fit: {samples: 9}}"], "`reference.fit` needs `reference.model`"),
    (["reference.tokenizer=t"], "`reference.tokenizer` belongs to `reference.weights`, which are not given"),
    ([WITHOUT, "strategies=[erm, steer]"], "`strategies` steer need a reference, and `reference` has none"),
    (
        ["reference={store: s}", "strategies=[finetune]"],
        "`strategies` has finetune, which needs the reference model itself",
    ),
    (
        ["model.options.width=16", "strategies=[finetune]"],
        "finetune, which needs `model` and `reference.model` to be the same",
    ),
    (["strategies=[erm, erm]"], "`strategies` must not repeat an entry, found erm more than once"),
    (["strategies=[rho]"], "must be one of as_is, erm, siglip"),
    (["model.options.wide=4"], "wide"),
    # A key of the source is meant, not the one that is spelled like the source.
    (["data.train.limit=-1"], "`data.train.limit` must be greater than 0, found -1"),
    (["data.train={source: shards, shards: a.tar, captions: a}"], "`data.train.captions` must be a list, found 'a'"),
    (["data.train={source: shards, shards: 3}"], "`data.train.shards` must be a list, found 3"),
    (
        ["data.train={source: shards, shards: a.tar, class_names: [a]}"],
        "`data.train`: `class_names` names the values of `label`",
    ),
    (
        ["objective.contrast.temperature.rho=1"],
        "another kind of `objective.contrast.temperature` has it. Allowed under",
    ),
    (["name=a/b"], "`name` must be a folder name"),
]


@pytest.mark.parametrize(("overrides", "message"), WRONG, ids=[" ".join(w) for w, _ in WRONG])
def test_what_is_refused(load_pairs_recipe, overrides: list[str], message: str) -> None:
    found = refused(load_pairs_recipe, *overrides)
    assert any(part in found for part in message.split("|")), found


def test_what_cannot_run_by_default_is_left_out_with_a_reason(load_pairs_recipe) -> None:
    usable, dropped = load_pairs_recipe(WITHOUT).recipe.resolved_strategies()
    assert usable == ("erm", "siglip", "dro", "fastclip")
    assert all("needs a reference" in reason for reason in dropped.values())
    usable, dropped = load_pairs_recipe("reference={store: s}").recipe.resolved_strategies()
    assert set(dropped) == {"as_is", "finetune", "steer_init"}
    assert set(load_pairs_recipe("model.options.width=16").recipe.resolved_strategies().dropped) == {"finetune"}


def test_a_recipe_of_plain_values() -> None:
    data = {"train": {"source": "folder", "table": "captions.csv"}, "test_fraction": 0.1}
    recipe = check_recipe({"name": "a", "task": "pairs", "strategies": ["erm"], "data": data, "model": {}})
    assert recipe.task == "pairs"
    assert recipe.model.name == "dual"
