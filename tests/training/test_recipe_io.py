"""Reading recipes: YAML, overrides, sources of values, and the round trip of the resolved recipe."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from guidestar.errors import UserError
from guidestar.training.explain import difference, explain, recipe_digest
from guidestar.training.recipe import Recipe
from guidestar.training.recipe_io import check_recipe, dump, leaves, load_recipe

TEXT = """\
name: digits
data:
  train: {source: npz, path: data.npz, inputs: x_train, labels: y_train}
  test_fraction: 0.25
model: {name: cnn, options: {width: 32}}
reference:
  model: {name: mlp, options: {hidden: [32]}}
  fit: {samples: 200, lr: 1e-3}
"""
VALUES = {
    "name": "a",
    "data": {"train": {"source": "sklearn_digits"}, "test_fraction": 0.25},
    "model": {"name": "mlp"},
    "strategies": ["erm"],
}


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(TEXT)
    return path


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing\.yaml: there is no such recipe file"):
        load_recipe(tmp_path / "nothing.yaml")


def test_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a folder; give the recipe's YAML file"):
        load_recipe(tmp_path)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "the recipe is empty"),
        (b"# only a comment\n", "the recipe is empty"),
        (b"- a\n- b\n", r"a recipe must be a mapping .*, found \['a', 'b'\]"),
        (b"name: \xff\n", "not UTF-8 text"),
        (b"name: a\ndata: [1, 2\n", r"recipe\.yaml, line 3, column 1: not valid YAML: expected ',' or ']'"),
        (b"name: a\n\tdata: 1\n", r"recipe\.yaml, line 2, column 1: not valid YAML"),
        (b"name: \x01\n", "not valid YAML"),
        (b"name: a\nseeds: [1]\nname: b\n", r"line 3, column 1: the key `name` is given twice; the first is on line 1"),
        (b"name: a\ndata: {train: 1, train: 2}\n", r"line 2, column 18: the key `train` is given twice"),
        (b"1: a\n", r"line 1, column 1: a key must be text, found 1"),
        (b"name: &a [*a]\n", "refers to itself"),
        (b"name: !!python/name:os.system\n", "tag .* is not allowed"),
        (b"name: !!int abc\n", "'abc' is not a value of the type"),
        (b"<<: 3\n", "`<<` merges a mapping"),
    ],
)
def test_what_is_not_a_recipe(tmp_path: Path, content: bytes, match: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=match):
        load_recipe(path)


def test_numbers_and_words_read_as_they_look(recipe_file: Path) -> None:
    recipe_file.write_text(TEXT.replace("digits", "on") + "training: {lr: 1e-2, weight_decay: 5e-4}\n")
    recipe = load_recipe(
        recipe_file, ["model.options.a=1:30", "model.options.b=2024-01-02", "model.options.c=012"]
    ).recipe
    assert recipe.name == "on"
    assert (recipe.training.lr, recipe.training.weight_decay) == (0.01, 0.0005)
    assert recipe.model.options == {"width": 32, "a": "1:30", "b": "2024-01-02", "c": 12}


def test_anchors_and_merges(recipe_file: Path) -> None:
    recipe_file.write_text(
        TEXT.replace("  train: {", "  train: &train {").replace(
            "  test_fraction: 0.25", "  test: {<<: *train, inputs: x_test}"
        )
    )
    test = load_recipe(recipe_file, ["data.train.labels=other"]).recipe.data.test
    assert test is not None
    assert test.model_dump(include={"path", "inputs", "labels"}) == {
        "path": "data.npz",
        "inputs": "x_test",
        "labels": "y_train",
    }


@pytest.mark.parametrize(
    ("override", "match"),
    [
        ("training.lr", "override `training.lr`: must be key=value"),
        ("=3", "override `=3`: must be key=value"),
        ("training..lr=3", "must be key=value"),
        ("training.lr=[", r"override `training.lr=\[`, line 1, column 2: not valid YAML"),
        ("seeds.3=5", "`seeds` is a list of 3 entries, numbered from 0; found '3'"),
        ("seeds.first=5", "`seeds` is a list of 3 entries, numbered from 0; found 'first'"),
        ("name.x=5", "`name` is 'digits', which has no keys; override it as a whole"),
        ("trainin.lr=1", "command line: `trainin` is not a known key; did you mean `training`"),
    ],
)
def test_overrides_that_cannot_be_applied(recipe_file: Path, override: str, match: str) -> None:
    with pytest.raises(UserError, match=match):
        load_recipe(recipe_file, [override])


def test_overrides_win_and_the_last_one_counts(recipe_file: Path) -> None:
    overrides = ["reference.fit.lr=0.5", "reference.fit.lr=0.25", "seeds.0=7", "steer.risk.tau=2", "training.lr=1e-2"]
    loaded = load_recipe(recipe_file, overrides)

    fit = loaded.recipe.reference.fit
    assert fit is not None
    assert (fit.lr, fit.samples) == (0.25, 200)
    assert loaded.recipe.seeds == (7, 1, 2)
    assert loaded.recipe.steer.risk.model_dump() == {"kind": "kl", "tau": 2.0, "gamma": 0.9}
    expected = {
        "name": "file",
        "output": "default",
        "seeds": "override",
        "reference.fit.lr": "override",
        "reference.fit.samples": "file",
        "reference.fit.epochs": "default",
        "reference.model.options.hidden": "file",
        "steer.risk.kind": "default",
        "steer.risk.tau": "override",
        "steer.risk.gamma": "default",
        "training.lr": "override",
    }
    assert {path: loaded.sources[path] for path in expected} == expected
    assert set(loaded.sources) == {path for path, _ in leaves(loaded.recipe)}


def test_an_override_may_change_the_kind_of_risk(recipe_file: Path) -> None:
    loaded = load_recipe(recipe_file, ["steer.risk.kind=cvar", "steer.risk.alpha=0.1"])
    assert loaded.recipe.steer.risk.model_dump() == {"kind": "cvar", "alpha": 0.1, "lr": 0.1, "smoothing": 0.0}


def test_paths_start_from_the_recipes_folder(recipe_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (recipe_file.parent / "elsewhere").mkdir()
    monkeypatch.chdir(recipe_file.parent / "elsewhere")
    loaded = load_recipe(Path("..") / "recipe.yaml")

    assert loaded.base == recipe_file.parent.resolve()
    assert loaded.resolve("data.npz") == recipe_file.parent.resolve() / "data.npz"
    assert loaded.resolve(os.path.abspath("x.npz")) == Path("x.npz").absolute()
    assert loaded.run_folder == recipe_file.parent / "elsewhere" / "runs" / "digits"
    assert load_recipe(recipe_file, ["base=elsewhere"]).base == recipe_file.parent.resolve() / "elsewhere"


def test_the_resolved_recipe_loads_again_from_anywhere(recipe_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = recipe_file.parent / "runs" / "digits"
    run.mkdir(parents=True)
    monkeypatch.chdir(recipe_file.parent)
    first = load_recipe(
        recipe_file, ["training.lr=1e-05", "model.options.tag='1e-3'", "steer.risk.gamma={schedule: scent}"]
    )
    (run / "recipe.yaml").write_text(dump(first), encoding="utf-8")
    monkeypatch.chdir(run)
    again = load_recipe(run / "recipe.yaml")

    assert again.base == first.base
    assert again.run_folder == run
    assert again.recipe.resolved_strategies() == first.recipe.resolved_strategies()
    same = {"base": None, "output": "runs"}
    assert again.recipe.model_copy(update=same).model_dump() == first.recipe.model_dump()
    assert recipe_digest(again.recipe) == recipe_digest(first.recipe)
    assert dump(again) == dump(first)


def test_given_strategies_stay_given(recipe_file: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.yaml"
    copy.write_text(dump(load_recipe(recipe_file, ["strategies=[steer, erm]"])))
    assert load_recipe(copy).recipe.strategies == ("steer", "erm")


OPTIONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.text(max_size=8), OPTIONS, max_size=3))
def test_any_options_survive_the_round_trip(recipe_file: Path, options: dict) -> None:
    loaded = load_recipe(recipe_file)
    model = loaded.recipe.model.model_copy(update={"options": options})
    changed = dataclasses.replace(loaded, recipe=loaded.recipe.model_copy(update={"model": model}))
    copy = recipe_file.parent / "copy.yaml"
    copy.write_text(dump(changed), encoding="utf-8")
    assert load_recipe(copy).recipe.model.options == options


@settings(max_examples=60, deadline=None)
@given(st.floats(min_value=1e-12, max_value=1e6), st.lists(st.integers(0, 2**32 - 1), min_size=1, unique=True))
def test_any_number_can_be_overridden(tmp_path_factory: pytest.TempPathFactory, lr: float, seeds: list[int]) -> None:
    path = tmp_path_factory.getbasetemp() / "recipe.yaml"
    path.write_text(TEXT)
    recipe = load_recipe(path, [f"training.lr={lr!r}", f"seeds={seeds}"]).recipe
    assert recipe.training.lr == lr
    assert recipe.seeds == tuple(seeds)


def test_explain_shows_every_value_with_its_source(recipe_file: Path) -> None:
    loaded = load_recipe(recipe_file, ["training.lr=0.01", "reference.fit.batch_size=16"])
    lines = explain(loaded).splitlines()

    def source(entry: str) -> str:
        (line,) = [line for line in lines if line.startswith(entry + " ")]
        return line.removeprefix(entry).strip()

    assert source("name = digits") == "(recipe.yaml)"
    assert source("training.lr = 0.01") == "(command line)"
    assert source("training.epochs = 20") == "(default)"
    assert source("reference.weights = null") == "(default)"
    assert source("seeds = [0, 1, 2]") == "(default)"
    assert lines[lines.index(next(x for x in lines if x.startswith("training.lr "))) + 1].strip() == (
        "The learning rate at its peak."
    )
    assert [path for path, _ in leaves(loaded.recipe) if not any(x.startswith(f"{path} =") for x in lines)] == []
    assert any(line.startswith("Left out: finetune.") for line in lines)


@pytest.mark.parametrize("width", [40, 80])
def test_explain_keeps_to_its_width(tmp_path: Path, width: int) -> None:
    path = tmp_path / f"{'long' * 30}.yaml"
    path.write_text(TEXT.replace("data.npz", "folder/" * 40 + "data.npz"))
    loaded = load_recipe(path, [f"model.options.{'x' * 100}={'y' * 200}"])
    assert max(map(len, explain(loaded, width=width).splitlines())) <= width


def recipe(**changes: object) -> Recipe:
    return check_recipe({**VALUES, **changes})


@pytest.mark.parametrize(
    "change",
    [
        {"name": "b"},
        {"output": "elsewhere"},
        {"base": "/"},
        {"seeds": [5]},
        {"strategies": ["erm", "dro"]},
        {"training": {"tracker": "wandb", "checkpoint_every": 7, "keep_checkpoints": 9, "evaluate_every": 2}},
        {"training": {"threads": 1, "device": "cpu"}},
        {"data": {**VALUES["data"], "workers": 3}},
    ],
)
def test_what_does_not_decide_the_weights_keeps_the_digest(change: dict) -> None:
    assert recipe_digest(recipe(**change)) == recipe_digest(recipe())
    assert difference(recipe(), recipe(**change)) == []


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"training": {"lr": 0.01}}, "training.lr: 0.001 in the checkpoint, 0.01 in the recipe"),
        ({"training": {"steps": 10}}, "training.steps: null in the checkpoint, 10 in the recipe"),
        ({"model": {"name": "cnn"}}, "model.name: 'mlp' in the checkpoint, 'cnn' in the recipe"),
        ({"steer": {"risk": {"kind": "kl", "tau": 2}}}, "steer.risk.tau: 1.0 in the checkpoint, 2.0 in the recipe"),
        (
            {"data": {**VALUES["data"], "label_noise": 0.3}},
            "data.label_noise: 0.0 in the checkpoint, 0.3 in the recipe",
        ),
    ],
)
def test_what_decides_the_weights_changes_the_digest(change: dict, text: str) -> None:
    assert recipe_digest(recipe(**change)) != recipe_digest(recipe())
    assert difference(recipe(), recipe(**change)) == [text]


def test_a_key_of_one_side_only() -> None:
    changed = recipe(model={"name": "mlp", "options": {"width": 3}})
    assert "model.options.width: absent in the checkpoint, 3 in the recipe" in difference(recipe(), changed)
