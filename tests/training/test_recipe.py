"""The recipe's rules: each wrong key, value or combination is an error that names the key and what is allowed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from guidestar.errors import UserError
from guidestar.training.recipe import STRATEGIES, Recipe
from guidestar.training.recipe_io import check_recipe, leaves, load_recipe

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


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(TEXT)
    return path


def message(path: Path, *overrides: str) -> str:
    with pytest.raises(UserError, match=re.escape("`")) as caught:
        load_recipe(path, overrides)
    return str(caught.value)


WRONG = [
    ("training.lrr=1", "`training.lrr` is not a known key; did you mean `training.lr`? Allowed under `training`: "),
    ("lr=1", "`reference.fit.lr` or `steer.risk.lr` or `training.lr`? Allowed at the top of a recipe: base, data"),
    ("trainin.lr=1", "`trainin` is not a known key; did you mean `training`?"),
    ("data.train.pth=x", "`data.train.pth` is not a known key; did you mean `data.train.path`?"),
    ("steer.risk.rho=1", "`steer.risk.rho` is not a known key; another kind of `steer.risk` has it"),
    ("training.lr=-1", "`training.lr` must be greater than 0, found -1"),
    ("training.lr=fast", "`training.lr` must be a number, found 'fast'"),
    ("training.lr=.nan", "`training.lr` must be a finite number, found nan"),
    ("training.epochs=2.5", "`training.epochs` must be a whole number, found 2.5"),
    ("training.epochs=true", "`training.epochs` must be a whole number, found true"),
    ("training.epochs=0", "`training.epochs` must be at least 1, found 0"),
    ("training.clip_grad=true", "`training.clip_grad` must be a number, found true"),
    ("training.optimizer=sdg", "must be one of adamw, sgd, adam, found 'sdg'; did you mean `sgd`?"),
    ("training.precision=fp16", "`training.precision` must be one of fp32, bf16, found 'fp16'"),
    ("training.momentum=1", "`training.momentum` must be less than 1, found 1"),
    ("training=5", "`training` must be a mapping (keys with values), found 5"),
    ("model=null", "`model` must be a mapping (keys with values), found null"),
    ("model={}", "`model.name` is missing"),
    ("model.name=resnet", "`model.name` must be one of mlp, cnn, vit, resnet18, or package.module:function"),
    ("model.name='timm:'", "found 'timm:'"),
    ("data.label_noise=1", "`data.label_noise` must be less than 1, found 1"),
    ("data.label_noise=-0.1", "`data.label_noise` must be at least 0, found -0.1"),
    ("data.imbalance=0.5", "`data.imbalance` must be at least 1, found 0.5"),
    ("data.train.source=npzz", "`data.train.source` must be one of npz, npy,"),
    ("data.train={path: x}", "`data.train.source` is missing; allowed: npz, npy,"),
    ("data.train.path=3", "`data.train.path` must be text, found 3; put it in quotes"),
    ("data.train={source: hf, path: x}", "`data.train`: give either `image` (a column) or `features`"),
    ("data.train={source: image_folder, path: x, size: big}", "`data.train.size` must be a whole number or be a list"),
    ("data.test_fraction=1", "`data.test_fraction` must be less than 1, found 1"),
    ("select.fraction=0", "`select.fraction` must be greater than 0, found 0"),
    ("select.fraction=1.5", "`select.fraction` must be at most 1, found 1.5"),
    ("distill.weight=2", "`distill.weight` must be at most 1, found 2"),
    ("finetune.lr_factor=0", "`finetune.lr_factor` must be greater than 0"),
    ("steer.risk.gamma=2", "`steer.risk.gamma` must be at most 1, found 2"),
    ("steer.risk.gamma=x", "`steer.risk.gamma` must be a number, found 'x'"),
    ("steer.risk.gamma={schedule: cosin}", "`steer.risk.gamma.schedule` must be one of cosine, scent, found 'cosin'"),
    ("steer.risk.gamma={schedule: scent, beta: 1}", "`steer.risk.gamma.beta` is not a known key"),
    ("steer.risk={kind: cvar}", "`steer.risk.alpha` is missing; it is required: The worst share"),
    ("steer.risk={kind: cvar, alpha: 2}", "`steer.risk.alpha` must be at most 1, found 2"),
    ("steer.risk={kind: cvr}", "`steer.risk.kind` must be one of mean, kl, kl_ball, cvar, top_k, chi_square"),
    ("steer.risk={tau: 1}", "`steer.risk.kind` is missing; allowed: mean, kl, kl_ball"),
    ("steer.risk={kind: kl_ball, rho: 1, tau: 0.001}", "`steer.risk` must have `tau` at least `tau_min`, found 0.001"),
    ("name=2024", "`name` must be text, found 2024; put it in quotes"),
    ("name=a/b", "`name` must be a folder name"),
    ("name=..", "`name` must be a folder name"),
    ("seeds=3", "`seeds` must be a list, found 3"),
    ("seeds=[]", "`seeds` must have 1 or more entries, found []"),
    ("seeds=[1, -2]", "`seeds.1` must be at least 0, found -2"),
    ("seeds=[1, 2, 1]", "`seeds` must not repeat an entry, found 1 more than once"),
    ("strategies=[erm, erm]", "`strategies` must not repeat an entry, found erm more than once"),
    ("strategies=[steering]", "`strategies.0` must be one of as_is, erm, dro"),
]


@pytest.mark.parametrize(("override", "text"), WRONG, ids=[override for override, _ in WRONG])
def test_wrong_values(recipe_file: Path, override: str, text: str) -> None:
    found = message(recipe_file, override)
    assert text in found
    assert "Input should" not in found
    assert "pydantic" not in found


IMPOSSIBLE = [
    (["reference.fit=null"], "need a reference, and `reference` has none: give `reference.weights`"),
    (["reference=null"], "`reference` must be a mapping"),
    (["reference.weights=w.pt"], "`reference.fit` and `reference.weights` are both given"),
    (["reference.store=s"], "`reference.fit` and `reference.store` are both given"),
    (["reference={store: s, scoring: online}"], "`reference.scoring: online` and `reference.store` are both given"),
    (["reference={weights: w.pt}"], "`reference.weights` needs `reference.model`"),
    (["reference.model=null"], "`reference.fit` needs `reference.model`"),
    (["reference.mean=[0.5]"], "`reference.mean` is given without `reference.std`"),
    (["reference.std=[0.5]"], "`reference.std` is given without `reference.mean`"),
    (["reference.mean=[0.5]", "reference.std=[1, 2]"], "must be of the same length"),
    (["reference.mean=[0.5]", "reference.std=[0]"], "`reference.std` must be positive, found 0"),
    (["strategies=[as_is]", "reference={store: s}"], "`strategies` has as_is, which needs the reference model itself"),
    (["strategies=[finetune]", "reference={store: s}"], "`strategies` has finetune, which needs the reference model"),
    (["strategies=[finetune]"], "needs `model` and `reference.model` to be the same; found cnn(width=32) and mlp("),
    (["data.test_fraction=null"], "`data.test` and `data.test_fraction` are both missing"),
    (["data.test={source: sklearn_digits}"], "`data.test` and `data.test_fraction` are both given"),
    (["training.steps=5", "training.warmup_steps=5"], "`training.warmup_steps` must be less than `training.steps`"),
]


@pytest.mark.parametrize(("overrides", "text"), IMPOSSIBLE, ids=[" ".join(overrides) for overrides, _ in IMPOSSIBLE])
def test_impossible_combinations(recipe_file: Path, overrides: list[str], text: str) -> None:
    assert text in message(recipe_file, *overrides)


def test_several_errors_are_listed_one_a_line(recipe_file: Path) -> None:
    recipe_file.write_text(TEXT.replace("samples: 200", "samples: 0") + "training:\n  epoch: 3\n")
    lines = message(recipe_file, "training.lr=-1").splitlines()

    assert lines[0] == "recipe.yaml: 3 problems"
    assert lines[1] == "  line 8: `reference.fit.samples` must be at least 1, found 0"
    assert lines[2] == "  command line: `training.lr` must be greater than 0, found -1"
    assert lines[3].startswith("  line 10: `training.epoch` is not a known key; did you mean `training.epochs`?")
    assert len(lines) == 4


def test_missing_sections_are_named() -> None:
    with pytest.raises(UserError, match=r"(?s)`name` is missing.*`data` is missing.*`model` is missing"):
        check_recipe({"reference": {}})


def test_default_strategies_leave_out_what_is_not_possible(recipe_file: Path) -> None:
    usable, dropped = load_recipe(recipe_file).recipe.resolved_strategies()
    assert usable == tuple(s for s in STRATEGIES if s != "finetune")
    assert "needs `model` and `reference.model` to be the same" in dropped["finetune"]

    usable, dropped = load_recipe(recipe_file, ["reference={store: s}"]).recipe.resolved_strategies()
    assert set(dropped) == {"as_is", "finetune"}
    assert usable == ("erm", "dro", "distill", "select", "steer", "steer+distill")


def test_same_models_can_be_finetuned(recipe_file: Path) -> None:
    same = ["reference.model={name: cnn, options: {width: 32}}"]
    assert load_recipe(recipe_file, same).recipe.resolved_strategies() == (STRATEGIES, {})
    assert load_recipe(recipe_file, [*same, "strategies=[finetune]"]).recipe.strategies == ("finetune",)


def test_the_same_transformers_folder_can_be_finetuned(recipe_file: Path) -> None:
    overrides = [
        "reference={model: {name: 'transformers:folder'}}",
        "model={name: 'transformers:folder', options: {pretrained: false}}",
        "strategies=[finetune]",
    ]
    assert load_recipe(recipe_file, overrides).recipe.resolved_strategies() == (("finetune",), {})
    assert "needs `model` and `reference.model` to be the same" in message(
        recipe_file, *overrides, "model.name='transformers:other'"
    )


def test_no_reference_is_needed_without_its_strategies(recipe_file: Path) -> None:
    recipe = load_recipe(recipe_file, ["reference={}", "strategies=[erm, dro]"]).recipe
    assert recipe.resolved_strategies() == (("erm", "dro"), {})


@pytest.mark.parametrize(
    ("model", "trained"),
    [
        ("{name: mlp}", False),
        ("{name: 'timm:vit'}", False),
        ("{name: 'transformers:folder'}", True),
        ("{name: 'transformers:folder', options: {pretrained: false}}", False),
        ("{name: 'my.module:pretrained'}", True),
    ],
)
def test_a_model_may_bring_its_weights(recipe_file: Path, model: str, trained: bool) -> None:
    overrides = [f"reference={{model: {model}}}", "strategies=[erm]"]
    assert load_recipe(recipe_file, overrides).recipe.reference.has_model is trained


def test_a_function_may_return_the_test_data_too(recipe_file: Path) -> None:
    overrides = ["data={train: {source: function, function: 'my.data:load'}}"]
    assert load_recipe(recipe_file, overrides).recipe.data.test is None


def test_every_key_of_ours_is_described(recipe_file: Path) -> None:
    recipe = load_recipe(recipe_file).recipe
    silent = [path for path, leaf in leaves(recipe) if not leaf.description and not path.startswith("data.train.")]
    assert silent == []
    assert all(field.description for field in Recipe.model_fields.values())
