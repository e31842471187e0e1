import io
import logging

import numpy as np
import pytest
from PIL import Image
from pydantic import TypeAdapter

from guidestar.data import Source, load, load_pair
from guidestar.errors import UserError


def source(**settings):
    return TypeAdapter(Source).validate_python(settings)


@pytest.fixture
def archive(tmp_path):
    generator = np.random.default_rng(0)
    np.savez(
        tmp_path / "data.npz",
        x_train=generator.integers(0, 256, (40, 8, 8), dtype=np.uint8),
        y_train=np.arange(40) % 4,
        x_test=generator.integers(0, 256, (10, 8, 8), dtype=np.uint8),
        y_test=np.arange(10) % 4,
        names=np.array(["a", "b", "c", "d"]),
        floats=generator.normal(size=(40, 3)),
    )
    return tmp_path


def npz(**changes):
    return source(**{"source": "npz", "path": "data.npz", "inputs": "x_train", "labels": "y_train", **changes})


def test_npz(archive):
    train, test = load_pair(npz(), npz(inputs="x_test", labels="y_test"), base=archive)
    stored = np.load(archive / "data.npz")
    assert (train.name, test.name, len(train), len(test), train.num_classes) == ("train", "test", 40, 10, 4)
    assert np.array_equal(train.image(7), stored["x_train"][7])
    assert train.labels.tolist() == stored["y_train"].tolist()
    assert train.keys([3]) == ["3"]


def test_class_names_from_a_list_or_an_array_of_the_file(archive):
    assert load(npz(class_names="names"), base=archive).class_names == ["a", "b", "c", "d"]
    train = load(npz(class_names=["p", "q", "r", "s", "t"]), base=archive)
    assert load(npz(inputs="x_test", labels="y_test"), base=archive, other=train).num_classes == 5
    with pytest.raises(UserError, match=r"0 \.\. 2; found 3 in row 3"):
        load(npz(class_names=["p", "q", "r"]), base=archive)


def test_limit_is_stratified_and_keeps_the_original_row_numbers(archive):
    train = load(npz(limit=8), base=archive)
    stored = np.load(archive / "data.npz")
    assert train.labels.bincount().tolist() == [2, 2, 2, 2]
    rows = [int(key) for key in train.keys(range(8))]
    assert rows == sorted(rows)
    assert all(np.array_equal(train.image(k), stored["x_train"][row]) for k, row in enumerate(rows))
    assert train.fingerprint() == load(npz(limit=8), base=archive).fingerprint()
    assert train.fingerprint() != load(npz(limit=8, limit_seed=1), base=archive).fingerprint()
    assert len(load(npz(limit=1000), base=archive)) == 40


def test_one_wrong_training_label_is_named_whatever_the_limit(tmp_path):
    labels = np.arange(400) % 2
    labels[17] = 255
    np.savez(tmp_path / "data.npz", x=np.zeros((400, 2)), y=labels)
    for limit in (None, 4, 399):
        with pytest.raises(UserError, match=r"`y` of .*data\.npz: row 17 .* has label 255, but classes 2 to 254 have"):
            load(npz(inputs="x", labels="y", limit=limit), base=tmp_path)
    names = [str(k) for k in range(256)]
    assert load(npz(inputs="x", labels="y", class_names=names), base=tmp_path).num_classes == 256


def test_limit_does_not_make_gaps(tmp_path):
    np.savez(tmp_path / "data.npz", x=np.zeros((101, 2)), y=[0] * 50 + [1] + [2] * 50)
    train = load(npz(inputs="x", labels="y", limit=4), base=tmp_path)
    assert sorted(train.labels.tolist()) == [0, 0, 2, 2]
    assert train.num_classes == 3


def test_test_label_outside_the_training_classes_is_named(tmp_path):
    np.savez(tmp_path / "data.npz", x=np.zeros((4, 2)), y=[0, 1, 0, 1], x2=np.zeros((3, 2)), y2=[0, 2, 4])
    message = r"`y2` of .*data\.npz: row 1 .* has label 2, but the classes of the training data are 0 to 1"
    test = npz(inputs="x2", labels="y2")
    with pytest.raises(UserError, match=message):
        load_pair(npz(inputs="x", labels="y"), test, base=tmp_path)
    train, test = load_pair(npz(inputs="x", labels="y", class_names=list("abcde")), test, base=tmp_path)
    assert train.class_names == test.class_names == list("abcde")


def test_numbers_as_names_of_the_test_classes_grow_training(tmp_path):
    np.savez(tmp_path / "data.npz", x=np.zeros((4, 2)), y=[0, 1, 0, 1])
    names = ["0", "1", "2"]
    train, test = load_pair(npz(inputs="x", labels="y"), npz(inputs="x", labels="y", class_names=names), base=tmp_path)
    assert train.class_names == test.class_names == names


def test_absent_array_lists_those_there_are(archive):
    with pytest.raises(UserError, match=r"no array `nope`; it holds: floats, names, x_test, x_train, y_test, y_train"):
        load(npz(inputs="nope"), base=archive)


def test_lengths_that_differ(archive):
    with pytest.raises(UserError, match="found 10 inputs, 40 labels"):
        load(npz(inputs="x_test"), base=archive)


def test_shapes_that_differ_between_splits(archive):
    train = load(npz(), base=archive)
    with pytest.raises(UserError, match=r"shape of the train inputs, \[1, 8, 8\]; found \[3\]"):
        load(npz(inputs="floats"), base=archive, other=train)


def test_files_that_are_no_archives(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"data\.npz"):
        load(npz(), base=tmp_path)
    (tmp_path / "data.npz").write_bytes(b"")
    with pytest.raises(UserError, match=r"data\.npz is no npz file"):
        load(npz(), base=tmp_path)
    (tmp_path / "data.npz").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(UserError, match=r"data\.npz is no npz file"):
        load(npz(), base=tmp_path)
    with (tmp_path / "data.npz").open("wb") as stream:
        np.save(stream, np.zeros(3))
    with pytest.raises(UserError, match="`source: npy`"):
        load(npz(), base=tmp_path)


def test_truncated_archive(archive):
    path = archive / "data.npz"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"data\.npz is no npz file"):
        load(npz(), base=archive)


def test_damaged_array(archive):
    path = archive / "data.npz"
    content = bytearray(path.read_bytes())
    at = content.find(np.load(path)["x_train"][5].tobytes())
    content[at] ^= 255
    path.write_bytes(bytes(content))
    with pytest.raises(UserError, match="`x_train` cannot be read"):
        load(npz(), base=archive)


def test_pickled_arrays_are_refused(tmp_path):
    np.savez(tmp_path / "data.npz", x_train=np.array([{}, {}], dtype=object), y_train=[0, 1])
    with pytest.raises(UserError, match="`x_train` cannot be read"):
        load(npz(), base=tmp_path)


def test_npy(tmp_path):
    values = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
    np.save(tmp_path / "x.npy", values)
    np.save(tmp_path / "y.npy", np.arange(12) % 2)
    settings = source(source="npy", inputs="x.npy", labels="y.npy")
    split = load(settings, base=tmp_path)
    assert split.kind == "table"
    assert np.array_equal(split.__getitems__(range(12))[0].numpy(), values)
    assert len(load(source(source="npy", inputs="x.npy", labels="y.npy", limit=4), base=tmp_path)) == 4
    np.save(tmp_path / "y.npy", [0, 1, 3] * 4)
    with pytest.raises(UserError, match=r"`labels`, .*y\.npy: row 2 .* has label 3, but class 2 has no training row"):
        load(settings, base=tmp_path)
    np.savez(tmp_path / "both.npz", x=values)
    with pytest.raises(UserError, match="several arrays"):
        load(source(source="npy", inputs="both.npz", labels="y.npy"), base=tmp_path)
    (tmp_path / "x.npy").write_text("no array")
    with pytest.raises(UserError, match=r"x\.npy is no npy file"):
        load(settings, base=tmp_path)


def encoded(colour, size=(10, 8), form="PNG"):
    stream = io.BytesIO()
    Image.new("RGB", size, colour).save(stream, form)
    return stream.getvalue()


@pytest.fixture
def packed(tmp_path):
    parts = [encoded((k, 2 * k, 3 * k)) for k in range(8)]
    np.savez(
        tmp_path / "data.npz",
        jpeg=np.frombuffer(b"".join(parts), dtype=np.uint8),
        offsets=np.cumsum([0, *map(len, parts)]),
        label=np.arange(8) % 2,
        split=np.arange(8) // 6,
    )
    return tmp_path


def test_packed_images(packed):
    train = load(source(source="jpeg_npz", path="data.npz", split_value=0), base=packed)
    test = load(source(source="jpeg_npz", path="data.npz", split_value=1), base=packed, other=train)
    assert (len(train), len(test), train.input_shape) == (6, 2, (3, 8, 10))
    assert test.keys([0, 1]) == ["6", "7"]
    assert test.image(1)[0, 0].tolist() == [7, 14, 21]
    every = load(source(source="jpeg_npz", path="data.npz", size=4, grey=True), base=packed)
    assert (len(every), every.input_shape) == (8, (1, 4, 4))


def test_packed_images_that_cannot_be_read(packed, caplog):
    with pytest.raises(UserError, match=r"`split` equal to 7 .* it holds: \[0, 1\]"):
        load(source(source="jpeg_npz", path="data.npz", split_value=7), base=packed)
    stored = dict(np.load(packed / "data.npz"))
    broken = stored["jpeg"].copy()
    broken[stored["offsets"][3] : stored["offsets"][4]] = 0
    np.savez(packed / "data.npz", **{**stored, "jpeg": broken})
    with pytest.raises(UserError, match=r"data\.npz, image 3 cannot be read"):
        load(source(source="jpeg_npz", path="data.npz"), base=packed)
    with caplog.at_level(logging.WARNING):
        skipped = load(source(source="jpeg_npz", path="data.npz"), base=packed, on_error="skip")
    assert "image 3 cannot be read (cannot identify image file)." in caplog.text
    assert "Repair" not in caplog.text
    assert skipped.skipped == ["3"]
    assert skipped.keys(range(7)) == ["0", "1", "2", "4", "5", "6", "7"]
    assert skipped.labels.tolist() == [0, 1, 0, 0, 1, 0, 1]
    assert skipped.image(3)[0, 0].tolist() == [4, 8, 12]
    np.savez(packed / "data.npz", **{**stored, "jpeg": np.zeros_like(broken)})
    with pytest.raises(UserError, match="no readable image"):
        load(source(source="jpeg_npz", path="data.npz"), base=packed, on_error="skip")
    np.savez(packed / "data.npz", **{**stored, "offsets": stored["offsets"][:-1]})
    with pytest.raises(UserError, match="found 8 and 8"):
        load(source(source="jpeg_npz", path="data.npz"), base=packed)


def test_labels_of_packed_images_are_checked_before_the_limit(packed):
    stored = dict(np.load(packed / "data.npz"))
    np.savez(packed / "data.npz", **{**stored, "label": [0, 1, 0, 1, 0, 9, 0, 1]})
    message = r"`label` of .*data\.npz: row 5 .* has label 9, but classes 2 to 8 have no training row"
    with pytest.raises(UserError, match=message):
        load(source(source="jpeg_npz", path="data.npz", split_value=0, limit=2), base=packed)
    np.savez(packed / "data.npz", **{**stored, "label": [0, 1, 0, 1, 0, 1, 0, 9]})
    train = load(source(source="jpeg_npz", path="data.npz", split_value=0), base=packed)
    with pytest.raises(UserError, match=r"row 7 .* has label 9, but the classes of the training data are 0 to 1"):
        load(source(source="jpeg_npz", path="data.npz", split_value=1, limit=1), base=packed, other=train)


def test_fashion_mnist(shared_data):
    settings = {"path": "fashion_mnist/fashion_mnist.npz", "limit": 500}
    train, test = load_pair(npz(**settings), npz(**settings, inputs="x_test", labels="y_test"), base=shared_data)
    assert (len(train), len(test), train.num_classes, train.input_shape) == (500, 500, 10, (1, 28, 28))
    assert train.labels.bincount().tolist() == [50] * 10
    # Known mean of the training images: 0.2860.
    assert float(train.__getitems__(range(500))[0].mean()) == pytest.approx(0.286, abs=0.02)


def test_cifar10(shared_data):
    def part(value, limit):
        return source(
            source="jpeg_npz",
            path="cifar10/cifar10_jpeg.npz",
            split_value=value,
            limit=limit,
            class_names="classes",
        )

    train, test = load_pair(part(0, 200), part(1, 100), base=shared_data)
    assert (len(train), len(test), train.input_shape) == (200, 100, (3, 32, 32))
    assert train.class_names[3] == "cat"
    assert train.labels.bincount().tolist() == [20] * 10
    # Known means of the training images: 0.491, 0.482, 0.447.
    means = train.__getitems__(range(200))[0].mean((0, 2, 3)).tolist()
    assert means == pytest.approx([0.491, 0.482, 0.447], abs=0.05)
