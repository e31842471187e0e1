import logging
import pickle

import numpy as np
import pytest
from PIL import Image
from pydantic import TypeAdapter
from torch.utils.data import DataLoader

from guidestar.data import Source, Split, load, load_pair
from guidestar.data.pictures import PictureForm, read_picture
from guidestar.errors import UserError


def folder_source(path="train", **changes):
    return TypeAdapter(Source).validate_python({"source": "image_folder", "path": path, **changes})


def save(path, colour, size=(6, 4), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)


@pytest.fixture
def folder(tmp_path):
    for k in range(4):
        save(tmp_path / "train" / "dog" / f"{k}.png", (10 * k, 0, 0))
        save(tmp_path / "train" / "cat" / "deep" / f"{k}.PNG", (0, 10 * k, 0))
    save(tmp_path / "test" / "dog" / "only.png", (1, 2, 3), size=(12, 8))
    (tmp_path / "train" / "cat" / "notes.txt").write_text("no image")
    (tmp_path / "train" / "cat" / ".hidden.png").write_text("no image")
    (tmp_path / "train" / ".cache").mkdir()
    (tmp_path / "train" / "__MACOSX").mkdir()
    return tmp_path


def test_classes_and_files_are_sorted(folder):
    train = load(folder_source(), base=folder)
    assert isinstance(train, Split)
    assert (train.kind, train.class_names, train.input_shape) == ("image", ["cat", "dog"], (3, 4, 6))
    assert train.labels.tolist() == [0] * 4 + [1] * 4
    assert train.keys([0, 7]) == ["cat/deep/0.PNG", "dog/3.png"]
    assert train.describe(7) == "dog/3.png"
    assert train.image(7)[0, 0].tolist() == [30, 0, 0]
    inputs, labels, rows = train.__getitems__([7, 2])
    assert inputs[0, :, 0, 0].tolist() == pytest.approx([30 / 255, 0, 0])
    assert (labels.tolist(), rows.tolist()) == ([1, 0], [7, 2])
    assert train.__getitems__([])[0].shape == (0, 3, 4, 6)


def test_test_folder_takes_classes_and_size_from_training(folder):
    train, test = load_pair(folder_source(), folder_source("test"), base=folder)
    assert test.class_names == train.class_names
    assert test.labels.tolist() == [1]
    assert test.input_shape == train.input_shape


def test_size_covers_and_cuts_the_centre(tmp_path):
    values = np.zeros((8, 16, 3), dtype=np.uint8)
    values[:, 4:12] = 200
    (tmp_path / "train" / "a").mkdir(parents=True)
    Image.fromarray(values).save(tmp_path / "train" / "a" / "0.png")
    split = load(folder_source(size=8), base=tmp_path)
    assert split.input_shape == (3, 8, 8)
    assert split.image(0).min() == 200
    assert load(folder_source(size=[4, 8], grey=True), base=tmp_path).input_shape == (1, 4, 8)


def test_subset_limit_and_fingerprint(folder):
    train = load(folder_source(), base=folder)
    before = train.fingerprint()
    assert train.subset(range(8)).fingerprint() == before
    part = train.subset([5, 1])
    assert part.keys([0, 1]) == ["dog/1.png", "cat/deep/1.PNG"]
    assert part.fingerprint() != before
    limited = load(folder_source(limit=4), base=folder)
    assert limited.labels.tolist() == [0, 0, 1, 1]
    save(folder / "train" / "dog" / "3.png", (99, 0, 0))
    assert load(folder_source(), base=folder).fingerprint() != before


def test_form_counts_in_the_fingerprint(folder):
    prints = {load(folder_source(**form), base=folder).fingerprint() for form in ({}, {"grey": True}, {"size": 2})}
    assert len(prints) == 3


def test_loader_processes_can_fetch(folder):
    train = load(folder_source(), base=folder)
    assert pickle.loads(pickle.dumps(train)).keys([0]) == train.keys([0])
    loader = DataLoader(train, batch_size=3, collate_fn=lambda batch: batch)
    assert [len(rows) for _, _, rows in loader] == [3, 3, 2]


def test_unreadable_image_is_named(folder):
    (folder / "train" / "dog" / "2.png").write_bytes(b"not an image")
    train = load(folder_source(), base=folder)
    message = (
        r"dog/2\.png cannot be read \(cannot identify image file\)\. Repair or remove it, or set `on_error: skip`\.$"
    )
    with pytest.raises(UserError, match=message):
        train.__getitems__([6])


def test_truncated_images_are_unreadable(folder):
    for suffix in ("png", "jpg", "gif", "bmp", "webp", "tiff"):
        path = folder / "train" / "dog" / f"cut.{suffix}"
        noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(UserError, match=rf"cut\.{suffix} cannot be read"):
            read_picture(path.read_bytes(), PictureForm(), str(path))


def test_skip_drops_counts_and_logs(folder, caplog):
    (folder / "train" / "cat" / "deep" / "0.PNG").write_bytes(b"not an image")
    (folder / "train" / "dog" / "2.png").write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        train = load(folder_source(), base=folder, on_error="skip")
    assert train.skipped == ["cat/deep/0.PNG", "dog/2.png"]
    assert "skipped 2 of 8 images" in caplog.text
    assert "0.PNG cannot be read (cannot identify image file)." in caplog.text
    assert "2.png cannot be read (it is empty)." in caplog.text
    assert "Repair" not in caplog.text
    assert "BytesIO" not in caplog.text
    assert len(train) == 6
    assert train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert train.keys([3, 4, 5]) == ["dog/0.png", "dog/1.png", "dog/3.png"]
    assert train.__getitems__(range(6))[0].shape == (6, 3, 4, 6)


def test_nothing_readable(folder):
    for path in (folder / "test").rglob("*.png"):
        path.write_bytes(b"not an image")
    with pytest.raises(UserError, match="no readable image"):
        load(folder_source("test"), base=folder, on_error="skip")
    with pytest.raises(UserError, match=r"only\.png cannot be read"):
        load(folder_source("test"), base=folder)


def test_decompression_bomb_is_an_error(folder, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(UserError, match="too large to be read safely"):
        load(folder_source(), base=folder)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(UserError, match="too large to be read safely"):
        load(folder_source(), base=folder)


def test_folders_that_are_no_image_folders(folder):
    with pytest.raises(NotADirectoryError, match="nope"):
        load(folder_source("nope"), base=folder)
    (folder / "empty").mkdir()
    with pytest.raises(UserError, match="found no sub-folder"):
        load(folder_source("empty"), base=folder)
    (folder / "train" / "emu").mkdir()
    with pytest.raises(UserError, match=r"emu must hold at least one image"):
        load(folder_source(), base=folder)


def test_class_that_training_does_not_have(folder):
    train = load(folder_source(), base=folder)
    save(folder / "test" / "fox" / "0.png", (0, 0, 0))
    with pytest.raises(UserError, match="class `fox` is not in the training data, which has cat, dog"):
        load(folder_source("test"), base=folder, other=train)


def test_training_class_without_a_test_image_is_logged(folder, caplog):
    train = load(folder_source(), base=folder)
    assert not caplog.records
    load(folder_source("test"), base=folder, other=train)
    assert "the test data has no image of class `cat`" in caplog.text
    caplog.clear()
    (folder / "test" / "cat").mkdir()
    load(folder_source("test"), base=folder, other=train)
    assert "the test data has no image of class `cat`" in caplog.text
    caplog.clear()
    save(folder / "test" / "cat" / "0.png", (0, 0, 0))
    load(folder_source("test", limit=1), base=folder, other=train)
    assert not caplog.records


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("L", 77, [77, 77, 77]),
        ("1", 1, [255, 255, 255]),
        ("RGBA", (1, 2, 3, 0), [1, 2, 3]),
        ("LA", (9, 128), [9, 9, 9]),
        ("P", 0, [0, 0, 0]),
        ("I;16", 256 * 200 + 3, [200, 200, 200]),
    ],
)
def test_every_mode_becomes_rgb(tmp_path, mode, colour, expected):
    path = tmp_path / "one.png"
    Image.new(mode, (3, 2), colour).save(path)
    picture = read_picture(path.read_bytes(), PictureForm(), "one")
    assert picture.shape == (3, 2, 3)
    assert picture[:, 0, 0].tolist() == expected


def test_floating_point_images_are_refused(tmp_path):
    Image.new("F", (3, 2), 0.5).save(tmp_path / "one.tiff")
    with pytest.raises(UserError, match="floating-point values are not supported"):
        read_picture((tmp_path / "one.tiff").read_bytes(), PictureForm(), "one")


def test_photos_are_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 4), (5, 5, 5)).save(tmp_path / "one.jpg", exif=exif)
    assert read_picture((tmp_path / "one.jpg").read_bytes(), PictureForm(), "one").shape == (3, 8, 4)
