import sys

import pytest
from pydantic import TypeAdapter

from guidestar.data import Source, load, load_pair
from guidestar.errors import UserError
from guidestar.plugins import resolve

CODE = """
import numpy as np
import torch

from guidestar.data import ArraySplit


def arrays(n=6, classes=3):
    x = np.arange(2.0 * n).reshape(n, 2)
    return {"train": (x, np.arange(n) % classes), "test": (torch.ones(2, 2), torch.tensor([0, 1]))}


def named():
    return {**arrays(), "class_names": ["a", "b", "c", "d"]}


def splits():
    return {
        "train": ArraySplit(np.zeros((2, 3)), [0, 1], class_names=["p", "q"]),
        "test": ArraySplit(np.zeros((2, 3)), [1, 0], class_names=["q", "p"]),
    }


def gap():
    return {**arrays(), "train": (np.zeros((3, 2)), [0, 5, 1])}


def beyond():
    return {**arrays(classes=2), "test": (np.zeros((2, 2)), [0, 2])}


def one():
    return {"train": arrays()["train"]}


def a_list():
    return [1, 2]


def nonsense():
    return {"train": 5, "test": 6}


def broken():
    return {}["missing"]


constant = 5
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "mine.py").write_text(CODE)
    package = tmp_path / "my_own_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "data.py").write_text(CODE)
    (package / "needs.py").write_text("import a_library_that_is_not_there\n")
    return tmp_path


def function_source(function, **changes):
    return TypeAdapter(Source).validate_python({"source": "function", "function": function, **changes})


@pytest.mark.parametrize("function", ["mine.py:arrays", "my_own_package/data.py:arrays", "my_own_package.data:arrays"])
def test_arrays_from_files_and_packages_beside_the_recipe(folder, function):
    path = list(sys.path)
    train, test = load_pair(function_source(function, options={"n": 9}), base=folder)
    assert (train.name, test.name, len(train), len(test)) == ("train", "test", 9, 2)
    assert train.num_classes == test.num_classes == 3
    assert test.__getitems__([0])[0].tolist() == [[1.0, 1.0]]
    assert sys.path == path


def test_names_splits_and_limits(folder):
    train, test = load_pair(function_source("mine.py:named"), base=folder)
    assert train.class_names == test.class_names == ["a", "b", "c", "d"]
    limited = load(function_source("mine.py:arrays", limit=3), base=folder)
    assert limited.labels.tolist() == [0, 1, 2] or sorted(limited.labels.tolist()) == [0, 1, 2]
    with pytest.raises(UserError, match=r"classes of the two splits must agree, found 2 \(p, q\) in train"):
        load_pair(function_source("mine.py:splits"), base=folder)


def test_part_of_the_training_rows_as_test(folder):
    train, test = load_pair(function_source("mine.py:one"), base=folder, test_fraction=0.5)
    assert (len(train), len(test), test.name) == (3, 3, "test")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("mine", "\"path/file.py:function\", found 'mine'"),
        ("mine.py:", "found 'mine.py:'"),
        ("other.py:arrays", "there is no file .*other.py"),
        ("mine.py:nope", "mine.py has no function `nope`"),
        ("mine.py:constant", "has no function `constant`"),
        ("no_such_package.data:f", "no module `no_such_package`"),
        ("my_own_package.nope:f", "no module `my_own_package.nope`"),
        ("mine.py:one", "returned no 'test'; it returned: train"),
    ],
)
def test_functions_that_are_not_there(folder, function, message):
    with pytest.raises(UserError, match=message):
        load_pair(function_source(function), base=folder)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("mine.py:gap", "labels of 'train': row 1 .* has label 5, but classes 2 to 4 have no .* as \"class_names\""),
        ("mine.py:beyond", "labels of 'test': row 1 .* has label 2, but the classes of the training data are 0 to 1"),
    ],
)
def test_labels_out_of_range(folder, function, message):
    with pytest.raises(UserError, match=message):
        load_pair(function_source(function, limit=2), base=folder)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("mine.py:a_list", "must return a dictionary .* found list"),
        ("mine.py:nonsense", "'train' must be a split or .* found int"),
    ],
)
def test_functions_that_return_something_else(folder, function, message):
    with pytest.raises(TypeError, match=message):
        load_pair(function_source(function), base=folder)


def test_unknown_option(folder):
    with pytest.raises(TypeError, match="size"):
        load(function_source("mine.py:arrays", options={"size": 1}), base=folder)


def test_errors_of_the_users_code_are_passed_on(folder):
    with pytest.raises(KeyError, match="missing"):
        load(function_source("mine.py:broken"), base=folder)
    with pytest.raises(ModuleNotFoundError, match="a_library_that_is_not_there"):
        resolve("my_own_package.needs:f", folder, "function")
    (folder / "bad.py").write_text("def f(:\n")
    with pytest.raises(SyntaxError):
        resolve("bad.py:f", folder, "function")
