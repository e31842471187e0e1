"""The store with the data and the models of the package, in place of toys."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from guidestar.data.pairs import (
    MemoryContent,
    PairDataset,
    Pairs,
    RowPairs,
    ShardPairs,
    index_shards,
    load_pairs,
    mismatch,
)
from guidestar.data.pairs.strings import CaptionLists
from guidestar.errors import UserError
from guidestar.models.pairs import DualEncoder, PairModelSettings, build_dual_encoder, train_tokenizer
from guidestar.reference.embeddings import EmbeddingStore, LiveEmbeddings, StoredEmbeddings, score_pairs
from guidestar.reference.pair_inputs import read_images

WORDS = ("red shoe", "blue shirt", "green bag", "black watch", "white hat")


def make_pairs(rows: int = 40) -> RowPairs:
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (rows, 30, 24, 3), dtype=np.uint8)
    captions = CaptionLists.of([[f"a {WORDS[row % 5]} {row}", f"{WORDS[row % 5]} no. {row}"] for row in range(rows)])
    return RowPairs(MemoryContent(images, captions, None, 10_000), name="train")


def make_model(pairs: Pairs) -> DualEncoder:
    captions = [text for row in range(len(pairs)) for text in pairs.captions(row)]
    tokenizer = train_tokenizer(captions, vocabulary=300, length=16)
    torch.manual_seed(0)
    return build_dual_encoder(PairModelSettings(options={"width": 8, "size": 32}), tokenizer=tokenizer, base=Path())


def score(model: DualEncoder, pairs: Pairs, path: Path) -> StoredEmbeddings:
    about = {"device": "cpu", "weights_hash": "w0", "reference_name": "small", "progress": False}
    return StoredEmbeddings(score_pairs(model, pairs, path, batch_size=16, **about), pairs)


def test_images_are_those_of_the_data_set() -> None:
    pairs = make_pairs()
    batch = PairDataset(pairs, size=32, tokenizer=make_model(pairs).tokenizer, crop="center").__getitems__((0, [5, 9]))
    assert torch.equal(read_images(pairs, [5, 9], 32).float() / 255, batch.images)


def test_stored_live_and_the_model_on_a_batch_agree(tmp_path: Path) -> None:
    pairs = make_pairs()
    model = make_model(pairs)
    batch = PairDataset(pairs, size=32, tokenizer=model.tokenizer, seed=3).__getitems__((7, [39, 2, 11, 20]))
    assert len(batch.choice.unique()) == 2
    with torch.no_grad():
        expected = model.eval()(batch.images, batch.tokens)
    for source in (score(model, pairs, tmp_path / "store"), LiveEmbeddings(model, pairs)):
        for found, right in zip(source.embeddings(batch.rows, batch.choice), expected, strict=True):
            torch.testing.assert_close(found, right, atol=1e-3, rtol=0)


def test_a_subset_and_mismatched_captions(tmp_path: Path) -> None:
    pairs = make_pairs()
    model = make_model(pairs)
    moved, where = mismatch(pairs, 0.4, seed=0)
    rows, choice = torch.arange(40), torch.ones(40, dtype=torch.int64)
    right, wrong = score(model, pairs, tmp_path / "right"), score(model, moved, tmp_path / "wrong")
    image, text = right.embeddings(rows, choice)
    other_image, other_text = wrong.embeddings(rows, choice)
    assert torch.equal(image, other_image)
    same = torch.isclose(text, other_text, atol=1e-3, rtol=0).all(dim=1)
    assert torch.equal(~same, where)
    subset = pairs.subset([30, 4, 17])
    joined = StoredEmbeddings(right._store, subset).embeddings(torch.tensor([2, 0]), torch.tensor([1, 1]))
    assert torch.equal(joined[0], image[[17, 30]])
    assert torch.equal(joined[1], text[[17, 30]])


def write_shard(path: Path, samples: list[tuple[str, str, tuple[int, int, int]]]) -> None:
    """A tar in the layout of img2dataset: a picture of one colour and a text a key."""
    with tarfile.open(path, "w") as tar:
        for key, caption, colour in samples:
            picture = io.BytesIO()
            Image.new("RGB", (20, 16), colour).save(picture, "PNG")
            for ending, content in (("png", picture.getvalue()), ("txt", caption.encode())):
                member = tarfile.TarInfo(f"{key}.{ending}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def make_shards() -> list[list[tuple[str, str, tuple[int, int, int]]]]:
    return [
        [(f"{shard}-{at}", f"a {WORDS[at % 5]} {shard}", (40 * at, 90 * shard, 9)) for at in range(4 + shard)]
        for shard in range(3)
    ]


def read_shards(folder: Path) -> Pairs:
    index_shards(["*.tar"], base=folder)
    return load_pairs(ShardPairs(shards=["*.tar"]), base=folder)


def test_tar_shards_have_one_file_each_and_changed_ones_are_found(tmp_path: Path) -> None:
    shards = make_shards()
    for number, samples in enumerate(shards):
        write_shard(tmp_path / f"{number:05d}.tar", samples)
    pairs = read_shards(tmp_path)
    model = make_model(pairs)
    stored = score(model, pairs, tmp_path / "store")
    files = sorted(path.name for path in (tmp_path / "store").iterdir())
    assert files == [*(f"00000{i}-0000{i}.tar.safetensors" for i in range(3)), "meta.json"]
    rows, choice = torch.arange(15), torch.zeros(15, dtype=torch.int64)
    expected = stored.embeddings(rows, choice)
    live = LiveEmbeddings(model, pairs).embeddings(rows, choice)
    for left, right in zip(expected, live, strict=True):
        torch.testing.assert_close(left, right, atol=1e-3, rtol=0)

    (tmp_path / "00000.tar").unlink()  # fewer shards: the others' rows have other numbers now
    fewer = StoredEmbeddings(EmbeddingStore.open(tmp_path / "store"), read_shards(tmp_path))
    assert torch.equal(fewer.embeddings(rows[:11], choice[:11])[1], expected[1][4:])

    write_shard(tmp_path / "00001.tar", [*shards[1][:2], ("1-2", "another text", (80, 90, 9)), *shards[1][3:]])
    with pytest.raises(UserError, match=r"captions of key '1-2' .* are not those that were scored: 'another text'"):
        StoredEmbeddings(EmbeddingStore.open(tmp_path / "store"), read_shards(tmp_path))
    write_shard(tmp_path / "00001.tar", [*shards[1], ("1-9", "one more", (1, 2, 3))])
    with pytest.raises(UserError, match=r"1 of 12 keys of 'train' are without a row in .*: '1-9'. The shards changed"):
        StoredEmbeddings(EmbeddingStore.open(tmp_path / "store"), read_shards(tmp_path))
    write_shard(tmp_path / "00001.tar", [(key, text, (200, 200, 200)) for key, text, _ in shards[1]])
    with pytest.raises(UserError, match=r"images differ in 5 of 11 rows that were compared"):
        StoredEmbeddings(EmbeddingStore.open(tmp_path / "store"), read_shards(tmp_path))
