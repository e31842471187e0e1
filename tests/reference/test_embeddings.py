"""Embeddings of image-text pairs: what is stored, how it is joined, and that live ones agree."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from embeddings_toy import ToyPairs, ToyTokenizer, ToyTowers
from PIL import Image
from safetensors import safe_open

from guidestar.reference.embeddings import EmbeddingStore, LiveEmbeddings, StoredEmbeddings, score_pairs
from guidestar.reference.pair_inputs import plain_image, read_tokens

HALF = 1e-3  # float16 has 11 bits


@pytest.fixture
def score_toy(tmp_path: Path) -> Callable[..., EmbeddingStore]:
    """`score_pairs` with the arguments that do not matter here."""

    def score_it(model: ToyTowers, pairs: ToyPairs, path: Path | None = None, **changes) -> EmbeddingStore:
        about = {"weights_hash": "w0", "reference_name": "toy", "device": "cpu", "batch_size": 5, "progress": False}
        return score_pairs(model, pairs, path or tmp_path / "store", **(about | changes))

    return score_it


Score = Callable[..., EmbeddingStore]


def by_hand(model: ToyTowers, pairs: ToyPairs, row: int, caption: int) -> tuple[torch.Tensor, torch.Tensor]:
    """One row through the towers, without batches, files, cropping or padding."""
    image = torch.tensor(pairs.pixels[row]).permute(2, 0, 1)[None] / 255
    tokens = torch.tensor(model.tokenizer([pairs.texts[row][caption]]))
    with torch.no_grad():
        return model.eval().encode_image(image)[0], model.encode_text(tokens)[0]


def everything(pairs: ToyPairs) -> tuple[torch.Tensor, torch.Tensor]:
    """Every caption of every row."""
    rows = [row for row in range(len(pairs)) for _ in pairs.texts[row]]
    choice = [caption for texts in pairs.texts for caption in range(len(texts))]
    return torch.tensor(rows), torch.tensor(choice)


def test_every_caption_of_every_row_is_that_of_the_model(score_toy: Score) -> None:
    model, pairs = ToyTowers(size=8), ToyPairs()
    pairs.pixels = [pixels[:8, :8] for pixels in pairs.pixels]
    stored = StoredEmbeddings(score_toy(model, pairs), pairs)
    rows, choice = everything(pairs)
    image, text = stored.embeddings(rows, choice)
    assert image.dtype == text.dtype == torch.float32
    for values in (image, text):
        torch.testing.assert_close(values.norm(dim=1), torch.ones(len(rows)))
    for place in range(0, len(rows), 7):
        expected = by_hand(model, pairs, int(rows[place]), int(choice[place]))
        torch.testing.assert_close((image[place], text[place]), expected, atol=HALF, rtol=0)
    assert stored.forward_samples == 0
    assert stored.width == 6


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_store_and_live_agree_to_half_precision(score_toy: Score, precision: str) -> None:
    model, pairs = ToyTowers(), ToyPairs()
    stored = StoredEmbeddings(score_toy(model, pairs, precision=precision), pairs)
    live = LiveEmbeddings(model, pairs, precision)
    rows, choice = torch.tensor([49, 3, 3, 17]), torch.tensor([1, 0, 0, 2])
    for left, right in zip(stored.embeddings(rows, choice), live.embeddings(rows, choice), strict=True):
        torch.testing.assert_close(left, right, atol=HALF, rtol=0)
    assert live.forward_samples == 4
    exact = LiveEmbeddings(model, pairs).embeddings(rows, choice)[0]
    assert torch.equal(live.embeddings(rows, choice)[0], exact) == (precision == "fp32")


def test_float32_store_is_exact(score_toy: Score) -> None:
    model, pairs = ToyTowers(), ToyPairs()
    stored = StoredEmbeddings(score_toy(model, pairs, dtype="float32"), pairs)
    rows, choice = everything(pairs)
    for left, right in zip(
        stored.embeddings(rows, choice), LiveEmbeddings(model, pairs).embeddings(rows, choice), strict=True
    ):
        torch.testing.assert_close(left, right, atol=3e-7, rtol=0)


def test_live_is_a_frozen_copy_in_evaluation_mode() -> None:
    model, pairs = ToyTowers().train(), ToyPairs()
    live = LiveEmbeddings(model, pairs)
    rows, choice = torch.arange(4), torch.zeros(4, dtype=torch.long)
    before = live.embeddings(rows, choice)
    with torch.no_grad():
        model.see.weight.zero_()
    assert all(torch.equal(*values) for values in zip(before, live.embeddings(rows, choice), strict=True))
    assert not any(values.requires_grad or values.is_inference() for values in before)
    assert model.training


def test_scoring_leaves_the_model_as_it_was_and_draws_no_random_number(score_toy: Score) -> None:
    model = ToyTowers().train()
    model.see.eval()
    state = torch.get_rng_state()
    score_toy(model, ToyPairs())
    assert model.training
    assert model.drop.training
    assert not model.see.training
    assert torch.equal(torch.get_rng_state(), state)


def test_workers_write_the_same_files(score_toy: Score, tmp_path: Path) -> None:
    pairs = ToyPairs()
    own = score_toy(ToyTowers(), pairs, tmp_path / "own", workers=0)
    other = score_toy(ToyTowers(), pairs, tmp_path / "other", workers=2)
    for part in own.meta.parts:
        assert (own.path / part.file).read_bytes() == (other.path / part.file).read_bytes()


def test_one_file_a_shard_that_safetensors_reads(score_toy: Score) -> None:
    pairs = ToyPairs(rows=50, captions=3, shard=16)
    store = score_toy(ToyTowers(), pairs)
    names = sorted(path.name for path in store.path.iterdir())
    assert names == [*(f"00000{i}-shard_{i}.tar.safetensors" for i in range(4)), "meta.json"]
    with safe_open(store.path / names[3], "np") as file:
        image, text, first = (file.get_tensor(name) for name in ("image", "text", "first_caption"))
        keys = file.get_tensor("key_text").tobytes().decode()
    assert image.dtype == text.dtype == np.float16
    assert image.shape == (2, 6)
    assert first.tolist() == [0, 1, 3]  # rows 48 and 49
    assert text.shape == (3, 6)
    assert keys == "sample-0048sample-0049"
    assert store.part(3).keys([1, 0]) == ["sample-0049", "sample-0048"]


def test_large_parts_are_cut_into_blocks_and_empty_ones_left_out(score_toy: Score) -> None:
    class Uneven(ToyPairs):
        def parts(self) -> list[tuple[str, int, int]]:
            return [("a.tar", 0, 30), ("empty.tar", 30, 30), ("dir/b.tar", 30, 50)]

    store = score_toy(ToyTowers(), Uneven(), block=12)
    found = [(part.name, part.start, part.stop) for part in store.meta.parts]
    assert found == [
        ("a.tar", 0, 12),
        ("a.tar", 12, 24),
        ("a.tar", 24, 30),
        ("dir/b.tar", 30, 42),
        ("dir/b.tar", 42, 50),
    ]
    assert store.meta.parts[4].file == "000004-b.tar.safetensors"
    assert StoredEmbeddings(store, Uneven()).embeddings(torch.tensor([49]), torch.tensor([1]))[1].shape == (1, 6)


def test_reopened_store_says_what_it_is(score_toy: Score) -> None:
    pairs = ToyPairs()
    path = score_toy(ToyTowers(), pairs, command="guidestar score r.yaml").path
    expect = {"weights": "w0", "width": 6, "tokenizer": "toy-12-64", "reference": "toy", "rows": 50}
    store = EmbeddingStore.open(path, expect=expect | {"dataset": pairs.fingerprint(), "kind": "pairs"})
    assert (len(store), store.width) == (50, 6)
    assert store.meta.preprocessing == {"size": 8, "crop": "center", "precision": "fp32"}
    assert store.meta.command == "guidestar score r.yaml"
    store.require_complete()
    store.require_complete(pairs)
    store.require_complete(pairs.subset([3, 4]))


def test_a_subset_in_another_order_is_joined_by_key(score_toy: Score) -> None:
    model, pairs = ToyTowers(), ToyPairs()
    store = score_toy(model, pairs)
    order = torch.randperm(50)[:30].tolist()
    subset = pairs.subset([*order, order[0]])
    rows, choice = everything(subset)
    image, text = StoredEmbeddings(store, subset).embeddings(rows, choice)
    expected = StoredEmbeddings(store, pairs).embeddings(torch.tensor([*order, order[0]])[rows], choice)
    assert torch.equal(image, expected[0])
    assert torch.equal(text, expected[1])


def test_captions_in_another_order_or_left_out_are_found_by_their_text(score_toy: Score) -> None:
    pairs = ToyPairs()
    store = score_toy(ToyTowers(), pairs)
    turned = pairs.with_captions([texts[::-1] for texts in pairs.texts])
    last = pairs.with_captions([texts[-1:] for texts in pairs.texts])
    rows, first = torch.arange(50), torch.zeros(50, dtype=torch.long)
    ends = torch.tensor([len(texts) - 1 for texts in pairs.texts])
    expected = StoredEmbeddings(store, pairs).embeddings(rows, ends)[1]
    for other in (turned, last):
        assert torch.equal(StoredEmbeddings(store, other).embeddings(rows, first)[1], expected)


def test_mismatched_captions_are_embedded_as_they_are(score_toy: Score, tmp_path: Path) -> None:
    model, pairs = ToyTowers(), ToyPairs(captions=1)
    moved = pairs.with_captions([pairs.texts[(row + 1) % 50] for row in range(50)])
    right = StoredEmbeddings(score_toy(model, pairs, tmp_path / "right"), pairs)
    wrong = StoredEmbeddings(score_toy(model, moved, tmp_path / "wrong"), moved)
    rows, choice = torch.arange(50), torch.zeros(50, dtype=torch.long)
    torch.testing.assert_close(wrong.embeddings(rows, choice)[0], right.embeddings(rows, choice)[0])
    shifted = right.embeddings((rows + 1) % 50, choice)[1]
    torch.testing.assert_close(wrong.embeddings(rows, choice)[1], shifted, atol=HALF, rtol=0)


def test_many_parts_are_read_with_few_of_them_open(score_toy: Score) -> None:
    pairs = ToyPairs(rows=600, captions=1, shard=2)
    store = score_toy(ToyTowers(), pairs, batch_size=64)
    stored = StoredEmbeddings(store, pairs)
    rows = torch.randperm(600)
    image, _ = stored.embeddings(rows, torch.zeros(600, dtype=torch.long))
    live, _ = LiveEmbeddings(ToyTowers(), pairs).embeddings(rows, torch.zeros(600, dtype=torch.long))
    torch.testing.assert_close(image, live, atol=HALF, rtol=0)


def test_keys_and_captions_of_any_language(score_toy: Score) -> None:
    pairs = ToyPairs(rows=4, captions=1)
    pairs.names = ["", "dir/鞋.jpg", "b\udcff.png", "naïve"]
    pairs.texts = [["红色的鞋"], ["🙂"], [""], ["é"]]
    pairs.fingerprint = lambda: "f0"
    store = score_toy(ToyTowers(), pairs)
    assert store.part(0).keys(range(4)) == pairs.names
    subset = pairs.subset([3, 1])
    subset.fingerprint = lambda: "f1"
    found = StoredEmbeddings(store, subset).embeddings(torch.tensor([0, 1]), torch.tensor([0, 0]))[1]
    expected = StoredEmbeddings(store, pairs).embeddings(torch.tensor([3, 1]), torch.tensor([0, 0]))[1]
    assert torch.equal(found, expected)


def test_a_wide_picture_is_cut_at_its_centre() -> None:
    pixels = np.zeros((4, 12, 3), dtype=np.uint8)
    pixels[:, 4:8] = 200
    assert (plain_image(Image.fromarray(pixels), 4) == 200).all()
    assert plain_image(Image.fromarray(pixels), 9).shape == (3, 9, 9)


def test_tokens_are_padded_to_multiples_of_eight() -> None:
    tokenizer = ToyTokenizer(length=12)
    assert read_tokens(["a red shoe"], tokenizer).shape == (1, 8)
    tokens = read_tokens(["a red shoe", "a b c d e f g h i j k l m n"], tokenizer)
    assert tokens.shape == (2, 12)
    assert tokens[0, 5:].tolist() == [0] * 7


def test_an_empty_batch_of_rows(score_toy: Score) -> None:
    pairs = ToyPairs()
    stored = StoredEmbeddings(score_toy(ToyTowers(), pairs), pairs)
    none = torch.zeros(0, dtype=torch.long)
    assert [values.shape for values in stored.embeddings(none, none)] == [(0, 6), (0, 6)]
