"""Pairs and a two-tower model that need no files; run as a program, it scores them into a store, dying on request."""

import argparse
import copy
import hashlib
import os
import signal
import time
import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from guidestar.reference.embeddings import score_pairs

COLOURS = ("red", "green", "blue", "white", "black", "brown", "grey", "pink")
THINGS = ("shoe", "shirt", "bag", "watch", "hat", "belt", "sock", "scarf")


class ToyPairs:
    """Random pictures with 1 to `captions` captions a row, in shards of `shard` rows, with keys that are not numbers."""

    def __init__(self, rows: int = 50, captions: int = 3, shard: int = 16, seed: int = 0) -> None:
        draw = np.random.default_rng(seed)
        self.name = "train"
        self.max_captions = captions
        self.pixels = [draw.integers(0, 256, (12, 10 + row % 3, 3), dtype=np.uint8) for row in range(rows)]
        self.names = [f"sample-{row:04d}" for row in range(rows)]
        self.texts = [
            [
                f"a {COLOURS[draw.integers(8)]} {THINGS[draw.integers(8)]} number {row} {view}"
                for view in range(1 + row % captions)
            ]
            for row in range(rows)
        ]
        self.shard = shard

    def __len__(self) -> int:
        return len(self.names)

    def keys(self, rows) -> list[str]:
        return [self.names[row] for row in rows]

    def captions(self, row: int) -> list[str]:
        return list(self.texts[row])

    def picture(self, row: int) -> Image.Image:
        return Image.fromarray(self.pixels[row])

    def parts(self) -> list[tuple[str, int, int]]:
        starts = range(0, len(self), self.shard)
        return [
            (f"shard {number}.tar", start, min(start + self.shard, len(self))) for number, start in enumerate(starts)
        ]

    def fingerprint(self) -> str:
        return hashlib.sha256(repr((self.names, self.texts)).encode()).hexdigest()

    def subset(self, rows: list[int]) -> "ToyPairs":
        part = copy.copy(self)
        part.pixels, part.names = [self.pixels[row] for row in rows], self.keys(rows)
        part.texts = [self.texts[row] for row in rows]
        return part

    def with_captions(self, texts: list[list[str]]) -> "ToyPairs":
        other = copy.copy(self)
        other.texts = texts
        return other


class ToyTokenizer:
    """Words to numbers by their checksum; 1 starts and 2 ends a caption."""

    def __init__(self, length: int = 12, vocabulary: int = 64) -> None:
        self.length, self.pad, self.vocabulary = length, 0, vocabulary

    def __call__(self, captions: list[str]) -> list[list[int]]:
        words = [[3 + zlib.crc32(word.encode()) % (self.vocabulary - 3) for word in text.split()] for text in captions]
        return [[1, *row[: self.length - 2], 2] for row in words]

    def fingerprint(self) -> str:
        return f"toy-{self.length}-{self.vocabulary}"


class ToyTowers(nn.Module):
    """A linear image tower and a bag of words, with dropout, so that scoring in training mode would show."""

    def __init__(self, width: int = 6, size: int = 8, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.size, self.width, self.tokenizer = size, width, ToyTokenizer()
        self.see = nn.Linear(3 * size * size, width)
        self.read = nn.EmbeddingBag(64, width, padding_idx=0)
        self.drop = nn.Dropout(0.5)

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        return nn.functional.normalize(self.drop(self.see(images.flatten(1) - 0.5)).float(), dim=1)

    def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
        return nn.functional.normalize(self.drop(self.read(tokens)).float(), dim=1)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _die_before_rename(call: int) -> None:
    """Die in the given rename, when the file is written under another name (half of it, in the odd calls)."""
    rename, calls = os.replace, 0

    def dying(source: Path, target: Path) -> None:
        nonlocal calls
        calls += 1
        if calls == call:
            if call % 2:
                os.truncate(source, os.path.getsize(source) // 2)
            _die()
        rename(source, target)

    os.replace = dying


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("path", type=Path)
    parser.add_argument("--rank", type=int, default=0)
    parser.add_argument("--world", type=int, default=1)
    parser.add_argument("--pause", type=float, default=0.0)
    parser.add_argument("--die-after-rows", type=int)
    parser.add_argument("--die-in-rename", type=int)
    options = parser.parse_args()
    if options.die_in_rename:
        _die_before_rename(options.die_in_rename)

    def on_part(rows: int) -> None:
        print(rows, flush=True)
        time.sleep(options.pause)
        if options.die_after_rows is not None and rows >= options.die_after_rows:
            _die()

    torch.set_num_threads(1)
    score_pairs(
        ToyTowers(),
        ToyPairs(rows=203, shard=32),
        options.path,
        batch_size=7,
        device="cpu",
        weights_hash="w0",
        reference_name="toy",
        rank=options.rank,
        world=options.world,
        progress=False,
        block=20,
        on_part=on_part,
    )


if __name__ == "__main__":
    main()
