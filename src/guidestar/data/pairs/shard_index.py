"""The index of a tar shard: what is in it, where, and how to tell that the shard has changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save

from guidestar.data.pairs.strings import Strings
from guidestar.errors import UserError
from guidestar.files import replacing

FORMAT = "guidestar shard index 1"
IMAGE, TEXT, JSON, CLASS = range(4)
_SAMPLED = 1 << 16  # bytes hashed at each place


@dataclass(frozen=True)
class ShardHead:
    """What is known of a shard without looking at its samples.

    Args:
        samples: how many there are.
        max_captions: the largest number of captions of a sample.
        captions: the keys of the .json that captions were looked for under.
        skipped: samples that were left out.
        size: of the shard in bytes.
        content: a hash of the shard, see `hash_shard`.
        mtime: when the shard was last changed, in nanoseconds; only to save hashing it again.
    """

    samples: int
    max_captions: int
    captions: tuple[str, ...]
    skipped: int
    size: int
    content: str
    mtime: int


@dataclass(frozen=True)
class ShardIndex:
    """The samples of a shard.

    Args:
        head: about the shard.
        keys: the key of each sample.
        members: offset and size of the image, .txt, .json and .cls of each, int64 `[n, 4, 2]`; -1: there is none.
        key_hashes: a hash of each key, uint64 `[n]`.
        digests: hashes of key with image size, and of the texts, uint64 `[n, 2]`.
    """

    head: ShardHead
    keys: Strings
    members: np.ndarray
    key_hashes: np.ndarray
    digests: np.ndarray

    def take(self, positions: Sequence[int] | np.ndarray) -> ShardIndex:
        """The index of these samples only; the others count as skipped."""
        dropped = len(self.keys) - len(positions)
        head = replace(self.head, samples=len(positions), skipped=self.head.skipped + dropped)
        keys = Strings.of(self.keys[int(at)] for at in positions)
        return ShardIndex(head, keys, self.members[positions], self.key_hashes[positions], self.digests[positions])


def index_path(shard: Path) -> Path:
    """The index file of a shard.

    Example:
        >>> index_path(Path("data/00000.tar")).as_posix()
        'data/00000.tar.index'
    """
    return shard.with_name(f"{shard.name}.index")


def hash_shard(shard: Path) -> str:
    """SHA-256 (hex) over the size of a shard and its bytes: all of a small one, else those at eleven places.

    Raises:
        OSError: it cannot be read.
    """
    size = shard.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    places = np.linspace(0, max(size - _SAMPLED, 0), 11).astype(np.int64).tolist()
    if size <= 11 * _SAMPLED:
        places = list(range(0, size, _SAMPLED))
    with shard.open("rb") as stream:
        for place in places:
            stream.seek(place)
            digest.update(stream.read(_SAMPLED))
    return digest.hexdigest()


def write_index(shard: Path, index: ShardIndex) -> Path:
    """Write the index beside its shard; returns its path.

    Raises:
        OSError: it cannot be written.
    """
    head = {name: json.dumps(value) for name, value in vars(index.head).items()}
    arrays = {
        "keys": index.keys.data,
        "key_offsets": index.keys.offsets,
        "members": np.ascontiguousarray(index.members),
        "key_hashes": np.ascontiguousarray(index.key_hashes),
        "digests": np.ascontiguousarray(index.digests),
    }
    path = index_path(shard)
    with replacing(path) as stream:
        stream.write(save(arrays, metadata={"format": FORMAT, **head}))
    return path


def read_head(shard: Path) -> ShardHead:
    """What the index of a shard says about it.

    Raises:
        UserError: there is no index, or it is none that this version reads.
    """
    path = index_path(shard)
    if not path.is_file():
        raise UserError(f"{shard} has no index. Make it with `guidestar index {shard}`, or name all shards at once.")
    try:
        with safe_open(path, framework="numpy") as opened:
            found: dict[str, str] = opened.metadata() or {}
    except SafetensorError as error:
        raise UserError(f"{path} is damaged ({error}). Make it anew with `guidestar index {shard}`.") from error
    if found.get("format") != FORMAT:
        raise UserError(
            f"{path} must be a {FORMAT!r}, found {found.get('format')!r}. Make it anew with `guidestar index {shard}`."
        )
    values: dict[str, Any] = {name: json.loads(found[name]) for name in ShardHead.__dataclass_fields__}
    return ShardHead(**{**values, "captions": tuple(values["captions"])})


def read_index(shard: Path) -> ShardIndex:
    """The index of a shard.

    Raises:
        UserError: there is none, or none that this version reads.
    """
    head = read_head(shard)
    arrays = load_file(index_path(shard))
    keys = Strings(arrays["keys"], arrays["key_offsets"])
    return ShardIndex(head, keys, arrays["members"], arrays["key_hashes"], arrays["digests"])


def read_key_hashes(shard: Path) -> np.ndarray:
    """The hashes of the keys in the index of a shard, uint64 `[n]`; nothing else is read.

    Raises:
        OSError: there is no index.
    """
    with safe_open(index_path(shard), framework="numpy") as opened:
        return opened.get_tensor("key_hashes")


def is_current(shard: Path, head: ShardHead) -> bool:
    """Whether a shard is the one that its index was made for; its bytes are hashed only if its time has changed.

    Raises:
        OSError: it cannot be read.
    """
    found = shard.stat()
    if found.st_size != head.size:
        return False
    return found.st_mtime_ns == head.mtime or hash_shard(shard) == head.content


def check_current(shard: Path, head: ShardHead) -> None:
    """Raise if a shard has changed since it was indexed.

    Raises:
        UserError: its size or its content is another one.
        OSError: it cannot be read.
    """
    if not is_current(shard, head):
        found = shard.stat().st_size
        fault = f"{found:,} bytes instead of {head.size:,}" if found != head.size else "another content"
        raise UserError(
            f"{shard} has changed since it was indexed: it has {fault}. Restore it, or run `guidestar index {shard}` "
            "again and then score it again."
        )
