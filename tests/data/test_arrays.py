import copy
import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from guidestar.data import ArraySplit, Split
from guidestar.errors import UserError


def images(n=6, size=8, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, size, size), dtype=np.uint8)


def make(n=6, **options):
    return ArraySplit(images(n), np.arange(n) % 3, **options)


def test_is_a_split():
    assert isinstance(make(), Split)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((2, 8, 9), (1, 8, 9)),
        ((2, 3, 8, 9), (3, 8, 9)),
        ((2, 8, 9, 3), (3, 8, 9)),
        ((2, 8, 9, 1), (1, 8, 9)),
        ((2, 1, 8, 3), (1, 8, 3)),
    ],
)
def test_layout_of_images(shape, expected):
    values = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    split = ArraySplit(values, [0, 1])
    assert split.kind == "image"
    assert split.input_shape == expected
    wanted = values[:, None] if values.ndim == 3 else values
    if wanted.shape[1:] != expected:
        wanted = wanted.transpose(0, 3, 1, 2)
    batch, _, _ = split.__getitems__([0, 1])
    torch.testing.assert_close(batch, torch.from_numpy(wanted.astype(np.float32) / 255), rtol=0, atol=1e-7)


def test_batch_has_inputs_labels_and_rows():
    split = make()
    inputs, labels, rows = split.__getitems__([4, 1, 1])
    assert inputs.dtype == torch.float32
    assert labels.tolist() == [1, 1, 1]
    assert rows.tolist() == [4, 1, 1]
    one, label = split[4]
    assert torch.equal(one, inputs[0])
    assert label == 1


def test_data_loader_fetches_whole_batches():
    loader = DataLoader(make(), batch_size=4, collate_fn=lambda batch: batch)
    rows = [rows.tolist() for _, _, rows in loader]
    assert rows == [[0, 1, 2, 3], [4, 5]]


def test_tables_stay_float_and_one_dimension_is_one_column():
    split = ArraySplit(np.array([[1, 2], [3, 4]], dtype=np.int64), [0, 1])
    assert (split.kind, split.input_shape, split.image(0)) == ("table", (2,), None)
    assert split.__getitems__([1])[0].tolist() == [[3.0, 4.0]]
    assert split.describe(1) == "x0=3, x1=4"
    assert ArraySplit(np.array([1.5, 2.5]), [0, 1]).input_shape == (1,)


def test_float16_tensors_float_images_and_wide_integers_are_accepted():
    values = torch.rand(2, 3, 4, 4).to(torch.float16)
    assert torch.equal(ArraySplit(values, [0, 1]).__getitems__([0, 1])[0], values.float())
    whole = ArraySplit(np.full((2, 4, 4), 255, dtype=np.uint16), [0, 1])
    assert whole.image(0).dtype == np.uint8
    assert float(whole[0][0].max()) == 1.0


def test_pictures_for_display():
    grey = make()
    assert np.array_equal(grey.image(2), images()[2])
    colour = np.random.default_rng(1).integers(0, 256, (2, 8, 9, 4), dtype=np.uint8)
    assert np.array_equal(ArraySplit(colour, [0, 1]).image(1), colour[1, :, :, :3])
    floats = ArraySplit(torch.full((1, 1, 2, 2), 0.5), [0])
    assert floats.image(0).tolist() == [[128, 128], [128, 128]]


def test_subset_of_a_subset_keeps_identities():
    split = make(n=6, keys=["a", "b", "c", "d", "e", "f"])
    part = split.subset([5, 3, 1], name="part").subset(torch.tensor([2, 0]))
    assert part.keys([0, 1]) == ["b", "f"]
    assert part.labels.tolist() == [1, 2]
    assert part.name == "part"
    assert torch.equal(part.__getitems__([1])[0], split.__getitems__([5])[0])
    assert np.array_equal(part.image(0), split.image(1))
    assert len(split.subset([])) == 0


def test_other_labels_share_the_data():
    split = make()
    changed = split.with_labels(torch.tensor([2, 2, 2, 2, 2, 2]))
    assert changed[0][1] == 2
    assert split[0][1] == 0
    assert torch.equal(changed[0][0], split[0][0])
    with pytest.raises(UserError, match=r"0 \.\. 2; found 3 in row 0"):
        split.with_labels(torch.tensor([3] * 6))
    with pytest.raises(UserError, match="has 6, found 2"):
        split.with_labels(torch.tensor([0, 0]))


def test_more_classes_but_not_fewer():
    grown = make().with_classes(["a", "b", "c", "d"])
    assert grown.num_classes == 4
    with pytest.raises(UserError, match="found 2 in row 2"):
        make().with_classes(["a", "b"])


def test_fingerprint_is_about_content_labels_classes_and_order():
    split = make()
    same = {split.fingerprint(), make(name="test").fingerprint(), split.subset(range(6)).fingerprint()}
    assert same == {copy.copy(split).fingerprint()}
    changed = images()
    changed[3, 0, 0] ^= 1
    others = [
        ArraySplit(changed, np.arange(6) % 3),
        split.subset([1, 0, 2, 3, 4, 5]),
        split.subset(range(5)),
        split.with_labels(torch.zeros(6, dtype=torch.int64)),
        split.with_classes(["0", "1", "2", "3"]),
        ArraySplit(images().astype(np.float32) / 255, np.arange(6) % 3),
    ]
    assert len({other.fingerprint() for other in others} | same) == 7
    assert len(split.fingerprint()) == 64


def test_split_survives_pickling():
    split = make()
    again = pickle.loads(pickle.dumps(split))
    assert again.fingerprint() == split.fingerprint()


def test_iteration_ends():
    assert [label for _, label in make(n=4)] == [0, 1, 2, 0]


@pytest.mark.parametrize("row", [-1, 6, 100])
def test_rows_out_of_range(row):
    with pytest.raises(IndexError, match=rf"0 \.\. 5, found {row}"):
        make().__getitems__([0, row])
    with pytest.raises(IndexError, match=f"found {row}"):
        make().subset([row])


def test_masks_are_not_rows():
    split = make()
    with pytest.raises(TypeError, match="nonzero"):
        split.subset(split.labels == 1)


@pytest.mark.parametrize(
    ("inputs", "labels", "message"),
    [
        (np.zeros((3, 4)), [0, 1], "found 3 inputs, 2 labels"),
        (np.zeros((0, 4)), np.zeros(0, dtype=int), "at least one row"),
        (np.zeros((2, 4, 4, 4, 4)), [0, 1], r"found shape \[2, 4, 4, 4, 4\]"),
        (np.zeros((2, 5, 8, 7)), [0, 1], "1, 3 or 4 channels"),
        (np.array(["a", "b"]), [0, 1], "must be numbers"),
        (np.full((2, 4, 4), 300), [0, 1], r"0 \.\. 255, found 300 \.\. 300"),
        (np.full((2, 4, 4), -1.0), [0, 1], r"in \[0, 1\], found values from -1 to -1"),
        (np.array([[0.0], [np.nan]]), [0, 1], "found nan in row 1"),
        (np.array([[1e300], [0.0]]), [0, 1], "found inf in row 0"),
    ],
)
def test_bad_arrays_are_named(inputs, labels, message):
    with pytest.raises(UserError, match=message):
        ArraySplit(inputs, labels)


def test_label_beyond_the_given_classes():
    with pytest.raises(UserError, match=r"0 \.\. 1; found 2 in row 2"):
        make(class_names=["a", "b"])
    assert make(num_classes=5).class_names == ["0", "1", "2", "3", "4"]


def test_identifiers_instead_of_class_ids_are_refused():
    with pytest.raises(UserError, match=r"found 20231 in row 1 .* among 2 rows\. Number the classes from 0"):
        ArraySplit(np.zeros((2, 1)), [0, 20231])
