"""The embeddings of one part: a safetensors file that is whole or absent, read through a memory map."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from guidestar.errors import UserError
from guidestar.files import replacing
from guidestar.reference.embeddings_meta import EmbeddingMeta, Part
from guidestar.reference.keys import hash_keys

_TYPES = {"F16": np.dtype("<f2"), "F32": np.dtype("<f4"), "I64": np.dtype("<i8"), "U64": np.dtype("<u8")}
_TYPES["U8"] = np.dtype("uint8")
_MAX_HEADER = 1 << 20  # bytes; a part's header has about a thousand


def write_part(
    folder: Path,
    meta: EmbeddingMeta,
    part: Part,
    *,
    image: np.ndarray,
    text: np.ndarray,
    counts: np.ndarray,
    keys: Sequence[str],
    caption_hashes: np.ndarray,
    image_means: np.ndarray,
) -> None:
    """Write a part's file; it is there as a whole, or not at all.

    Args:
        folder: The store's folder.
        meta: The store's description.
        part: Which rows these are; n of them.
        image: [n, d] in the store's type.
        text: [m, d] in the store's type: the captions of the rows one after the other.
        counts: How many captions each row has, int64 [n], m in all.
        keys: The rows' keys.
        caption_hashes: uint64 [m].
        image_means: float32 [n].

    Raises:
        DiskFull: The disk is full.
    """
    from safetensors.numpy import save

    encoded = [key.encode("utf-8", "surrogateescape") for key in keys]
    tensors = {
        "image": image,
        "text": text,
        "first_caption": _offsets(counts),
        "caption_hash": caption_hashes,
        "key_hash": hash_keys(keys),
        "key_text": np.frombuffer(b"".join(encoded), dtype=np.uint8),
        "first_key_byte": _offsets(np.array([len(key) for key in encoded], dtype=np.int64)),
        "image_mean": image_means,
    }
    about = _about(meta, part) | {"fingerprint": part_fingerprint(keys, counts, caption_hashes)}
    # One entry only: the format does not fix the order of several, and files must not differ between runs.
    content = save(tensors, metadata={"guidestar": json.dumps(about)})
    path = folder / part.file
    for left in folder.glob(f"{part.file}.*.tmp"):
        left.unlink(missing_ok=True)  # of a process that was killed
    with replacing(path) as stream:
        stream.write(content)


def part_fingerprint(keys: Sequence[str], counts: np.ndarray, caption_hashes: np.ndarray) -> str:
    """A hash over the keys and captions of a part.

    Args:
        keys: The rows' keys.
        counts: How many captions each row has, int64 [n].
        caption_hashes: uint64 [m].

    Example:
        >>> part_fingerprint(["a"], np.array([1]), hash_keys(["a cat"]))[:8]
        'a4b9edc6'
    """
    digest = hashlib.sha256()
    for array in (hash_keys(keys), counts.astype("<i8"), caption_hashes):
        digest.update(array.tobytes())
    return digest.hexdigest()


class PartFile:
    """A part's file, open for reading; nothing is read before it is asked for.

    Args:
        folder: The store's folder.
        meta: The store's description.
        part: Which part.

    Attributes:
        image: [n, d] in the stored type.
        text: [m, d] in the stored type.
        first_caption: int64 [n + 1]: row i has the captions first_caption[i] to first_caption[i + 1] - 1.
        caption_hash: uint64 [m].
        key_hash: uint64 [n].
        image_mean: float32 [n].
        fingerprint: A hash over the part's keys and captions.

    Raises:
        UserError: The file is missing, cut short, damaged, belongs to another store, or has embeddings of another width.
    """

    def __init__(self, folder: Path, meta: EmbeddingMeta, part: Part) -> None:
        self._path = folder / part.file
        tensors, about = _open(self._path)
        try:
            self.image, self.text = tensors["image"], tensors["text"]
            self.first_caption, self.caption_hash = tensors["first_caption"], tensors["caption_hash"]
            self.key_hash, self.image_mean = tensors["key_hash"], tensors["image_mean"]
            self._key_text, self._first_key_byte = tensors["key_text"], tensors["first_key_byte"]
            self.fingerprint = str(about["fingerprint"])
        except KeyError as error:
            raise UserError(f"Embedding file {self._path} has no {error}. {_again(self._path)}") from None
        self._check(meta, part, about)

    def keys(self, positions: Sequence[int]) -> list[str]:
        """The keys of some rows of this part.

        Args:
            positions: Row numbers from the part's first row.
        """
        ends = self._first_key_byte
        encoded = [self._key_text[ends[i] : ends[i + 1]].tobytes() for i in positions]
        return [key.decode("utf-8", "surrogateescape") for key in encoded]

    def _check(self, meta: EmbeddingMeta, part: Part, about: dict[str, object]) -> None:
        expected = _about(meta, part)
        wrong = [name for name in expected if about.get(name) != expected[name]]
        if wrong:
            differences = "; ".join(f"`{name}` is {about.get(name)!r}, expected {expected[name]!r}" for name in wrong)
            raise UserError(
                f"Embedding file {self._path} belongs to another store: {differences}. {_again(self._path)}"
            )
        widths = sorted({self.image.shape[-1], self.text.shape[-1]})
        if widths != [meta.width]:
            raise UserError(
                f"Embedding file {self._path} has embeddings of width {' and '.join(map(str, widths))}, but meta.json "
                f"says `width` {meta.width}. {_again(self._path)}"
            )
        rows, captions = part.stop - part.start, len(self.caption_hash)
        shapes = {"image": (rows, meta.width), "text": (captions, meta.width), "first_caption": (rows + 1,)}
        shapes |= {"key_hash": (rows,), "image_mean": (rows,), "_first_key_byte": (rows + 1,)}
        right = all(getattr(self, name).shape == shape for name, shape in shapes.items())
        if not right or str(self.image.dtype) != meta.dtype or self.first_caption[-1] != captions:
            raise UserError(
                f"Embedding file {self._path} should have {rows} rows in {meta.dtype}, found "
                f"{self.image.shape[0]} in {self.image.dtype}, {captions} captions. {_again(self._path)}"
            )


def _about(meta: EmbeddingMeta, part: Part) -> dict[str, object]:
    return {
        "part": part.name,
        "start": part.start,
        "stop": part.stop,
        "weights": meta.reference["weights"],
        "tokenizer": meta.reference["tokenizer"],
        "dataset": meta.dataset["fingerprint"],
        "preprocessing": meta.preprocessing,
    }


def _open(path: Path) -> tuple[dict[str, np.ndarray], dict[str, object]]:
    """The file's tensors as views of one memory map, and what it says about itself."""
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(length, _MAX_HEADER)))
        about = json.loads(header.pop("__metadata__")["guidestar"])
        # One map a file: the number of maps of a process is limited.
        data = np.asarray(np.memmap(path, dtype=np.uint8, mode="r", offset=8 + length))
        end = max(entry["data_offsets"][1] for entry in header.values())
        if end != len(data):
            raise UserError(
                f"Embedding file {path} should have {8 + length + end:,} bytes, found {8 + length + len(data):,}: "
                f"it was cut short or changed. {_again(path)}"
            )
        return {name: _view(data, entry) for name, entry in header.items()}, dict(about)
    except FileNotFoundError:
        raise UserError(f"Embedding file {path} is missing: continue with `guidestar score RECIPE --resume`.") from None
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise UserError(
            f"Embedding file {path} is cut short or damaged ({type(error).__name__}: {error}). {_again(path)}"
        ) from error


def _view(data: np.ndarray, entry: dict[str, list[int]]) -> np.ndarray:
    start, stop = entry["data_offsets"]
    return data[start:stop].view(_TYPES[str(entry["dtype"])]).reshape(entry["shape"])


def _offsets(counts: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(counts, dtype=np.int64)])


def _again(path: Path) -> str:
    return f"Delete {path.name} and continue with `guidestar score RECIPE --resume`; that writes it again."
