"""What a store of embeddings refuses, and what it says then."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from embeddings_toy import ToyPairs, ToyTokenizer, ToyTowers
from PIL import Image
from safetensors.numpy import load_file, save_file

from guidestar.errors import UserError
from guidestar.files import DiskFull
from guidestar.reference.embeddings import EmbeddingStore, LiveEmbeddings, StoredEmbeddings, score_pairs
from guidestar.reference.embeddings_meta import cut_parts
from guidestar.reference.pair_inputs import read_tokens

ZERO = torch.zeros(1, dtype=torch.long)


def score(path: Path, pairs: ToyPairs | None = None, model: ToyTowers | None = None, **changes: Any) -> EmbeddingStore:
    about = {"weights_hash": "w0", "reference_name": "toy", "device": "cpu", "batch_size": 5, "progress": False}
    pairs = ToyPairs() if pairs is None else pairs
    return score_pairs(model or ToyTowers(), pairs, path / "store", **(about | changes))


def rewrite(path: Path, change: Callable[[dict[str, np.ndarray]], None]) -> None:
    """Change a side file's tensors and keep what it says about itself."""
    tensors = load_file(path)
    with open(path, "rb") as file:
        about = json.loads(file.read(int.from_bytes(file.read(8), "little")))["__metadata__"]
    change(tensors)
    save_file(tensors, path, metadata=about)


def edit_meta(path: Path, **changes: Any) -> None:
    meta = json.loads((path / "store" / "meta.json").read_text())
    (path / "store" / "meta.json").write_text(json.dumps(meta | changes))


def test_open_names_everything_that_is_not_as_expected(tmp_path: Path) -> None:
    score(tmp_path)
    expect = {"weights": "w1", "tokenizer": "bpe-9", "width": 512, "rows": 50}
    with pytest.raises(UserError, match="was not made for this") as caught:
        EmbeddingStore.open(tmp_path / "store", expect=expect)
    assert str(caught.value).splitlines()[1:-1] == [
        "  `weights`: the store has w0, expected w1",
        "  `tokenizer`: the store has toy-12-64, expected bpe-9",
        "  `width`: the store has 6, expected 512",
    ]
    with pytest.raises(UserError, match=r"`expect` may have the keys rows, width, .*; found weight"):
        EmbeddingStore.open(tmp_path / "store", expect={"weight": "w0"})


def test_open_refuses_what_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is not a reference store: it has no meta.json"):
        EmbeddingStore.open(tmp_path)
    score(tmp_path)
    (tmp_path / "store" / "meta.json").write_text('{"format": 1')
    with pytest.raises(UserError, match="is not valid JSON"):
        EmbeddingStore.open(tmp_path / "store")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 9}, "`format` must be 1 and `kind` 'pairs', found 9 and 'pairs'"),
        ({"kind": "classification"}, "found 1 and 'classification'. It is another kind of store"),
        ({"reference": {"name": "toy"}}, "is damaged: KeyError 'reference.weights, reference.tokenizer'"),
        ({"parts": [["a", 0, 20], ["b", 30, 50]]}, "is damaged: UserError `parts` must follow each other; 'b' is 30"),
        ({"rows": 60}, "is damaged: UserError `parts` must cover all 60 rows, found 50"),
        ({"dtype": "int8"}, "is damaged: ValueError `dtype` 'int8'"),
        ({"preprocessing": {}}, "is damaged: KeyError 'size'"),
    ],
)
def test_open_refuses_a_damaged_description(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    score(tmp_path)
    edit_meta(tmp_path, **changes)
    with pytest.raises(UserError, match=message):
        EmbeddingStore.open(tmp_path / "store")


def test_open_refuses_json_that_is_no_object(tmp_path: Path) -> None:
    score(tmp_path)
    (tmp_path / "store" / "meta.json").write_text("[1]")
    with pytest.raises(UserError, match="found None and None"):
        EmbeddingStore.open(tmp_path / "store")


def test_another_reference_is_not_mixed_into_a_store(tmp_path: Path) -> None:
    score(tmp_path)
    other = ToyTowers(width=5)
    other.tokenizer = ToyTokenizer(length=9)
    with pytest.raises(UserError, match="was made differently") as caught:
        score(tmp_path, model=other, weights_hash="w1", precision="bf16")
    assert str(caught.value).splitlines()[1:-1] == [
        "  `width`: the store has 6, expected 5",
        "  `reference.weights`: the store has w0, expected w1",
        "  `reference.tokenizer`: the store has toy-12-64, expected toy-9-64",
        "  `preprocessing.precision`: the store has fp32, expected bf16",
    ]


def test_continuing_with_changed_shards_names_them(tmp_path: Path) -> None:
    pairs = ToyPairs()
    score(tmp_path, pairs)
    changed = ToyPairs()
    changed.texts[20] = ["another caption"]
    changed.names[49] = "renamed"
    with pytest.raises(UserError, match=r"`dataset.fingerprint`: the store has") as caught:
        score(tmp_path, changed)
    assert "Changed since they were scored: shard 1.tar rows 16 to 31, shard 3.tar rows 48 to 49." in str(caught.value)
    longer = ToyPairs(rows=60)
    with pytest.raises(UserError, match=r"`rows`: the store has 50, expected 60"):
        score(tmp_path, longer)


def test_continuing_with_another_cut_is_refused(tmp_path: Path) -> None:
    class Otherwise(ToyPairs):
        def parts(self) -> list[tuple[str, int, int]]:
            return [("shard 0.tar", 0, 16), ("b", 16, 17), ("c", 17, 48), ("d", 48, 50)]

    score(tmp_path)
    with pytest.raises(UserError, match=r"other parts: shard 1.tar 16 to 32, expected b 16 to 17"):
        score(tmp_path, Otherwise())


def test_scoring_does_not_touch_a_folder_with_other_things(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "thesis.tex").write_text("words")
    with pytest.raises(UserError, match=r"is not a reference store and not empty \(thesis.tex\)"):
        score(tmp_path)
    (tmp_path / "file").mkdir()
    (tmp_path / "file" / "store").write_text("words")
    with pytest.raises(UserError, match=r"is not a reference store and not empty \(a file\)"):
        score(tmp_path / "file")
    assert (tmp_path / "store" / "thesis.tex").read_text() == "words"


def test_a_key_without_a_row(tmp_path: Path) -> None:
    store = score(tmp_path)
    other = ToyPairs()
    other.names[7], other.names[41] = "new-1", "new-2"
    with pytest.raises(
        UserError, match=r"2 of 50 keys of 'train' are without a row in .*: 'new-1', 'new-2'.*guidestar"
    ):
        StoredEmbeddings(store, other)


def test_a_key_that_is_there_twice(tmp_path: Path) -> None:
    pairs = ToyPairs()
    pairs.names[9] = pairs.names[4]
    store = score(tmp_path, pairs)
    StoredEmbeddings(store, pairs)
    with pytest.raises(UserError, match=r"1 of 2 keys of 'train' are more than once in .*: 'sample-0004'"):
        StoredEmbeddings(store, pairs.subset([4, 5]))


def test_captions_that_were_not_scored(tmp_path: Path) -> None:
    pairs = ToyPairs(rows=500, captions=1, shard=100)
    store = score(tmp_path, pairs)
    moved = pairs.with_captions([*pairs.texts[1:], pairs.texts[0]])
    with pytest.raises(
        UserError, match=r"captions of key 'sample-0000' .* are not those that were scored: 'a .* number 1"
    ):
        StoredEmbeddings(store, moved)
    one = pairs.with_captions([*pairs.texts[:2], ["a moved caption"], *pairs.texts[3:]])
    stored = StoredEmbeddings(store, one)  # row 2 is not among the rows that are compared first
    stored.embeddings(torch.tensor([1, 3]), torch.tensor([0, 0]))
    with pytest.raises(UserError, match=r"key 'sample-0002' .* not those that were scored: 'a moved caption' has no"):
        stored.embeddings(torch.tensor([1, 2]), torch.tensor([0, 0]))


def test_images_that_changed_under_the_same_key(tmp_path: Path) -> None:
    store = score(tmp_path)
    other = ToyPairs()
    other.pixels[0] = 255 - other.pixels[0] // 2
    with pytest.raises(UserError, match=r"images differ in 1 of 40 rows that were compared \(keys 'sample-0000'\)"):
        StoredEmbeddings(store, other.subset(list(range(40))))


def test_an_incomplete_store(tmp_path: Path) -> None:
    pairs = ToyPairs()
    store = score(tmp_path, pairs, rank=0, world=2)
    with pytest.raises(UserError, match=r"half written: 18 of 50 rows are missing, 2 of 4 parts \(shard 1.tar rows 16"):
        store.require_complete()
    with pytest.raises(UserError, match="half written: 18 of 50 rows"):
        StoredEmbeddings(store, pairs)
    StoredEmbeddings(store, pairs.subset([0, 40]))
    with pytest.raises(UserError, match=r"1 of 2 keys of 'train' are without a row .*'sample-0020'.* is half written"):
        store.require_complete(pairs.subset([0, 20]))
    with pytest.raises(UserError, match=r"000001-shard_1.tar.safetensors is missing: continue with .*--resume"):
        store.read(np.array([20]), np.array([0]))


@pytest.mark.parametrize("bytes_left", [0, 5, 200, -100])
def test_a_file_that_was_cut_short(tmp_path: Path, bytes_left: int) -> None:
    path = score(tmp_path).path
    file = path / "000002-shard_2.tar.safetensors"
    os.truncate(file, bytes_left if bytes_left >= 0 else file.stat().st_size + bytes_left)
    message = "000002-shard_2.tar.safetensors .*cut short or .*Delete 000002-shard_2.tar.safetensors and continue"
    with pytest.raises(UserError, match=message):
        StoredEmbeddings(EmbeddingStore.open(path), ToyPairs())
    with pytest.raises(UserError, match=message):
        score(tmp_path)


def test_a_file_of_another_store(tmp_path: Path) -> None:
    score(tmp_path)
    other = score(tmp_path / "other", weights_hash="w9")
    name = other.meta.parts[1].file
    (tmp_path / "store" / name).write_bytes((other.path / name).read_bytes())
    with pytest.raises(UserError, match="belongs to another store: `weights` is 'w9', expected 'w0'"):
        EmbeddingStore.open(tmp_path / "store").require_complete()


def test_a_file_of_another_part(tmp_path: Path) -> None:
    store = score(tmp_path)
    left, right = (store.path / store.meta.parts[index].file for index in (0, 1))
    right.write_bytes(left.read_bytes())
    with pytest.raises(UserError, match=r"`part` is 'shard 0.tar', expected 'shard 1.tar'; `start` is 0, expected 16"):
        EmbeddingStore.open(store.path).require_complete()


def test_widths_that_differ_between_files_and_description(tmp_path: Path) -> None:
    store = score(tmp_path)
    edit_meta(tmp_path, width=7)
    with pytest.raises(UserError, match=r"has embeddings of width 6, but meta.json says `width` 7"):
        StoredEmbeddings(EmbeddingStore.open(store.path), ToyPairs())


def test_rows_that_differ_between_files_and_description(tmp_path: Path) -> None:
    store = score(tmp_path)
    name = store.path / store.meta.parts[0].file
    rewrite(name, lambda tensors: tensors.update(image=tensors["image"][:9]))
    with pytest.raises(UserError, match="should have 16 rows in float16, found 9 in float16"):
        EmbeddingStore.open(store.path).require_complete()
    rewrite(name, lambda tensors: tensors.pop("image_mean"))
    with pytest.raises(UserError, match="has no 'image_mean'"):
        EmbeddingStore.open(store.path).require_complete()


def test_a_damaged_embedding_is_not_used(tmp_path: Path) -> None:
    store = score(tmp_path)
    rewrite(store.path / store.meta.parts[0].file, lambda tensors: tensors["text"].__setitem__(0, 0))
    stored = StoredEmbeddings(EmbeddingStore.open(store.path), ToyPairs())
    with pytest.raises(UserError, match=r"damaged: the text embeddings of rows 0 \(key 'sample-0000'\)"):
        stored.embeddings(torch.tensor([3, 0]), torch.tensor([0, 0]))


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flush, calls = os.fsync, 0

    def full(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls > 4:  # meta.json and one part, each with its folder
            raise OSError(errno.ENOSPC, "No space left on device")
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFull, match=r"disk is full: .*000001-shard_1.tar.safetensors could not .*--resume"):
        score(tmp_path)
    monkeypatch.undo()
    assert EmbeddingStore.open(tmp_path / "store").missing() == [1, 2, 3]
    assert not list((tmp_path / "store").glob("*.tmp"))
    assert score(tmp_path).missing() == []


class Broken(ToyTowers):
    """Gives a NaN or a zero vector for one caption, or for the white pictures."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        white = images.flatten(1).mean(dim=1) > 0.99
        return torch.where(white[:, None], self.value, super().encode_image(images))

    def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
        start_only = (tokens > 0).sum(dim=1) == 2
        return torch.where(start_only[:, None], self.value, super().encode_text(tokens))


@pytest.mark.parametrize("value", [float("nan"), 0.0, float("inf")])
def test_embeddings_without_a_direction_are_refused(tmp_path: Path, value: float) -> None:
    pairs = ToyPairs()
    pairs.texts[17] = ["fine", ""]
    with pytest.raises(UserError, match="text embeddings of 1 rows are NaN, infinite or zero: 'sample-0017'"):
        score(tmp_path, pairs, Broken(value))
    assert EmbeddingStore.open(tmp_path / "store").missing() == [1, 2, 3]
    pairs.pixels[4] = np.full((12, 12, 3), 255, dtype=np.uint8)
    with pytest.raises(UserError, match="image embeddings of 1 rows are NaN, infinite or zero: 'sample-0004'"):
        score(tmp_path / "other", pairs, Broken(value))


def test_a_model_whose_width_is_not_what_it_says(tmp_path: Path) -> None:
    model = ToyTowers()
    model.width = 9
    with pytest.raises(UserError, match=r"image embeddings of shape \(16, 6\), expected \(16, 9\): its `width` is 9"):
        score(tmp_path, model=model)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "`batch_size` must be at least 1, found 0"),
        ({"block": 0}, "`block` must be at least 1"),
        ({"workers": -1}, "`workers` must be at least 0"),
        ({"rank": 2, "world": 2}, "`rank` must be between 0 and `world` - 1, found rank 2 of world 2"),
        ({"dtype": "int8"}, "`dtype` must be one of float16, float32, found 'int8'"),
        ({"on_error": "ignore"}, "`on_error` must be raise or skip, found 'ignore'"),
        ({"precision": "fp8"}, "`precision` must be one of fp32, bf16, found 'fp8'"),
    ],
)
def test_arguments_of_scoring(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        score(tmp_path, **changes)
    assert not (tmp_path / "store").exists()


def test_pairs_that_cannot_be_scored(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="`pairs` 'train' is empty"):
        score(tmp_path, ToyPairs(rows=0))
    pairs = ToyPairs()
    pairs.texts[3] = []
    with pytest.raises(UserError, match="the row 'sample-0003' of 'train' has no caption"):
        score(tmp_path, pairs)


class Unreadable(ToyPairs):
    """Row 3 and the last shard have broken pictures, row 20 has lost its captions."""

    def captions(self, row: int) -> list[str]:
        if self.names[row] == "sample-0020":
            raise UserError("the captions of 'sample-0020' are gone")
        return super().captions(row)

    def picture(self, row: int) -> Image.Image:
        name = self.names[row]
        if name in ("sample-0003", "sample-0048", "sample-0049"):
            raise OSError(f"the image of {name} is cut short")
        return super().picture(row)


def test_unreadable_rows_raise_or_are_left_out_when_asked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pairs = Unreadable()
    with pytest.raises(OSError, match="the image of sample-0003 is cut short"):
        score(tmp_path, pairs)
    store = score(tmp_path, pairs, on_error="skip")
    skipped = [record.message for record in caplog.records]
    assert skipped == [
        "skipped: the image of sample-0003 is cut short",
        "skipped: the captions of 'sample-0020' are gone",
        "skipped: the image of sample-0048 is cut short",
        "skipped: the image of sample-0049 is cut short",
    ]
    rows = [row for row in range(48) if row not in (3, 20)]
    clean = score(tmp_path / "clean", ToyPairs().subset(rows), batch_size=50)
    expected = StoredEmbeddings(clean, ToyPairs().subset(rows)).embeddings(torch.arange(46), torch.zeros(46))
    turned = StoredEmbeddings(store, pairs.subset([*range(50)][::-1]))
    for joined, own in ((StoredEmbeddings(store, pairs), np.arange(50)), (turned, 49 - np.arange(50))):
        found = joined.embeddings(torch.from_numpy(own[rows]), torch.zeros(46))
        for left, right in zip(found, expected, strict=True):
            torch.testing.assert_close(left, right, atol=1e-3, rtol=0)
        with pytest.raises(
            UserError, match=r"no embeddings of rows 3 \(key 'sample-0003'\): they could not be read when"
        ):
            joined.embeddings(torch.from_numpy(own[[3]]), ZERO)


def test_parts_must_cover_the_rows_in_order() -> None:
    with pytest.raises(UserError, match="`parts` must follow each other; 'b' is 3 to 5, expected to begin at 2"):
        cut_parts([("a", 0, 2), ("b", 3, 5)], 5, block=8)
    with pytest.raises(UserError, match="`parts` must cover all 9 rows, found 2"):
        cut_parts([("a", 0, 2)], 9, block=8)


def test_a_tokenizer_that_ignores_its_own_length() -> None:
    long = type("Long", (), {"length": 4, "pad": 0, "__call__": lambda self, captions: [[1] * 9]})()
    with pytest.raises(UserError, match=r"`tokenizer` must return at most 4 tokens a text, its `length`. Found 9"):
        read_tokens(["a"], long)


@pytest.mark.parametrize("subset", [False, True])
def test_rows_and_captions_out_of_range(tmp_path: Path, subset: bool) -> None:
    pairs = ToyPairs()
    store = score(tmp_path, pairs)
    stored = StoredEmbeddings(store, pairs.subset(list(range(49))) if subset else pairs)
    with pytest.raises(IndexError, match="`index` must be between 0 and"):
        stored.embeddings(torch.tensor([50]), ZERO)
    for caption in (1, 3, -1):  # row 0 has one caption
        with pytest.raises(IndexError, match=r"`choice` must be (less than the number of captions|between 0 and 2)"):
            stored.embeddings(ZERO, torch.tensor([caption]))
    with pytest.raises(UserError, match="`choice` must have one entry a row: 2, found 1"):
        stored.embeddings(torch.tensor([1, 2]), ZERO)
    with pytest.raises(IndexError, match="`rows` must be between 0 and 49, found 50 to 50"):
        store.read(np.array([50]), np.array([0]))


def test_live_embeddings_check_their_arguments() -> None:
    live = LiveEmbeddings(ToyTowers(), ToyPairs())
    with pytest.raises(IndexError, match="row 0 has 1, found 1"):
        live.embeddings(ZERO, torch.tensor([1]))
    with pytest.raises(UserError, match="`choice` must have one entry a row: 2, found 1"):
        live.embeddings(torch.tensor([1, 2]), ZERO)
    with pytest.raises(UserError, match="`precision` must be one of fp32, bf16, found 'fp8'"):
        LiveEmbeddings(ToyTowers(), ToyPairs(), "fp8")
