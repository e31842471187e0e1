"""Indexing tar shards, so that any of their samples can be read at any time."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from guidestar.data.pairs.captions import log_skipped
from guidestar.data.pairs.patterns import find_files
from guidestar.data.pairs.rows import hash_texts
from guidestar.data.pairs.sample import member_kind, read_member, sample_captions
from guidestar.data.pairs.shard_index import (
    IMAGE,
    JSON,
    TEXT,
    ShardHead,
    ShardIndex,
    hash_shard,
    index_path,
    is_current,
    read_head,
    read_index,
    read_key_hashes,
    write_index,
)
from guidestar.data.pairs.strings import Strings
from guidestar.data.pairs.tar import CutShort, scan_tar
from guidestar.errors import UserError

_WHAT = ("image", ".txt", ".json", ".cls")
_REMEDY = "Correct the shard, or run `guidestar index` with `--on-error skip`."


def index_shards(
    patterns: str | Sequence[str],
    *,
    base: Path = Path(),
    captions: Sequence[str] = (),
    on_error: Literal["raise", "skip"] = "raise",
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Write an index beside each tar shard, and return the paths of the indexes.

    Only headers and texts are read, not the images. A shard whose index is current is left alone, so that an
    interrupted run goes on where it was. With `on_error="skip"`, faulty samples are left out of the index and named in
    the log.

    Args:
        patterns: the shards, see `find_files`.
        base: the folder that patterns are relative to.
        captions: the keys of the captions in each sample's .json; none: its .txt, else `caption` of its .json.
        on_error: "raise" or "skip".
        progress: called with (shards done, all shards).

    Raises:
        UserError: a shard is compressed or cut short; a sample has no image or no caption; a key is there twice, in a
            shard or in two.
        OSError: a shard cannot be read, or its index not written.
    """
    if on_error not in ("raise", "skip"):
        raise UserError(f'`on_error` must be "raise" or "skip". Found {on_error!r}.')
    shards = find_files(patterns, base, "shards")
    for done, shard in enumerate(shards, start=1):
        if not _kept(shard, tuple(captions), on_error):
            index, faults = build_index(shard, captions)
            if faults and on_error == "raise":
                raise UserError(f"{faults[0]} {_REMEDY}")
            log_skipped(str(shard), faults, len(index.keys) + len(faults))
            write_index(shard, index)
        if progress is not None:
            progress(done, len(shards))
    _drop_repeats(shards, on_error)
    return [index_path(shard) for shard in shards]


def build_index(shard: Path, captions: Sequence[str] = ()) -> tuple[ShardIndex, list[str]]:
    """The index of the sound samples of a shard, and what is wrong with the others.

    Args:
        shard: the tar file.
        captions: see `index_shards`.

    Raises:
        UserError: it is no tar file, or a compressed one.
        OSError: it cannot be read.
    """
    before = shard.stat()
    content = hash_shard(shard)
    samples, faults = _collect(shard)
    keys: list[str] = []
    members: list[np.ndarray] = []
    hashes: list[int] = []
    digests: list[tuple[int, int]] = []
    most = 0
    descriptor = os.open(shard, os.O_RDONLY)
    try:
        for key, found in samples.items():
            where = f"{key!r} in {shard}"
            texts = [read_member(descriptor, found, kind) for kind in (TEXT, JSON)]
            try:
                count = len(sample_captions(texts[0], texts[1], captions, where))
            except UserError as error:
                faults.append(str(error))
                continue
            if found[IMAGE, 1] <= 0:
                faults.append(f"{where} has {'an empty image' if found[IMAGE, 1] == 0 else 'no image'}.")
            elif count == 0:
                faults.append(f"{where} has no caption{_looked_for(captions)}.")
            else:
                keys.append(key)
                members.append(found)
                text = hash_texts(b"\x00" if part is None else b"\x01" + part for part in texts)
                hashes.append(hash_texts([key]))
                digests.append((hash_texts([key, str(found[IMAGE, 1])]), text))
                most = max(most, count)
    finally:
        os.close(descriptor)
    if not samples and not faults:
        faults.append(f"{shard} holds no sample: no .jpg, .jpeg, .png or .webp with a .txt or .json.")
    head = ShardHead(len(keys), most, tuple(captions), len(faults), before.st_size, content, before.st_mtime_ns)
    stacked = np.stack(members) if members else np.zeros((0, 4, 2), dtype=np.int64)
    return ShardIndex(
        head,
        Strings.of(keys),
        stacked,
        np.array(hashes, dtype=np.uint64),
        np.array(digests, dtype=np.uint64).reshape(-1, 2),
    ), faults


def _collect(shard: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """Where the files of each sample are, by key."""
    samples: dict[str, np.ndarray] = {}
    faults: list[str] = []
    try:
        for name, offset, size in scan_tar(shard):
            found = member_kind(name)
            if found is None:
                continue
            key, kind = found
            members = samples.setdefault(key, np.full((4, 2), -1, dtype=np.int64))
            if members[kind, 0] >= 0:
                faults.append(f"the key {key!r} is in {shard} twice: it has two {_WHAT[kind]} files.")
            else:
                members[kind] = offset, size
    except CutShort as error:
        faults.append(str(error))
    return samples, faults


def _looked_for(captions: Sequence[str]) -> str:
    if captions:
        return f": its .json has no text under {', '.join(captions)}"
    return ": no .txt with a text, and no `caption` in its .json"


def _kept(shard: Path, captions: tuple[str, ...], on_error: str) -> bool:
    """Whether a shard has a current index that was made in this way."""
    if not index_path(shard).is_file():
        return False
    try:
        head = read_head(shard)
    except UserError:  # damaged or of another version: made anew
        return False
    return head.captions == captions and (head.skipped == 0 or on_error == "skip") and is_current(shard, head)


def _drop_repeats(shards: Sequence[Path], on_error: str) -> None:
    """Keys that are in two shards: an error, or the later ones are dropped."""
    hashes = [read_key_hashes(shard) for shard in shards]
    ordered = np.sort(np.concatenate(hashes))
    repeated = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    if not repeated.size:
        return
    owners: dict[str, Path] = {}
    for shard, found in zip(shards, hashes, strict=True):
        suspects = np.flatnonzero(np.isin(found, repeated)).tolist()
        if not suspects:
            continue
        index = read_index(shard)
        twice = [at for at in suspects if owners.setdefault(index.keys[at], shard) != shard]
        faults = [f"the key {index.keys[at]!r} is in {shard} and in {owners[index.keys[at]]}." for at in twice]
        if faults and on_error == "raise":
            # Without its index the shard cannot be opened, so the fault cannot be overlooked.
            index_path(shard).unlink()
            raise UserError(f"{faults[0]} {_REMEDY}")
        if faults:
            log_skipped(str(shard), faults, len(index.keys))
            write_index(shard, index.take(np.setdiff1d(np.arange(len(index.keys)), twice)))
