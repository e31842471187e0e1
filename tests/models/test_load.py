import builtins
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn

from guidestar.errors import UserError
from guidestar.models import CNN, MLP, ResNet18, ViT, build_model, weights_hash

CODE = """
import torch


def build(input_shape, num_classes, *, scale=1.0):
    return torch.nn.Linear(input_shape[0], num_classes)


def free(input_shape, num_classes, **options):
    return torch.nn.Linear(options["width"], num_classes)


def number(input_shape, num_classes):
    return 5
"""


def spec(name, **options):
    return SimpleNamespace(name=name, options=options)


@pytest.mark.parametrize(
    ("name", "options", "kind"),
    [
        ("mlp", {"hidden": [8]}, MLP),
        ("cnn", {"width": 4}, CNN),
        ("vit", {"dim": 16, "depth": 1}, ViT),
        ("resnet18", {"width": 4}, ResNet18),
    ],
)
def test_built_in_models_come_from_the_seed(name, options, kind):
    hashes = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        model = build_model(spec(name, **options), (1, 8, 8), 3)
        assert isinstance(model, kind)
        hashes.append(weights_hash(model))
    assert hashes[0] == hashes[1] != hashes[2]
    assert model(torch.rand(2, 1, 8, 8)).shape == (2, 3)


@pytest.mark.parametrize("name", ["nope", "", "timm:", "transformers:", ":build", "a b"])
def test_unknown_names_list_the_known_ones(name):
    with pytest.raises(
        UserError,
        match=r"one of mlp, cnn, vit, resnet18, or of the form package.module:function, timm:NAME or transformers:PATH",
    ):
        build_model(spec(name), (4,), 2)


@pytest.mark.parametrize(
    ("name", "options"), [("mlp", "hidden, dropout"), ("cnn", "width, dropout"), ("resnet18", "width")]
)
def test_unknown_options_list_the_known_ones(name, options):
    with pytest.raises(UserError, match=rf"'{name}' has no option `wdith`; the options are: {options}\."):
        build_model(spec(name, wdith=3), (1, 8, 8), 2)


@pytest.fixture
def folder(tmp_path):
    package = tmp_path / "my_model_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "models.py").write_text(CODE)
    (package / "needs.py").write_text("import a_library_that_is_not_there\n")
    return tmp_path


def test_functions_beside_the_recipe(folder):
    path = list(sys.path)
    model = build_model(spec("my_model_package.models:build", scale=2.0), (4,), 2, base=folder)
    assert isinstance(model, nn.Linear)
    assert build_model(spec("my_model_package.models:free", width=7), (4,), 2, base=folder).in_features == 7
    assert sys.path == path


def test_functions_in_a_file_beside_the_recipe(folder):
    (folder / "own.py").write_text(CODE)
    assert build_model(spec("own.py:free", width=7), (4,), 2, base=folder).in_features == 7


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("nowhere.py:build", {}, "there is no file .*nowhere.py"),
        ("no_such_package:f", {}, "no module `no_such_package`"),
        ("my_model_package.models:nope", {}, "my_model_package.models has no function `nope`"),
        ("my_model_package.models:build", {"size": 1}, "has no option `size`; the options are: scale"),
        ("my_model_package.models:number", {"size": 1}, "has no option `size`; it takes none"),
    ],
)
def test_functions_that_do_not_fit(folder, name, options, message):
    with pytest.raises(UserError, match=message):
        build_model(spec(name, **options), (4,), 2, base=folder)


def test_functions_that_return_no_model(folder):
    with pytest.raises(TypeError, match=r"must return a torch.nn.Module, found int"):
        build_model(spec("my_model_package.models:number"), (4,), 2, base=folder)


def test_errors_of_the_users_code_are_passed_on(folder):
    with pytest.raises(ModuleNotFoundError, match="a_library_that_is_not_there"):
        build_model(spec("my_model_package.needs:f"), (4,), 2, base=folder)


@pytest.fixture
def classifier(tmp_path):
    transformers = pytest.importorskip("transformers", reason="needs the extra `llm`")
    config = transformers.ResNetConfig(
        num_channels=3, embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic", num_labels=3
    )
    transformers.AutoModelForImageClassification.from_config(config).save_pretrained(tmp_path / "classifier")
    return tmp_path


def test_transformers_folder(classifier):
    models = [build_model(spec("transformers:classifier"), (3, 16, 16), 3, base=classifier) for _ in range(2)]
    assert weights_hash(models[0]) == weights_hash(models[1])
    assert models[0].eval()(torch.rand(2, 3, 16, 16)).shape == (2, 3)


def test_transformers_architecture_with_random_weights(classifier):
    made = spec("transformers:classifier", pretrained=False)
    models = [build_model(made, (3, 16, 16), 7, base=classifier) for _ in range(2)]
    assert weights_hash(models[0]) != weights_hash(models[1])
    assert models[0].eval()(torch.rand(2, 3, 16, 16)).shape == (2, 7)


def test_transformers_folders_that_do_not_fit(classifier):
    with pytest.raises(UserError, match="is for 3 classes, but the data has 10"):
        build_model(spec("transformers:classifier"), (3, 16, 16), 10, base=classifier)
    with pytest.raises(UserError, match="no option `width`; the options are: pretrained"):
        build_model(spec("transformers:classifier", width=3), (3, 16, 16), 3, base=classifier)
    with pytest.raises(NotADirectoryError, match="nope"):
        build_model(spec("transformers:nope"), (3, 16, 16), 3, base=classifier)


def test_transformers_backbone_without_a_head(classifier):
    import transformers

    config = transformers.AutoConfig.from_pretrained(classifier / "classifier")
    transformers.AutoModel.from_config(config).save_pretrained(classifier / "backbone")
    with pytest.raises(UserError, match="the weights are incomplete; missing: classifier"):
        build_model(spec("transformers:backbone"), (3, 16, 16), 3, base=classifier)


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [("timm:resnet18", "timm", "timm"), ("transformers:somewhere", "transformers", "llm")],
)
def test_missing_packages_name_the_extra(monkeypatch, name, package, extra):
    real = builtins.__import__

    def without(module, *rest, **options):
        if module.split(".")[0] == package:
            raise ImportError(module)
        return real(module, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=rf"guidestar\[{extra}\]"):
        build_model(spec(name), (3, 16, 16), 3)


@pytest.fixture
def fake_timm(monkeypatch):
    """What guidestar uses of timm, so that the call is checked where timm is not installed."""
    module = ModuleType("timm")
    module.list_models = lambda pattern="*": ["resnet18", "resnet34"] if pattern in ("*", "*resnet*") else []
    module.create_model = lambda name, **options: SimpleNamespace(name=name, options=options)
    monkeypatch.setitem(sys.modules, "timm", module)


@pytest.mark.usefixtures("fake_timm")
def test_timm_call():
    made = build_model(spec("timm:resnet18", drop_rate=0.1), (1, 16, 16), 3)
    assert made.name == "resnet18"
    assert made.options == {"pretrained": False, "num_classes": 3, "in_chans": 1, "drop_rate": 0.1}
    with pytest.raises(UserError, match="timm has no model 'resnet_18'; it has: resnet18, resnet34"):
        build_model(spec("timm:resnet_18"), (1, 16, 16), 3)
    with pytest.raises(UserError, match="`num_classes` is set from the data"):
        build_model(spec("timm:resnet18", num_classes=4), (1, 16, 16), 3)


def test_timm_itself():
    pytest.importorskip("timm", reason="needs the extra `timm`")
    model = build_model(spec("timm:resnet18"), (3, 32, 32), 5).eval()
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 5)
