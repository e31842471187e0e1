"""Small pictures, shards and a tokenizer for the tests of pairs."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from guidestar.data.pairs.memory import MemoryContent
from guidestar.data.pairs.rows import RowPairs
from guidestar.data.pairs.strings import CaptionLists, Strings


class Letters:
    """A token a letter."""

    length, pad = 24, 0

    def __call__(self, texts: list[str]) -> list[list[int]]:
        return [[ord(letter) for letter in text] for text in texts]


def picture(number: int, size: tuple[int, int] = (12, 8)) -> Image.Image:
    """A picture of one colour that tells its number."""
    return Image.new("RGB", size, (10 * number % 256, 255 - 10 * number % 256, 128))


def encode(image: Image.Image, form: str = "PNG") -> bytes:
    stream = io.BytesIO()
    image.save(stream, form)
    return stream.getvalue()


@pytest.fixture
def letters() -> Letters:
    return Letters()


@pytest.fixture
def png() -> Callable[..., bytes]:
    """(number, size) -> the bytes of a PNG of one colour."""
    return lambda number, size=(12, 8), form="PNG": encode(picture(number, size), form)


@pytest.fixture
def make_tar() -> Callable[[Path, Sequence[tuple[str, bytes]]], Path]:
    """(path, [(name, content)]) -> the path of a tar archive with these files."""

    def make(path: Path, files: Sequence[tuple[str, bytes]]) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, "w") as archive:
            for name, content in files:
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        return path

    return make


@pytest.fixture
def make_shard(make_tar: Callable) -> Callable[..., Path]:
    """(path, [numbers], **extra) -> a shard with one image and one .txt a number, keys "k<number>"."""

    def make(path: Path, numbers: Sequence[int], extra: Mapping[str, Callable[[int], bytes]] | None = None) -> Path:
        files: list[tuple[str, bytes]] = []
        for number in numbers:
            files += [(f"k{number}.png", encode(picture(number))), (f"k{number}.txt", f"caption {number}\n".encode())]
            files += [(f"k{number}{suffix}", content(number)) for suffix, content in (extra or {}).items()]
        return make_tar(path, files)

    return make


@pytest.fixture
def make_pairs() -> Callable[..., RowPairs]:
    """(rows, captions a row) -> pairs in memory, pictures of one colour a row, keys "k<row>"."""

    def make(rows: int, captions: int = 1, size: tuple[int, int] = (12, 8), **options: object) -> RowPairs:
        images = np.stack([np.asarray(picture(row, size)) for row in range(rows)])
        texts = CaptionLists.of([[f"{row} {number}" for number in range(captions)] for row in range(rows)])
        content = MemoryContent(images, texts, Strings.of(f"k{row}" for row in range(rows)), 10_000)
        return RowPairs(content, name="train", **options)  # pyright: ignore[reportArgumentType]

    return make
