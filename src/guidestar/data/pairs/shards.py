"""Image-text pairs in tar shards, read at any row through their indexes."""

from __future__ import annotations

import os
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from guidestar.data.pairs.decoding import decode_picture
from guidestar.data.pairs.labels import class_ids
from guidestar.data.pairs.patterns import find_files, part_names
from guidestar.data.pairs.protocol import Part, Unreadable
from guidestar.data.pairs.rows import RowPairs
from guidestar.data.pairs.sample import read_member, sample_captions, sample_label
from guidestar.data.pairs.settings import ShardPairs
from guidestar.data.pairs.shard_index import (
    CLASS,
    IMAGE,
    JSON,
    TEXT,
    ShardHead,
    check_current,
    read_head,
    read_index,
)
from guidestar.errors import UserError

_OPEN = 64  # shards whose index and file are held open


class _OpenShard:
    """A shard with its index in memory; the file is closed with the object."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.index = read_index(path)
        self.descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self.descriptor)

    def where(self, at: int) -> str:
        return f"{self.index.keys[at]!r} in {self.path}"

    def read(self, at: int, kind: int) -> bytes | None:
        return read_member(self.descriptor, self.index.members[at], kind)


class ShardContent:
    """Samples of tar shards, by position; the indexes of the shards in use are in memory, not those of all.

    Args:
        paths: the shards.
        heads: what their indexes say.
        captions: keys of the captions in the .json; none: the .txt, else `caption`.
        max_pixels: images of more pixels are not decoded.
    """

    def __init__(self, paths: Sequence[Path], heads: Sequence[ShardHead], captions: Sequence[str], max_pixels: int):
        self._paths, self._names = list(paths), part_names(paths)
        self._heads, self._caption_keys, self._max_pixels = list(heads), tuple(captions), max_pixels
        self._starts = np.concatenate([[0], np.cumsum([head.samples for head in heads])]).astype(np.int64)
        self._open: OrderedDict[int, _OpenShard] = OrderedDict()
        self._max_captions: int | None = None
        self.reading = f"shards {self._caption_keys}"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}  # open files do not travel to other processes

    def __len__(self) -> int:
        return int(self._starts[-1])

    def key(self, position: int) -> str:
        shard, at = self._find(position)
        return shard.index.keys[at]

    def captions(self, position: int) -> list[str]:
        shard, at = self._find(position)
        text = None if self._caption_keys else shard.read(at, TEXT)
        fields = shard.read(at, JSON) if text is None else None
        found = sample_captions(text, fields, self._caption_keys, shard.where(at))
        if not found:
            keys = ", ".join(self._caption_keys)
            raise Unreadable(
                f"{shard.where(at)} has no caption under {keys or 'caption'}. Correct `captions`, or run `guidestar "
                "index` with these caption keys and `--on-error skip`."
            )
        return found

    def picture(self, position: int) -> Image.Image:
        shard, at = self._find(position)
        return decode_picture(shard.read(at, IMAGE) or b"", shard.where(at), self._max_pixels)

    def label(self, position: int, label: str) -> Any:
        """The label of a sample, see `sample_label`."""
        shard, at = self._find(position)
        return sample_label(shard.read(at, JSON), shard.read(at, CLASS), label, shard.where(at))

    def digests(self, positions: np.ndarray) -> np.ndarray:
        found = np.zeros((len(positions), 2), dtype=np.uint64)
        numbers = np.searchsorted(self._starts, positions, side="right") - 1
        for number in np.unique(numbers).tolist():
            here = numbers == number
            found[here] = self._shard(number).index.digests[positions[here] - self._starts[number]]
        return found

    def parts(self) -> list[Part]:
        starts = self._starts.tolist()
        runs = zip(self._names, starts[:-1], starts[1:], strict=True)
        return [(name, first, end) for name, first, end in runs if end > first]

    def blocks(self) -> list[Part]:
        return self.parts()

    @property
    def max_captions(self) -> int:
        """The largest number of captions of a sample; known from the indexes if they looked under the same keys."""
        if self._max_captions is None:
            if all(head.captions == self._caption_keys for head in self._heads):
                self._max_captions = max(head.max_captions for head in self._heads)
            else:
                self._max_captions = max(len(self.captions(position)) for position in range(len(self)))
        return self._max_captions

    def _find(self, position: int) -> tuple[_OpenShard, int]:
        number = int(np.searchsorted(self._starts, position, side="right")) - 1
        return self._shard(number), position - int(self._starts[number])

    def _shard(self, number: int) -> _OpenShard:
        shard = self._open.get(number)
        if shard is None:
            shard = _OpenShard(self._paths[number])
            if shard.index.head != self._heads[number]:
                raise UserError(f"{self._paths[number]} was indexed again while it was in use. Start again.")
            self._open[number] = shard
            if len(self._open) > _OPEN:
                self._open.popitem(last=False)
        self._open.move_to_end(number)
        return shard


def read_shards(settings: ShardPairs, *, base: Path, name: str, other: Sequence[str] | None) -> RowPairs:
    """The pairs in indexed tar shards.

    Args:
        settings: the shards, and where captions and labels are.
        base: the folder of the recipe.
        name: "train" or "test".
        other: class names of the training data, when this is the test data.

    Raises:
        UserError: a shard has no index or has changed since, or all are empty.
        OSError: a shard cannot be read.
    """
    paths = find_files(settings.shards, base, "shards")
    heads = [read_head(path) for path in paths]
    for path, head in zip(paths, heads, strict=True):
        check_current(path, head)
    content = ShardContent(paths, heads, settings.captions, settings.max_pixels)
    if len(content) == 0:
        raise UserError(f"`shards`: none of the {len(paths)} shards has a sample.")
    if settings.label is None:
        return RowPairs(content, name=name)
    values = [content.label(position, settings.label) for position in range(len(content))]
    labels, class_names = class_ids(
        values, given=settings.class_names, other=other, key=lambda at: repr(content.key(at))
    )
    return RowPairs(content, name=name, labels=labels, class_names=class_names)
