import builtins

import numpy as np
import pytest
from PIL import Image
from pydantic import TypeAdapter, ValidationError

from guidestar.data import ArraySplit, Source, load, load_pair
from guidestar.data.pictures import PictureSplit
from guidestar.errors import UserError


def hub_source(**changes):
    return TypeAdapter(Source).validate_python({"source": "hf", "path": "hub", "image": "image", **changes})


@pytest.fixture
def datasets():
    module = pytest.importorskip("datasets", reason="needs the extra `hf`")
    module.disable_progress_bars()
    return module


@pytest.fixture
def pictures(datasets, tmp_path):
    def part(colours, labels):
        features = datasets.Features(
            {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog", "emu"])}
        )
        images = [Image.new("RGB", (6, 4), (colour, 0, 0)) for colour in colours]
        return datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)

    both = {"train": part(range(8), [0, 1] * 4), "test": part([100, 101], [1, 0])}
    datasets.DatasetDict(both).save_to_disk(tmp_path / "hub")
    return tmp_path


def test_images(pictures):
    train, test = load_pair(hub_source(), hub_source(), base=pictures)
    assert isinstance(train, PictureSplit)
    assert (len(train), len(test), train.input_shape) == (8, 2, (3, 4, 6))
    assert train.class_names == test.class_names == ["cat", "dog", "emu"]
    assert train.labels.tolist() == [0, 1] * 4
    assert test.image(1)[0, 0].tolist() == [101, 0, 0]
    assert train.subset([5]).keys([0]) == ["5"]
    assert train.fingerprint() != test.fingerprint()
    limited = load(hub_source(limit=2, size=2, split="train"), base=pictures)
    assert (len(limited), limited.input_shape) == (2, (3, 2, 2))
    assert limited.image(0)[0, 0].tolist() == [int(limited.keys([0])[0]), 0, 0]


def test_unreadable_and_missing_images(datasets, tmp_path):
    image = Image.new("RGB", (6, 4))
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    rows = {"image": [image, {"bytes": b"nothing", "path": None}, None], "label": [0, 1, 0]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "hub")
    split = load(hub_source(), base=tmp_path)
    with pytest.raises(UserError, match="in row 1, column `image` cannot be read"):
        split.__getitems__([0, 1])
    with pytest.raises(UserError, match="in row 2, column `image` is missing"):
        split.__getitems__([2])
    skipped = load(hub_source(), base=tmp_path, on_error="skip")
    assert skipped.skipped == ["1", "2"]
    assert len(skipped) == 1


def test_columns_of_numbers_and_text_labels(datasets, tmp_path):
    rows = {"a": [1, 2, 3], "b": [0.5, 1.5, 2.5], "label": ["yes", "no", "yes"]}
    datasets.Dataset.from_dict(rows).save_to_disk(tmp_path / "hub")
    train = load(hub_source(image=None, features=["a", "b"]), base=tmp_path)
    assert isinstance(train, ArraySplit)
    assert train.class_names == ["no", "yes"]
    assert train.labels.tolist() == [1, 0, 1]
    assert train.__getitems__([2])[0].tolist() == [[3.0, 2.5]]
    rows["label"][1] = "maybe"
    datasets.Dataset.from_dict(rows).save_to_disk(tmp_path / "other")
    with pytest.raises(UserError, match=r"'maybe' in row 1 .* is not in the training data"):
        load(hub_source(path="other", image=None, features=["a", "b"]), base=tmp_path, other=train)


def test_a_column_of_arrays(datasets, tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (4, 5, 6), dtype=np.uint8)
    features = datasets.Features({"x": datasets.Array2D((5, 6), "uint8"), "label": datasets.Value("int64")})
    dataset = datasets.Dataset.from_dict({"x": list(values), "label": [0, 1, 2, 1]}, features=features)
    dataset.save_to_disk(tmp_path / "hub")
    split = load(hub_source(image=None, features=["x"]), base=tmp_path)
    assert split.kind == "image"
    assert np.array_equal(split.image(3), values[3])
    lists = {"x": [[1.0, 2.0], [3.0, 4.0]], "label": [0, 1]}
    datasets.Dataset.from_dict(lists).save_to_disk(tmp_path / "lists")
    split = load(hub_source(path="lists", image=None, features=["x"]), base=tmp_path)
    assert split.__getitems__([1])[0].tolist() == [[3.0, 4.0]]


@pytest.mark.parametrize(
    ("rows", "columns", "message"),
    [
        ({"x": [1, 2], "label": [0, -1]}, ["x"], "must not be negative; found -1 in row 1"),
        ({"x": [1, 2], "label": [0, 7]}, ["x"], "row 1 .* has label 7, but classes 1 to 6 have .*`ClassLabel`"),
        ({"x": [1, 2], "label": [0, None]}, ["x"], "row 1 .* has none"),
        ({"x": ["a", "b"], "label": [0, 1]}, ["x"], "column `x` .* must be complete and numeric"),
        ({"x": [[1], [1, 2]], "label": [0, 1]}, ["x"], "column `x`"),
        ({"x": [[1], [2]], "y": [1, 2], "label": [0, 1]}, ["x", "y"], "`x` of .* does not"),
        ({"x": [1.0, None], "label": [0, 1]}, ["x"], "found nan in row 1"),
        ({"x": [1, 2], "label": [0, 1]}, ["z"], r"`features`: .*no column `z`; it has: x, label"),
    ],
)
def test_columns_that_do_not_fit(datasets, tmp_path, rows, columns, message):
    datasets.Dataset.from_dict(rows).save_to_disk(tmp_path / "hub")
    with pytest.raises(UserError, match=message):
        load(hub_source(image=None, features=columns), base=tmp_path)


def test_splits_and_columns_that_are_not_there(pictures, datasets):
    with pytest.raises(UserError, match="no split `valid`; it has: train, test"):
        load(hub_source(split="valid"), base=pictures)
    with pytest.raises(UserError, match=r"`image`: .*no column `photo`"):
        load(hub_source(image="photo"), base=pictures)
    with pytest.raises(UserError, match=r"`label` of .* must hold images"):
        load(hub_source(image="label"), base=pictures)
    with pytest.raises(NotADirectoryError, match="save_to_disk"):
        load(hub_source(path="nope"), base=pictures)
    (pictures / "empty").mkdir()
    with pytest.raises(OSError, match="empty"):
        load(hub_source(path="empty"), base=pictures)
    single = datasets.Dataset.from_dict({"x": [1], "label": [0]})
    single.save_to_disk(pictures / "single")
    with pytest.raises(UserError, match="leave `split` out"):
        load(hub_source(path="single", split="train", image=None, features=["x"]), base=pictures)


def test_either_an_image_or_features():
    for wrong in ({"image": None}, {"features": ["a"]}):
        with pytest.raises(ValidationError, match="either `image`"):
            hub_source(**wrong)


def test_missing_package_names_the_extra(monkeypatch, tmp_path):
    real = builtins.__import__

    def without(name, *rest, **options):
        if name == "datasets":
            raise ImportError(name)
        return real(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"guidestar\[hf\]"):
        load(hub_source(), base=tmp_path)
