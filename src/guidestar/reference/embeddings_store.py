"""The store of a reference's image and text embeddings, on disk."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from guidestar.errors import UserError
from guidestar.reference.embeddings_files import PartFile, part_fingerprint
from guidestar.reference.embeddings_meta import KIND, EmbeddingMeta, Part, load_embedding_meta
from guidestar.reference.keys import hash_keys
from guidestar.reference.meta import describe_difference
from guidestar.reference.pair_inputs import ScorablePairs
from guidestar.reference.values import name_rows

_OPEN_PARTS = 256  # files that stay mapped: a process may have some 65,000 maps
_SHOWN = 5  # parts named in an error


class EmbeddingStore:
    """A directory with meta.json and one safetensors file a part: what a reference says about each image and caption.

    A part is there as a whole or not at all; a row whose part is missing is not zero, and reading it raises.

    `score_pairs` makes a store, `EmbeddingStore.open` reads one, and `StoredEmbeddings` joins it to pairs.

    Args:
        path: The store's folder.
        meta: Its description.

    Example:
        >>> import tempfile
        >>> from guidestar.errors import UserError
        >>> try:
        ...     EmbeddingStore.open(tempfile.mkdtemp(), expect={"width": 512})
        ... except UserError as error:
        ...     print(error)
        /... is not a reference store: it has no meta.json. Make one with `guidestar score RECIPE`.
    """

    def __init__(self, path: Path, meta: EmbeddingMeta) -> None:
        self.path = path
        self.meta = meta
        self._starts = np.array([part.start for part in meta.parts], dtype=np.int64)
        self._part = lru_cache(maxsize=_OPEN_PARTS)(lambda index: PartFile(path, meta, meta.parts[index]))

    @classmethod
    def create(cls, path: str | Path, meta: EmbeddingMeta, pairs: ScorablePairs) -> EmbeddingStore:
        """Make a store, or continue the one that is there if it was made with the same description.

        Args:
            path: The store's folder.
            meta: What the store should be.
            pairs: The data, to say which parts changed where they did.

        Raises:
            UserError: The folder holds something else.
            DiskFull: The disk is full.
        """
        path = Path(path)
        names = os.listdir(path) if path.is_dir() else []
        # Another process may write the same description at this moment.
        foreign = [name for name in names if not name.startswith("meta.json")]
        if not (path / "meta.json").exists():
            if foreign or (path.exists() and not path.is_dir()):
                raise UserError(
                    f"{path} is not a reference store and not empty ({', '.join(sorted(foreign)[:_SHOWN]) or 'a file'}). "
                    "Choose an empty or new folder for `path`."
                )
            meta.save(path)
        store = cls(path, load_embedding_meta(path))
        difference = describe_difference(store.meta.identity(), meta.identity())
        if difference:
            changed = store._changed_parts(pairs, meta)
            raise UserError(
                f"{path} holds a store that was made differently:\n{difference}\n{changed}"
                "Choose another folder, or delete this one to score again."
            )
        if store.meta.parts != meta.parts:
            raise UserError(
                f"{path} holds a store whose rows were cut into other parts: {_first_other(store.meta.parts, meta.parts)}. "
                "Choose another folder, or delete this one to score again."
            )
        return store

    @classmethod
    def open(cls, path: str | Path, expect: Mapping[str, Any] | None = None) -> EmbeddingStore:
        """Open a store for reading; a half-written one too (see `require_complete`).

        Args:
            path: The store's folder.
            expect: What the store must be: any of `rows`, `kind`, `width`, `dataset` (fingerprint), `reference` (name),
                `weights` (hash) and `tokenizer` (fingerprint).

        Raises:
            UserError: There is no store, it is damaged, or it is not what is expected; the message says what differs.
        """
        store = cls(Path(path), load_embedding_meta(Path(path)))
        store.check(expect or {})
        return store

    @property
    def width(self) -> int:
        """The width d of the embeddings."""
        return self.meta.width

    def __len__(self) -> int:
        return self.meta.rows

    def check(self, expect: Mapping[str, Any]) -> None:
        """Compare the store with what is expected of it.

        Args:
            expect: See `EmbeddingStore.open`.

        Raises:
            UserError: A field differs; all that do are named.
        """
        meta = self.meta
        found = {"rows": meta.rows, "width": meta.width, "dataset": meta.dataset["fingerprint"], "kind": KIND}
        found |= {name: meta.reference[name] for name in ("weights", "tokenizer")} | {
            "reference": meta.reference["name"]
        }
        unknown = sorted(set(expect) - set(found))
        if unknown:
            raise UserError(f"`expect` may have the keys {', '.join(found)}; found {', '.join(unknown)}.")
        difference = describe_difference({name: found[name] for name in expect}, expect)
        if difference:
            raise UserError(
                f"The reference store {self.path} was not made for this:\n{difference}\n"
                f"It holds what {meta.reference['name']!r} says about {meta.dataset['name']!r}. Point to that data, those "
                "weights and that tokenizer, or score again into another folder (`guidestar score RECIPE`)."
            )

    def finished(self, index: int) -> bool:
        """Whether a part is written.

        Args:
            index: The part's number.
        """
        return (self.path / self.meta.parts[index].file).exists()

    def require_complete(self, pairs: ScorablePairs | None = None) -> None:
        """Refuse a store in which parts are missing or damaged.

        Args:
            pairs: The pairs that will be looked up; those of another order or a subset need only be in the parts that
                are there. None: all parts must be there.

        Raises:
            UserError: Rows are missing (the message says how many, and how many parts), or a part is damaged.
        """
        if pairs is not None and pairs.fingerprint() != self.meta.dataset["fingerprint"]:
            from guidestar.reference.embeddings_join import join_pairs

            join_pairs(self, pairs)
            return
        missing = self.missing()
        if missing:
            raise UserError(self.describe_missing(missing))
        for index in range(len(self.meta.parts)):
            self.part(index)  # A file that was cut short is found now, and not after a day of training.

    def missing(self) -> list[int]:
        """The numbers of the parts that are not written."""
        there = set(os.listdir(self.path))
        return [index for index, part in enumerate(self.meta.parts) if part.file not in there]

    def describe_missing(self, missing: list[int]) -> str:
        """What is missing, in words.

        Args:
            missing: Numbers of parts.
        """
        parts = [self.meta.parts[index] for index in missing]
        rows = sum(part.stop - part.start for part in parts)
        return (
            f"The reference store {self.path} is half written: {rows:,} of {len(self):,} rows are missing, "
            f"{len(parts):,} of {len(self.meta.parts):,} parts ({_names(parts)}). "
            "Continue with `guidestar score RECIPE --resume`."
        )

    def part(self, index: int) -> PartFile:
        """A part's file.

        Args:
            index: The part's number.

        Raises:
            UserError: It is missing, damaged, or of another store.
        """
        return self._part(index)

    def by_part(self, rows: np.ndarray) -> Iterator[tuple[PartFile, np.ndarray, np.ndarray]]:
        """The parts that some rows are in.

        Args:
            rows: Row numbers in range, int64 [B].

        Yields:
            A part, which of `rows` are in it, and their positions from the part's first row.
        """
        parts = np.searchsorted(self._starts, rows, side="right") - 1
        for index in np.unique(parts).tolist():
            where = np.flatnonzero(parts == index)
            yield self.part(index), where, rows[where] - self._starts[index]

    def read(self, rows: np.ndarray, captions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Embeddings as they are stored, image [B, d] and text [B, d].

        Args:
            rows: The store's rows, int64 [B].
            captions: Which of a row's captions, int64 [B], from 0.

        Raises:
            UserError: A part is missing or damaged, or a row could not be read when it was scored.
            IndexError: A row or a caption is out of range.
        """
        if rows.size and not 0 <= rows.min() <= rows.max() < len(self):
            raise IndexError(f"`rows` must be between 0 and {len(self) - 1}, found {rows.min()} to {rows.max()}.")
        image = np.empty((len(rows), self.width), dtype=self.meta.dtype)
        text = np.empty_like(image)
        for part, where, positions in self.by_part(rows):
            first, chosen = part.first_caption[positions], captions[where]
            counts = part.first_caption[positions + 1] - first
            if (counts == 0).any():
                raise UserError(
                    f"The reference store {self.path} has no embeddings of rows {name_rows(rows[where[counts == 0]])} (key "
                    f"{part.keys(positions[counts == 0][:1].tolist())[0]!r}): they could not be read when they were "
                    "scored. Repair and score these pairs again, or leave the rows out."
                )
            bad = (chosen < 0) | (chosen >= counts)
            if bad.any():
                raise IndexError(
                    f"`choice` must be less than the number of captions of a row; it is not in rows "
                    f"{name_rows(rows[where[bad]])} (key {part.keys(positions[bad][:1].tolist())[0]!r}, "
                    f"{int(counts[bad][0])} captions, found {int(chosen[bad][0])})."
                )
            image[where], text[where] = part.image[positions], part.text[first + chosen]
        return image, text

    def _changed_parts(self, pairs: ScorablePairs, meta: EmbeddingMeta) -> str:
        """A line on parts whose keys or captions are not those that were scored; only looked at for an error."""
        changed = list[Part]()
        for index, part in enumerate(self.meta.parts):
            same_place = index < len(meta.parts) and meta.parts[index] == part
            if not same_place or (self.finished(index) and self.part(index).fingerprint != _fingerprint(pairs, part)):
                changed.append(part)
            if len(changed) > _SHOWN:
                break
        return f"Changed since they were scored: {_names(changed)}.\n" if changed else ""


def _fingerprint(pairs: ScorablePairs, part: Part) -> str:
    rows = range(part.start, part.stop)
    captions = [pairs.captions(row) for row in rows]
    counts = np.array([len(texts) for texts in captions], dtype=np.int64)
    return part_fingerprint(pairs.keys(rows), counts, hash_keys([text for texts in captions for text in texts]))


def _names(parts: list[Part]) -> str:
    shown = ", ".join(f"{part.name} rows {part.start} to {part.stop - 1}" for part in parts[:_SHOWN])
    return f"{shown}, ..." if len(parts) > _SHOWN else shown


def _first_other(found: tuple[Part, ...], expected: tuple[Part, ...]) -> str:
    left, right = next(pair for pair in zip(found, expected, strict=True) if pair[0] != pair[1])
    return f"{left.name} {left.start} to {left.stop}, expected {right.name} {right.start} to {right.stop}"
